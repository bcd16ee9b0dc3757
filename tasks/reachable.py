"""Calls to Prefect's API that a run makes for people's eyes: a server that is gone for a while must not end the run."""

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import httpx

from tasks.run_log import say

PATIENCE = 600.0
"""Seconds that the pictures of a finished stage wait for the server to come back."""
FIRST_WAIT, LONGEST_WAIT = 2.0, 20.0
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def unreachable(error: BaseException) -> bool:
    """Whether an error means that the server could not be reached, or was not up yet."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in (502, 503, 504)
    return isinstance(error, httpx.TransportError) or (
        isinstance(error, RuntimeError) and str(error).startswith("Failed to reach API")
    )


def if_reachable(
    call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result | None:
    """The call's result; None, and a line in the log, where the server cannot be reached. For progress."""
    try:
        return call(*arguments, **named)
    except (httpx.HTTPError, RuntimeError) as error:
        if not unreachable(error):
            raise
        say("prefect", f"not told: {type(error).__name__}", call=getattr(call, "__name__", "call"))
        return None


def when_reachable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that is called again, for up to ten minutes, while the server cannot be reached. For results."""

    @functools.wraps(function)
    def patient(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        end, wait = time.monotonic() + PATIENCE, FIRST_WAIT
        while True:
            try:
                return function(*arguments, **named)
            except (httpx.HTTPError, RuntimeError) as error:
                if not unreachable(error) or time.monotonic() > end:
                    raise
                say("prefect", f"waiting for the server: {type(error).__name__}", call=function.__name__)
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    return patient
