"""Prefect's forms describe a parameter by the docstring's Args section and ignore what its Annotated type says."""

import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_type_hints

from pydantic.fields import FieldInfo

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def documented(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Gives a flow's docstring the Args section that its types describe. Below `@flow`.

    Raises:
        TypeError: a parameter without a description, so that no form has one.
    """
    lines = []
    for name, hint in get_type_hints(function, include_extras=True).items():
        if name == "return":
            continue
        described = [one.description for one in _fields(hint) if one.description]
        if not described:
            raise TypeError(f"{function.__name__}({name}) has no Field(description=…) for the form in Prefect's UI")
        lines.append(f"    {name}: {' '.join(described[0].split())}")
    if lines:
        function.__doc__ = f"{inspect.getdoc(function) or ''}\n\nArgs:\n" + "\n".join(lines) + "\n"
    return function


def _fields(hint: object) -> list[FieldInfo]:
    """Of `Annotated[T, Field(…)]`, also inside of `… | None`."""
    found = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, FieldInfo)]
    return found or [field for inner in getattr(hint, "__args__", ()) for field in _fields(inner)]
