"""Expressions that a user names and saves, to be applied to many people; below `<root>/expressions/<name>/`."""

import re
from collections.abc import Mapping
from typing import Any

from models.face3d.editing import EXPRESSIONS, FaceEdit
from storage.errors import Conflict
from storage.records import RECORD, commit_record, read_record
from storage.stores import Store

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_FIELDS = ("expressions", "jaw", "expression_vector")


def save_expression(root: Store, name: str, fields: Mapping[str, Any]) -> None:
    """Keep an expression: weights by unit or preset, jaw, and FLAME-style coefficients.

    Raises:
        ValueError: a name that cannot be one, a field that says nothing of an expression, or values out of range.
        Conflict: another expression of that name.
    """
    if not _NAME.fullmatch(name) or name in EXPRESSIONS:
        raise ValueError(
            f"{name!r} cannot name an expression: 1 to 40 lower-case letters, digits and dashes, and not a built-in name"
        )
    if unknown := sorted(set(fields) - set(_FIELDS)):
        raise ValueError(f"{unknown[0]!r} says nothing of an expression: give {', '.join(_FIELDS)}")
    edit = FaceEdit(
        expressions={str(k): float(v) for k, v in fields.get("expressions", {}).items()},
        jaw=float(fields.get("jaw", 0.0)),
        expression_vector=tuple(float(v) for v in fields.get("expression_vector", ())),
    )
    if edit == FaceEdit():
        raise ValueError(f"the expression {name!r} changes nothing: give at least one weight")
    facts = {
        "expressions": dict(edit.expressions), "jaw": edit.jaw, "expression_vector": list(edit.expression_vector),
    }  # fmt: skip
    home = root.child(f"expressions/{name}")
    if commit_record(home, {}, facts).facts != facts:
        raise Conflict(f"{home.uri} holds another expression of that name: remove it first or choose another name")


def saved_expressions(root: Store) -> dict[str, Mapping[str, Any]]:
    """Saved expressions by name."""
    found = {}
    for name in root.folders("expressions/"):
        record = read_record(root.child(f"expressions/{name}"))
        if record is not None:
            found[name] = record.facts
    return found


def remove_expression(root: Store, name: str) -> None:
    """Raises: ValueError where nothing of that name is saved."""
    home = root.child(f"expressions/{name}")
    if not _NAME.fullmatch(name) or home.stat(RECORD) is None:
        raise ValueError(f"no expression {name!r} is saved below {root.uri}")
    home.purge("")
