"""Which errors a user can act on, and their sentence."""

from prefect.exceptions import ParameterTypeError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from storage.errors import StorageError
from tasks.ray_pool import UnitFailed


def sentence(error: BaseException) -> str | None:
    """One sentence for an error that the user can mend, None for one that is ours (it should keep its traceback)."""
    if isinstance(error, ParameterTypeError) and isinstance(error.__context__, ValidationError):
        error = error.__context__  # Prefect's own sentence leaves the values out
    if isinstance(error, ValidationError):
        return "; ".join(_complaint(one) for one in error.errors())
    if isinstance(error, ParameterTypeError):
        return " ".join(str(error).split())
    if isinstance(
        error, StorageError | UnitFailed | ValueError | FloatingPointError | FileNotFoundError | PermissionError
    ):
        return " ".join(str(error).split())
    return None


def _complaint(one: ErrorDetails) -> str:
    """Parameter, value and what is wrong with it."""
    place, value = ".".join(map(str, one["loc"])), repr(one["input"])
    wrong = one["msg"].removeprefix("Value error, ")
    if wrong.startswith(f"{place}="):
        return wrong
    if one["type"] == "missing":
        return f"{place}: {wrong}"
    return f"{place}={value if len(value) <= 80 else value[:79] + '…'}: {wrong}"
