"""What a person asks of edit-identity, in JSON → typed edits: single ones, sweeps, drivers, saved expressions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.face3d.editing import FaceEdit

GRID: tuple[Mapping[str, Any], ...] = (
    {"name": "as photographed"},
    {"name": "turn left", "yaw": -25.0},
    {"name": "turn right", "yaw": 25.0},
    {"name": "look up", "pitch": 15.0},
    {"name": "smile", "expressions": {"smile": 1.0}},
    {"name": "mouth open", "expressions": {"mouth-open": 1.0}},
    {"name": "surprise", "expressions": {"surprise": 1.0}},
    {"name": "light from left", "light": "left"},
    {"name": "light from right", "light": "right"},
    {"name": "light from above", "light": "above"},
    {"name": "turn, smile, light", "yaw": 15.0, "expressions": {"smile": 0.8}, "light": "left"},
)
"""What a person wants to see first."""
GRID_WITHOUT_NAMES: tuple[Mapping[str, Any], ...] = (
    *(one for one in GRID if one["name"] not in ("smile", "surprise", "turn, smile, light")),
    {"name": "mouth a little open", "expressions": {"mouth-open": 0.4}},
    {"name": "turn, speak, light", "yaw": 15.0, "expressions": {"mouth-open": 0.6}, "light": "left"},
)
"""The same for FLAME, whose expressions have no names."""
SWEPT = ("yaw", "pitch", "roll", "jaw", "light_strength")
MOST_FRAMES = 240
"""Of one sweep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedEdit:
    name: str
    edit: FaceEdit
    frame: int | None = None
    """Take pose, expression or light from this driver photograph first."""
    sweep: str | None = None
    """The film this picture belongs to."""


def parse_edits(
    edits: Sequence[Mapping[str, Any]] | None,
    *,
    drivers: Sequence[str] = (),
    saved: Mapping[str, Mapping[str, Any]] | None = None,
    grid: Sequence[Mapping[str, Any]] = GRID,
) -> tuple[NamedEdit, ...]:
    """Edits as a flow gets them (JSON) → typed; None is the `grid`, or nothing beside driver frames.

    An edit has the fields of `FaceEdit` and a `name`. `"sweep": {"yaw": [-25, 25]}` with `"frames": 9` makes it a film:
    the fields named go from the first value to the last. `"expression": "grin"` adds an expression of `saved`.
    `drivers` are the names of driver photographs: one edit each, a film where there are several.

    Raises:
        ValueError: a field that is none of an edit's, a value out of its range, a name given twice, no edit at all.
    """
    named: list[NamedEdit] = []
    asked = (grid if len(drivers) <= 1 else ()) if edits is None else edits
    for number, values in enumerate(asked):
        fields = _with_saved(dict(values), saved or {})
        name = str(fields.pop("name", f"edit {number}"))
        named += _sweep(name, fields) if "sweep" in fields else [NamedEdit(name=name, edit=_face_edit(fields))]
    film = "as the driver" if len(drivers) > 1 else None
    for frame in range(len(drivers)):
        name = f"as the driver {frame:03d}" if film else "as the driver"
        named.append(NamedEdit(name=name, edit=FaceEdit(), frame=frame, sweep=film))
    names = [one.name for one in named]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two edits are named {repeated[0]!r}: give each its own name")
    if not named:
        raise ValueError("no edit was asked for: give at least one, or leave edits out for a grid")
    return tuple(named)


def _face_edit(fields: Mapping[str, Any]) -> FaceEdit:
    if fields.get("light") is None and fields.get("light_strength", 1.0) != 1.0:
        raise ValueError(f"light_strength = {fields['light_strength']!r} needs a light to go to: give light too")
    return FaceEdit.from_json(json.dumps(fields))


def _with_saved(fields: dict[str, Any], saved: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Fields with a saved expression added: its weights and its jaw add to those given."""
    if "expression" not in fields:
        return fields
    name = fields.pop("expression")
    if not isinstance(name, str) or name not in saved:
        known = ", ".join(sorted(saved)) or "none yet; `instaface expressions save` makes one"
        raise ValueError(f"expression={name!r} is not saved here: {known}")
    found = saved[name]
    weights = dict(found.get("expressions", {}))
    for unit, weight in _weights(fields).items():
        weights[unit] = weights.get(unit, 0.0) + _number(f"expression {unit}", weight)
    fields["expressions"] = weights
    if found.get("jaw"):
        fields["jaw"] = _number("jaw", fields.get("jaw", 0.0)) + found["jaw"]
    if found.get("expression_vector"):
        if fields.get("expression_vector"):
            raise ValueError(f"expression={name!r} has an expression_vector, and the edit gives another: leave one out")
        fields["expression_vector"] = found["expression_vector"]
    return fields


def _weights(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The expressions of an edit by name."""
    weights = fields.get("expressions", {})
    if not isinstance(weights, dict):
        raise ValueError(f'expressions={weights!r} needs the form {{"smile": 0.5}}')
    return weights


def _number(what: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{what} = {value!r} is no number")
    return float(value)


def _sweep(name: str, fields: dict[str, Any]) -> list[NamedEdit]:
    asked, frames = fields.pop("sweep"), fields.pop("frames", 9)
    if not isinstance(frames, int) or isinstance(frames, bool) or not 2 <= frames <= MOST_FRAMES:
        raise ValueError(f"frames={frames!r}: a sweep has 2 to {MOST_FRAMES} frames")
    if not isinstance(asked, dict) or not asked:
        raise ValueError(f'sweep={asked!r} needs the form {{"yaw": [-25, 25]}}')
    ranges = dict(asked)
    made = []
    if unknown := sorted(set(ranges) - {*SWEPT, "expressions"}):
        raise ValueError(f"sweep of {unknown[0]!r}: choose among {', '.join(SWEPT)} and expressions")
    units = ranges.pop("expressions", {})
    if not isinstance(units, dict):
        raise ValueError(f'sweep expressions={units!r} needs the form {{"smile": [0, 1]}}')
    if twice := sorted({*ranges} & {*fields} | {*units} & {*_weights(fields)}):
        raise ValueError(f"{twice[0]} is swept and given as a number too (also by a saved expression): leave one out")
    for frame in range(frames):
        share = frame / (frames - 1)
        values = dict(fields) | {key: _between(f"sweep {key}", ends, share) for key, ends in ranges.items()}
        swept = {unit: _between(f"sweep expressions {unit}", ends, share) for unit, ends in units.items()}
        values["expressions"] = {**_weights(fields), **swept}
        made.append(NamedEdit(name=f"{name} {frame:03d}", edit=_face_edit(values), sweep=name))
    return made


def _between(what: str, ends: object, share: float) -> float:
    pair = list(ends) if isinstance(ends, list | tuple) else []
    if len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
        raise ValueError(f"{what} is {ends!r}: give the first value and the last, for example [-25, 25]")
    first, last = pair
    return float(first + (last - first) * share)
