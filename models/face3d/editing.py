"""Edits of a face: from numbers, from another face's parameters, between two faces, mirrored.

Poses turn about the neck, so a turned head would leave its place in the picture. As in DiffusionRig every
pose edit therefore *re-centres*: it shifts the vertices so that the face's centre (eyes' mean + 0.1 · (mouth
corners' mean − eyes' mean), in the world) stays where it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray

from models.face3d.lighting import light_preset, light_presets, relight
from models.face3d.morphable import MorphableModel, landmark_points, pose_vertices
from models.face3d.parameters import FaceParameters, Floats
from models.face3d.rotations import (
    axis_angle_matrix,
    euler_xyz_matrix,
    interpolate_axis_angle,
    matrix_axis_angle,
)

JAW_OPEN = float(np.radians(30.0))
"""Rotation of a jaw joint that counts as fully open."""

EXPRESSIONS: Mapping[str, Mapping[str, float]] = {
    "smile": {
        "mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "cheekSquintLeft": 0.5, "cheekSquintRight": 0.5,
        "eyeSquintLeft": 0.2, "eyeSquintRight": 0.2, "mouthDimpleLeft": 0.2, "mouthDimpleRight": 0.2,
    },
    "laugh": {
        "mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "jawOpen": 0.4,
        "cheekSquintLeft": 0.7, "cheekSquintRight": 0.7, "eyeSquintLeft": 0.4,
        "eyeSquintRight": 0.4, "mouthUpperUpLeft": 0.4, "mouthUpperUpRight": 0.4,
    },
    "surprise": {
        "browInnerUp": 1.0, "browOuterUpLeft": 0.9, "browOuterUpRight": 0.9, "eyeWideLeft": 0.8,
        "eyeWideRight": 0.8, "jawOpen": 0.5, "mouthFunnel": 0.2,
    },
    "anger": {
        "browDownLeft": 1.0, "browDownRight": 1.0, "noseSneerLeft": 0.5, "noseSneerRight": 0.5,
        "eyeSquintLeft": 0.4, "eyeSquintRight": 0.4, "mouthPressLeft": 0.5, "mouthPressRight": 0.5,
        "mouthFrownLeft": 0.3, "mouthFrownRight": 0.3,
    },
    "sadness": {
        "browInnerUp": 0.8, "mouthFrownLeft": 0.8, "mouthFrownRight": 0.8, "mouthShrugLower": 0.4,
        "eyeSquintLeft": 0.15, "eyeSquintRight": 0.15,
    },
    "disgust": {
        "noseSneerLeft": 0.9, "noseSneerRight": 0.9, "browDownLeft": 0.5, "browDownRight": 0.5,
        "mouthUpperUpLeft": 0.6, "mouthUpperUpRight": 0.6, "mouthFrownLeft": 0.3, "mouthFrownRight": 0.3,
    },
    "blink": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    "wink-left": {"eyeBlinkLeft": 1.0, "cheekSquintLeft": 0.4},
    "wink-right": {"eyeBlinkRight": 1.0, "cheekSquintRight": 0.4},
    "kiss": {"mouthPucker": 1.0},
    "mouth-open": {"jawOpen": 0.7},
}  # fmt: skip
"""Presets as weights of ARKit's units, for models whose units have these names; left is the person's left."""

TAKES = ("pose", "expression", "light", "shape")

_CENTRE_POINTS: Mapping[str, tuple[tuple[slice, slice], tuple[int, int]]] = {
    # landmark set → indices of the right and left eye, of the two mouth corners
    "static51": ((slice(19, 25), slice(25, 31)), (31, 37)),
    "full68": ((slice(36, 42), slice(42, 48)), (48, 54)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceEdit:
    """Changes to one face, all relative to the photograph: an edit of zeros changes nothing."""

    yaw: float = 0.0
    """Degrees; > 0 turns the face to the picture's right."""
    pitch: float = 0.0
    """Degrees; > 0 lifts the chin."""
    roll: float = 0.0
    """Degrees; > 0 tilts the head clockwise, as seen in the picture."""
    jaw: float = 0.0
    """Opening added, 1 being fully open (30° of a jaw joint, or the unit jawOpen)."""
    expressions: Mapping[str, float] = field(default_factory=dict)
    """Weights added, by unit name ("jawOpen"), by preset ("smile") or by a preset of the model's own."""
    expression_vector: tuple[float, ...] = ()
    """Added to the first expression coefficients as they are: FLAME's are unlabelled."""
    shape_vector: tuple[float, ...] = ()
    """Added to the first identity coefficients, in standard deviations: another person's head."""
    light: str | tuple[tuple[float, ...], ...] | None = None
    """Preset name, or (9, 3) coefficients, or None to keep the photograph's light."""
    light_strength: float = 1.0
    """0…1: how far to go from the photograph's light to ``light``."""

    def __post_init__(self) -> None:
        if not isinstance(self.expressions, Mapping):
            raise ValueError(f'expressions = {self.expressions!r} needs the form {{"smile": 0.5}}')
        numbers = {name: getattr(self, name) for name in ("yaw", "pitch", "roll", "jaw", "light_strength")}
        for name, value in [*numbers.items(), *((f"expression {unit}", one) for unit, one in self.expressions.items())]:
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise ValueError(f"{name} = {value!r} is no number")
        for name, bound in (("yaw", 180.0), ("pitch", 180.0), ("roll", 180.0), ("jaw", 1.0)):
            value = getattr(self, name)
            if not abs(value) <= bound:
                raise ValueError(f"{name} = {value} is outside −{bound:g}…{bound:g}")
        for name, weight in self.expressions.items():
            if not abs(weight) <= 10.0:
                raise ValueError(f"expression {name} = {weight} is outside −10…10")
        if not 0.0 <= self.light_strength <= 1.0:
            raise ValueError(f"light_strength = {self.light_strength} is outside 0…1")
        if isinstance(self.light, str):
            light_preset(self.light)
        elif self.light is not None:
            rows = _numbers("light", self.light)
            if rows.shape != (9, 3) or not np.isfinite(rows).all():
                raise ValueError(
                    f"light is a preset of {sorted(light_presets())} or (9, 3) numbers, not {self.light!r}"
                )
            object.__setattr__(self, "light", tuple(tuple(map(float, row)) for row in rows))
        for name in ("expression_vector", "shape_vector"):
            codes = _numbers(name, getattr(self, name))
            if codes.ndim != 1:
                raise ValueError(f"{name} = {getattr(self, name)!r} is no list of numbers")
            if not np.isfinite(codes).all():
                raise ValueError(f"{name} holds NaN or infinity: {tuple(map(float, codes))}")
            object.__setattr__(self, name, tuple(map(float, codes)))
        object.__setattr__(self, "expressions", dict(self.expressions))

    def to_json(self) -> str:
        """A JSON object; :meth:`from_json` gives an equal edit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FaceEdit:
        """Raises ``ValueError`` naming what is not a field of an edit."""
        values = json.loads(text)
        known = {one.name for one in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= known:
            unknown = sorted(set(values) - known) if isinstance(values, dict) else values
            raise ValueError(f"an edit has the fields {sorted(known)}; not {unknown}")
        return cls(**values)


def apply_edit(model: MorphableModel, parameters: FaceParameters, edit: FaceEdit) -> FaceParameters:
    """The edited face, re-centred when its pose changed.

    Raises ``ValueError`` for an expression this model does not know (FLAME's components are unlabelled: it
    has the jaw, ``expression_vector`` and the presets put into ``model.expression_presets``).
    """
    model.check(parameters)
    expression, jaw = _expression(model, parameters, edit)
    pose = parameters.pose.copy()
    pose[3:] += jaw
    light = parameters.light
    if edit.light is not None:
        target = light_preset(edit.light) if isinstance(edit.light, str) else edit.light
        light = relight(parameters.light, target, edit.light_strength).astype(np.float32)
    shape = _added(parameters.shape.astype(np.float64), edit.shape_vector, "shape_vector")
    edited = parameters.replaced(shape=shape, expression=expression, pose=pose, light=light)
    if not (edit.yaw or edit.pitch or edit.roll):
        return edited
    angles = torch.tensor(np.radians([-edit.pitch, edit.yaw, -edit.roll]), dtype=torch.float64)
    turn = euler_xyz_matrix(angles).numpy() @ axis_angle_matrix(edited.pose[:3])
    return turned(model, edited, matrix_axis_angle(turn).astype(np.float32))


def transfer(
    model: MorphableModel,
    source: FaceParameters,
    driver: FaceParameters,
    take: Collection[str] = frozenset({"pose", "expression", "light"}),
) -> FaceParameters:
    """The source face as the driver has it: ``take`` of pose, expression (jaw included), light, shape."""
    unknown = set(take) - set(TAKES)
    if unknown:
        raise ValueError(f"cannot take {sorted(unknown)}; a driver gives {TAKES}")
    model.check(source)
    model.check(driver)
    out = source
    if "shape" in take:
        out = out.replaced(shape=driver.shape)
    if "expression" in take:
        out = out.replaced(expression=driver.expression, pose=np.concatenate([out.pose[:3], driver.pose[3:]]))
    if "light" in take:
        out = out.replaced(light=driver.light)
    if "pose" in take:
        out = turned(model, out, driver.pose[:3])
    return out


def turned(model: MorphableModel, parameters: FaceParameters, rotation: Floats) -> FaceParameters:
    """The face with another global rotation (axis-angle (3,)), its centre kept in place by ``shift``."""
    pose = np.concatenate([np.asarray(rotation, np.float32), parameters.pose[3:]])
    moved = parameters.replaced(pose=pose)
    shift = parameters.shift + (face_centre(model, parameters) - face_centre(model, moved))
    return moved.replaced(shift=shift)


def face_centre(model: MorphableModel, parameters: FaceParameters) -> Floats:
    """(3,) world point that pose edits keep in place: eyes + 0.1 · (mouth corners − eyes)."""
    for name, (eyes, mouth) in _CENTRE_POINTS.items():
        if name in model.landmarks:
            points = landmark_points(model, pose_vertices(model, [parameters])[0], name)
            eye = 0.5 * (points[eyes[0]].mean(axis=0) + points[eyes[1]].mean(axis=0))
            corners = points[list(mouth)].mean(axis=0)
            return np.asarray(eye + 0.1 * (corners - eye), np.float32)
    raise ValueError(f"re-centring needs one of the landmark sets {sorted(_CENTRE_POINTS)}; {model.name} has none")


def _expression(model: MorphableModel, parameters: FaceParameters, edit: FaceEdit) -> tuple[Floats, Floats]:
    """Edited expression coefficients (E,) and the jaw's added axis-angle (3,)."""
    expression = parameters.expression.astype(np.float64)
    jaw = 0.0
    units = dict(edit.expressions)
    if edit.jaw:
        units["jaw"] = units.get("jaw", 0.0) + edit.jaw
    for name, weight in units.items():
        change, opening = _direction(model, name)
        expression += weight * change
        jaw += weight * opening
    expression = _added(expression, edit.expression_vector, "expression_vector")
    if model.expression_bounds is not None:
        expression = np.clip(expression, *model.expression_bounds)
    current = float(parameters.pose[3])
    limited = float(np.clip(current + jaw * JAW_OPEN, min(current, 0.0), max(current, JAW_OPEN)))
    return expression.astype(np.float32), np.array([limited - current, 0.0, 0.0], np.float32)


def _numbers(name: str, value: object) -> NDArray[np.float64]:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} = {value!r} is not made of numbers") from error


def _added(codes: NDArray[np.float64], vector: tuple[float, ...], name: str) -> NDArray[np.float64]:
    if len(vector) > len(codes):
        raise ValueError(f"{name} has {len(vector)} numbers; this model has {len(codes)} coefficients")
    return np.asarray(codes + np.pad(vector, (0, len(codes) - len(vector))), np.float64)


def _direction(model: MorphableModel, name: str) -> tuple[NDArray[np.float64], float]:
    """What one unit of a named expression adds to the coefficients (E,) and to the jaw's opening."""
    change = np.zeros(model.expression_basis.shape[2])
    if name in model.expression_presets:
        return model.expression_presets[name].astype(np.float64), 0.0
    units = {"jawOpen": 1.0} if name == "jaw" else EXPRESSIONS.get(name, {name: 1.0})
    opening = 0.0
    for unit, weight in units.items():
        if unit in model.expression_names:
            change[model.expression_names.index(unit)] += weight
        elif unit == "jawOpen" and model.jaw is not None:
            opening += weight
        else:
            raise ValueError(f"the model {model.name!r} cannot do {name!r} for want of {unit!r}; {_can_do(model)}")
    return change, opening


def possible(model: MorphableModel, edit: FaceEdit) -> bool:
    """Whether a model has every expression that an edit names."""
    try:
        for name in edit.expressions:
            _direction(model, name)
    except ValueError:
        return False
    return True


def _can_do(model: MorphableModel) -> str:
    """The expressions a model has, in words: presets first, then single units."""
    units = {*model.expression_names} | ({"jawOpen"} if model.jaw is not None else set())
    presets = sorted({*model.expression_presets, *(name for name, parts in EXPRESSIONS.items() if units >= set(parts))})
    single = sorted(model.expression_names) or ["jaw"]
    return f"expressions are {', '.join(presets) or 'none'}; single units {', '.join(single)}"


# -- between faces -------------------------------------------------------------------------------------------


def interpolate(start: FaceParameters, end: FaceParameters, weight: float) -> FaceParameters:
    """From start (0) to end (1) of one model: rotations along the shortest turn, all else linearly."""
    if start.model != end.model:
        raise ValueError(f"cannot interpolate between the models {start.model!r} and {end.model!r}")
    if start.in_crop != end.in_crop:
        raise ValueError("cannot interpolate between parameters of a crop and parameters of a picture")

    def mixed(name: str) -> Floats:
        first, second = getattr(start, name).astype(np.float64), getattr(end, name).astype(np.float64)
        if first.shape != second.shape:
            raise ValueError(f"{name} has {first.size} and {second.size} numbers: the faces are of unlike models")
        return np.asarray((1.0 - weight) * first + weight * second, np.float32)

    names = ("shape", "expression", "camera", "light", "texture", "shift", "tform")
    pose = [interpolate_axis_angle(start.pose[part], end.pose[part], weight) for part in (slice(0, 3), slice(3, 6))]
    albedo = start.albedo if weight < 0.5 else end.albedo
    if start.albedo is not None and end.albedo is not None and start.albedo.shape == end.albedo.shape:
        blended = (1.0 - weight) * start.albedo.astype(np.float64) + weight * end.albedo.astype(np.float64)
        albedo = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
    return start.replaced(pose=np.concatenate(pose), albedo=albedo, **{name: mixed(name) for name in names})
