"""What a picture shows of a person: expression, pose, light, background and camera; and the edits of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from models.face3d.align import ffhq_geometry
from models.face3d.editing import FaceEdit, apply_edit
from models.face3d.head_view import FRAME_SIZE, HeadView
from models.face3d.lighting import ambient_light, directional_light, exposure
from models.face3d.mesh_topology import LANDMARKS_68
from models.face3d.morphable import landmark_points, pose_vertices
from models.face3d.open_head import OpenHead, load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.rotations import euler_xyz_matrix, matrix_axis_angle
from models.portraits.people import Person
from models.rng import numpy_generator

__all__ = ["MAX_YAW", "YAW", "Scene", "edited", "scene_of", "scene_parameters", "start_parameters"]

FloatArray = npt.NDArray[np.float64]
Generator = np.random.Generator
Light = tuple[tuple[float, float, float], ...]

YAW: Final = 38.0
"""Degrees that heads are turned by at most, unless a wider population is asked for; as far as most photographs go."""
MAX_YAW: Final = 75.0
"""Degrees, of the widest population: beyond, the far half of the face is out of sight."""
_PAIRS: Final = ("Left", "Right")
# Where the mesh network finds the eyes and the mouth of portraits, as shares of the distances between them: measured
# on 120 portraits, whose eyes it sees 5 % nearer to each other than the head's own points.
_EYES_NEARER: Final = 0.053
_MOUTH_NEARER: Final = 0.016


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture that could be taken of anybody. Scenes are values: equal ones give equal pictures."""

    yaw: float
    """Degrees, > 0 towards the picture's right."""
    pitch: float
    """Degrees, > 0 lifts the chin."""
    roll: float
    """Degrees that remain after alignment, > 0 clockwise in the picture."""
    body: float
    """Degrees the shoulders are turned."""
    units: tuple[tuple[str, float], ...]
    """Expression units and weights in [0, 1]."""
    light: Light
    """(9, 3) spherical harmonics."""
    offset: tuple[float, float, float]
    """How far the framing is off FFHQ's: right and down in shares of the picture, and size (1: exact)."""
    background: str
    """gradient, blobs, shapes, wall, scene."""
    blur: float
    """Pixels at 256 (Gaussian sigma) of the camera's softness."""
    noise: float
    """Standard deviation of the camera's noise in 0…255."""
    vignette: float
    """Share of brightness lost in the corners."""
    seed: int
    """Of the background."""
    grain: int
    """Seed of the noise."""
    edits: tuple[FaceEdit, ...] = ()
    """Applied one after another by models.face3d.editing.apply_edit."""


def scene_of(seed: int, person: int, picture: int, *, yaw: float = YAW) -> Scene:
    """The scene `picture` (from 0) of the person `person` of the population `seed`; drawn for itself.

    All pictures of a person are one sitting: background, body and camera stay, so that what an edit keeps can be
    learned from two of them. `yaw` is how far heads turn at most, in degrees; all else is the same for any of it.

    Raises:
        ValueError: a yaw outside 1…75.
    """
    if not 1 <= yaw <= MAX_YAW:
        raise ValueError(f"heads turn by at most 1 to {MAX_YAW:g} degrees, not {yaw:g}")
    rng = numpy_generator("portraits", seed, person, picture, "scene")
    sitting = numpy_generator("portraits", seed, person, "sitting")
    turned = float(np.clip(rng.normal(0, 17) * (yaw / YAW), -yaw, yaw))
    return Scene(
        yaw=round(turned, 2),
        pitch=round(float(np.clip(rng.normal(0, 6.5), -15, 15)), 2),
        roll=round(float(np.clip(rng.normal(0, 1.2), -3, 3)), 2),
        body=round(float(np.clip(sitting.normal(0, 14), -35, 35)), 2),
        units=_units(rng),
        light=_light(rng),
        offset=(
            round(float(rng.normal(0, 0.006)), 4),
            round(float(rng.normal(0, 0.006)), 4),
            round(float(1 + rng.normal(0, 0.012)), 4),
        ),
        background=str(sitting.choice(["gradient", "blobs", "shapes", "wall", "scene"], p=[0.2, 0.25, 0.2, 0.15, 0.2])),
        blur=round(float(sitting.uniform(0.0, 0.7)), 3),
        noise=round(min(float(sitting.gamma(2.0, 0.85)), 5.0), 3),
        vignette=round(float(sitting.beta(1, 4) * 0.4), 3),
        seed=int(sitting.integers(2**31)),
        grain=int(rng.integers(2**31)),
    )


def edited(scene: Scene, edit: FaceEdit) -> Scene:
    """The same scene after an edit: background, clothes and camera stay.

    `render_portrait(person, edited(scene, edit))` has the parameters
    `apply_edit(model, render_portrait(person, scene).parameters, edit)`.
    """
    return replace(scene, edits=(*scene.edits, edit))


def scene_parameters(person: Person, scene: Scene, albedo: npt.NDArray[np.uint8] | None = None) -> FaceParameters:
    """The exact parameters of a person in a scene, its edits applied; `albedo` is the person's UV picture."""
    parameters = start_parameters(person, scene, albedo)
    for edit in scene.edits:
        parameters = apply_edit(load_open_head().model, parameters, edit)
    return parameters


def start_parameters(person: Person, scene: Scene, albedo: npt.NDArray[np.uint8] | None = None) -> FaceParameters:
    """The parameters before any edit, with the camera that frames the face as FFHQ would."""
    head = load_open_head()
    model = head.model
    expression = np.zeros(len(model.expression_names), np.float32)
    for name, weight in scene.units:
        expression[model.expression_names.index(name)] = weight
    turn = euler_xyz_matrix(torch.tensor(np.radians([-scene.pitch, scene.yaw, 0.0]), dtype=torch.float64)).numpy()
    bare = FaceParameters.neutral(model.name, shape=len(person.shape), expression=len(expression)).replaced(
        shape=np.array(person.shape), expression=expression, light=np.array(scene.light), albedo=albedo
    )
    points = landmark_points(model, pose_vertices(model, [bare])[0], "mesh468").astype(np.float64)
    rotation, view = _framed(head, points, turn, scene)
    pose = np.concatenate([matrix_axis_angle(rotation), np.zeros(3)])
    half = FRAME_SIZE / 2
    return bare.replaced(pose=pose, camera=np.array([view.scale / half, view.tx, view.ty]))


def _framed(head: OpenHead, points: FloatArray, turn: FloatArray, scene: Scene) -> tuple[FloatArray, HeadView]:
    """Rotation and view under which the mesh network's 68 points call for no further alignment.

    `points` (468, 3) at rest. The network's points are not where the surface is (`landmark_depth`), and the alignment
    goes by the network's points, so they are framed.
    """
    rows = list(LANDMARKS_68)
    depth = head.landmark_depth[rows].astype(np.float64)
    rotation, view = turn, HeadView(turn, 7.0 * FRAME_SIZE / 2, 0.0, -0.025)
    for _ in range(3):
        seen = _as_found(HeadView(rotation, view.scale, view.tx, view.ty).project(points[rows], depth))
        square = ffhq_geometry(seen, FRAME_SIZE, FRAME_SIZE, FRAME_SIZE)
        angle = np.arctan2(square.x[1], square.x[0]) - np.radians(scene.roll)
        cosine, sine = np.cos(angle), np.sin(angle)
        # Pixels run down, so turning the picture by −angle turns the world by +angle about z.
        rotation = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]) @ rotation
        scale = view.scale * FRAME_SIZE / square.qsize * scene.offset[2]
        seen = _as_found(HeadView(rotation, scale, view.tx, view.ty).project(points[rows], depth))
        centre = ffhq_geometry(seen, FRAME_SIZE, FRAME_SIZE, FRAME_SIZE).c
        want = FRAME_SIZE * (0.5 + np.array(scene.offset[:2]))
        tx = view.tx + (want[0] - centre[0]) / scale
        ty = view.ty - (want[1] - centre[1]) / scale
        view = HeadView(rotation, scale / scene.offset[2], tx, ty)
    return rotation, HeadView(rotation, view.scale * scene.offset[2], view.tx, view.ty)


def _as_found(points68: FloatArray) -> FloatArray:
    """The 68 points (68, 2) as the landmarker is expected to find them in a portrait."""
    found = points68.copy()
    across = found[42:48].mean(axis=0) - found[36:42].mean(axis=0)
    found[36:42] += across * (_EYES_NEARER / 2)
    found[42:48] -= across * (_EYES_NEARER / 2)
    found[48:] -= _MOUTH_NEARER * (found[[48, 54]].mean(axis=0) - found[36:48].mean(axis=0))
    return found


# -- drawing -------------------------------------------------------------------------------------------------


@cache
def _expressions() -> tuple[tuple[float, dict[str, tuple[float, float]]], ...]:
    """(share, unit → range) of the kinds of faces people make; a unit without side means both."""
    return (
        (0.26, {}),
        (0.16, {"mouthSmile": (0.25, 0.75), "cheekSquint": (0.1, 0.5)}),
        (0.18, {"mouthSmile": (0.5, 1.0), "jawOpen": (0.05, 0.3), "cheekSquint": (0.3, 0.7), "eyeSquint": (0.1, 0.4),
                "mouthUpperUp": (0.1, 0.4)}),
        (0.12, {"jawOpen": (0.15, 0.7)}),
        (0.07, {"browInnerUp": (0.4, 1.0), "browOuterUp": (0.4, 0.9), "eyeWide": (0.3, 0.8), "jawOpen": (0.2, 0.6)}),
        (0.07, {"browDown": (0.4, 1.0), "mouthPress": (0.1, 0.6), "noseSneer": (0.1, 0.5), "eyeSquint": (0.1, 0.4)}),
        (0.06, {"mouthFrown": (0.3, 0.9), "browInnerUp": (0.2, 0.8), "mouthShrugLower": (0.1, 0.5)}),
        (0.05, {"mouthPucker": (0.3, 1.0)}),
        (0.03, {"eyeBlink": (0.7, 1.0)}),
    )  # fmt: skip


def _units(rng: Generator) -> tuple[tuple[str, float], ...]:
    names = load_open_head().model.expression_names
    kinds = _expressions()
    kind = kinds[int(rng.choice(len(kinds), p=[share for share, _ in kinds]))][1]
    weights: dict[str, float] = {}

    def put(name: str, weight: float) -> None:
        sides = [name] if name in names else [name + side for side in _PAIRS]
        for side in sides:
            uneven = 1.0 if len(sides) == 1 else float(np.clip(rng.normal(1, 0.08), 0.7, 1.3))
            weights[side] = float(np.clip(weights.get(side, 0.0) + weight * uneven, 0, 1))

    for name, (low, high) in kind.items():
        put(name, float(rng.uniform(low, high)))
    for name in (
        "browInnerUp",
        "browDown",
        "eyeSquint",
        "mouthStretch",
        "mouthRollLower",
        "mouthShrugUpper",
        "noseSneer",
    ):
        if rng.random() < 0.25:
            put(name, float(rng.uniform(0, 0.3)))
    if rng.random() < 0.5:
        put("eyeBlink", float(rng.uniform(0.0, 0.22)))
    across, down = rng.normal(0, 0.22), rng.normal(0, 0.15)
    gaze = {
        "eyeLookOutLeft": across, "eyeLookInRight": across, "eyeLookInLeft": -across, "eyeLookOutRight": -across,
        "eyeLookDownLeft": down, "eyeLookDownRight": down, "eyeLookUpLeft": -down, "eyeLookUpRight": -down,
    }  # fmt: skip
    weights |= {name: float(min(value, 0.6)) for name, value in gaze.items() if value > 0}
    return tuple(sorted((name, round(value, 3)) for name, value in weights.items() if value > 0.01))


def _light(rng: Generator) -> Light:
    """Ambient light, a key from the front half, often a fill or a rim, each with its colour."""
    light = ambient_light(float(rng.uniform(0.3, 0.7))) * _tint(rng, 0.09)
    azimuth, height = rng.normal(0, 55), rng.normal(25, 20)
    light = light + directional_light(_towards(azimuth, height), float(rng.uniform(0.35, 1.0))) * _tint(rng, 0.12)
    if rng.random() < 0.4:
        light = light + directional_light(_towards(-azimuth, rng.normal(5, 15)), float(rng.uniform(0.1, 0.35))) * _tint(
            rng, 0.2
        )
    if rng.random() < 0.3:
        side = rng.choice([-1, 1]) * rng.uniform(110, 160)
        light = light + directional_light(_towards(side, rng.uniform(0, 40)), float(rng.uniform(0.2, 0.6))) * _tint(
            rng, 0.25
        )
    light = light * (rng.uniform(0.9, 1.15) / exposure(light).mean())
    rows = np.round(light, 5)
    return tuple((float(row[0]), float(row[1]), float(row[2])) for row in rows)


def _tint(rng: Generator, strength: float) -> FloatArray:
    warm = rng.normal(0, strength)
    return np.asarray(np.clip(np.array([1 + warm, 1 + 0.15 * rng.normal(0, strength), 1 - warm]), 0.5, 1.6))


def _towards(azimuth: float, height: float) -> FloatArray:
    """Direction in the world: azimuth 0 from the camera, 90 from the picture's right; height above the horizon."""
    a, h = np.radians(azimuth), np.radians(np.clip(height, -60, 80))
    return np.array([np.sin(a) * np.cos(h), np.sin(h), np.cos(a) * np.cos(h)])
