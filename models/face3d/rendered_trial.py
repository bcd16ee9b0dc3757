"""The open estimator against truth: heads are rendered with known parameters and estimated again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.face3d.estimator import FaceEstimator, NoFace
from models.face3d.lighting import ambient_light, directional_light, exposure
from models.face3d.maps import ConditionMaps
from models.face3d.morphable import MorphableModel
from models.face3d.open_head import OpenHead, load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.render import geometry, render_maps
from models.face3d.rotations import axis_angle_matrix

__all__ = ["KnownHead", "TrialFigures", "compare", "rendered_heads", "rendered_persons", "summarise"]

Floats = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

_TONES: Final = ((0.86, 0.70, 0.61), (0.72, 0.53, 0.44), (0.58, 0.40, 0.31), (0.42, 0.28, 0.21), (0.30, 0.19, 0.14))
_MOUTH: Final = ("mouthFunnel", "mouthPucker", "mouthFrownLeft", "mouthFrownRight", "mouthRollLower")
_BROWS: Final = ("browInnerUp", "browDownLeft", "browDownRight", "browOuterUpLeft", "browOuterUpRight")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KnownHead:
    """A rendered head and what it was rendered from."""

    image: UInt8Array
    """(256, 256, 3)."""
    parameters: FaceParameters
    maps: ConditionMaps


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFigures:
    """Errors of one head."""

    yaw: float
    """Degrees."""
    normal: float
    """Mean angle in degrees between normals, on pixels that both show as face."""
    light: float
    """Degrees between the directions of strongest light (band 1)."""
    mouth_true: float
    mouth_found: float
    """Opening of the inner lips over the outer-eye distance, both measured on the heads in 3D."""
    tone: float
    """Mean absolute error of the skin's albedo, in [0, 1]."""


def rendered_heads(count: int, seed: int, head: OpenHead | None = None) -> Iterator[KnownHead]:
    """Random heads: identity, yaw up to ±35°, expression, skin tone, coloured light, smooth backgrounds."""
    chosen, rng = head or load_open_head(), np.random.default_rng(seed)
    for _ in range(count):
        yield _known(chosen.model, _random_face(chosen.model, rng), rng)


def rendered_persons(
    count: int, views: int, seed: int, head: OpenHead | None = None
) -> Iterator[tuple[int, KnownHead]]:
    """`views` random pictures of each of `count` identities, with the identity's number."""
    chosen, rng = head or load_open_head(), np.random.default_rng(seed)
    for person in range(count):
        shape = _random_face(chosen.model, rng).shape
        for _ in range(views):
            yield person, _known(chosen.model, _random_face(chosen.model, rng).replaced(shape=shape), rng)


def _known(model: MorphableModel, parameters: FaceParameters, rng: np.random.Generator) -> KnownHead:
    assert model.texture is not None
    tone = np.array(_TONES[int(rng.integers(len(_TONES)))]) * rng.uniform(0.95, 1.05, 3)
    albedo = np.clip(model.texture.mean * (tone / np.array(_TONES[1])), 0, 1)
    parameters = parameters.replaced(albedo=(albedo * 255).astype(np.uint8))
    maps = render_maps(model, parameters)
    picture = np.where(maps.mask[..., None], maps.render, _background(rng))
    noisy = picture * 255 + rng.normal(0, 1.5, picture.shape)
    return KnownHead(image=np.clip(noisy, 0, 255).astype(np.uint8), parameters=parameters, maps=maps)


def _random_face(model: MorphableModel, rng: np.random.Generator) -> FaceParameters:
    names = model.expression_names
    expression = np.zeros(len(names), np.float32)

    def put(names_of_units: Sequence[str], value: float) -> None:
        for name in names_of_units:
            expression[names.index(name)] = value

    if rng.random() < 0.6:
        put(["jawOpen"], float(rng.uniform(0.05, 0.6)))
    if rng.random() < 0.5:
        put(["mouthSmileLeft", "mouthSmileRight"], float(rng.uniform(0.1, 0.8)))
    if rng.random() < 0.25:
        put(["eyeBlinkLeft", "eyeBlinkRight"], float(rng.uniform(0.3, 1.0)))
    put([str(rng.choice(_MOUTH))], float(rng.uniform(0, 0.4)))
    put([str(rng.choice(_BROWS))], float(rng.uniform(0, 0.7)))
    pose = np.zeros(6)
    pose[:3] = np.radians(rng.uniform([-15, -35, -8], [15, 35, 8]))
    direction = rng.normal(size=3) * [1.0, 0.8, 0.4] + [0, 0.3, 0.7]
    light = ambient_light(float(rng.uniform(0.3, 0.7))) + directional_light(direction, float(rng.uniform(0.5, 1.1)))
    light = light * rng.uniform(0.92, 1.08, 3) * (rng.uniform(0.75, 1.1) / exposure(light).mean())
    shape = np.clip(rng.normal(0, 0.7, model.shape_basis.shape[2]), -2, 2)
    camera = np.array([rng.uniform(6.5, 8.0), rng.uniform(-0.01, 0.01), rng.uniform(-0.005, 0.02)])
    return FaceParameters.neutral(model.name, shape=len(shape), expression=len(names)).replaced(
        shape=shape, expression=expression, pose=pose, camera=camera, light=light
    )


def _background(rng: np.random.Generator) -> FloatArray:
    """(256, 256, 3) a smooth random gradient."""
    y, x = np.mgrid[:256, :256] / 255.0
    base, across, down = rng.uniform(0.15, 0.85, 3), rng.uniform(-0.3, 0.3, 3), rng.uniform(-0.3, 0.3, 3)
    return np.asarray(np.clip(base + across * x[..., None] + down * y[..., None], 0, 1))


def compare(estimator: FaceEstimator, known: KnownHead) -> TrialFigures | None:
    """Errors on one head; None where no face was found."""
    try:
        found = estimator.estimate(known.image)
    except NoFace:
        return None
    maps = estimator.maps(found.parameters)
    face = known.maps.mask & maps.mask & _face_region(estimator.model, known.parameters)
    dot = (_unit(known.maps.normal[face]) * _unit(maps.normal[face])).sum(axis=1)
    skin = face & (known.maps.normal[..., 2] > 0.5)
    return TrialFigures(
        yaw=_yaw(found.parameters) - _yaw(known.parameters),
        normal=float(np.degrees(np.arccos(np.clip(dot, -1, 1))).mean()),
        light=_angle(_towards(found.parameters.light), _towards(known.parameters.light)),
        mouth_true=_opening(estimator.model, known.parameters),
        mouth_found=_opening(estimator.model, found.parameters),
        tone=float(np.abs(maps.albedo[skin].mean(axis=0) - known.maps.albedo[skin].mean(axis=0)).mean()),
    )


def summarise(figures: Sequence[TrialFigures]) -> dict[str, float]:
    """Medians and correlations over heads."""
    mouths = np.array([[one.mouth_true, one.mouth_found] for one in figures])
    return {
        "heads": float(len(figures)),
        "yaw error, median degrees": float(np.median([abs(one.yaw) for one in figures])),
        "yaw error, 95 % degrees": float(np.quantile([abs(one.yaw) for one in figures], 0.95)),
        "normal error, median degrees": float(np.median([one.normal for one in figures])),
        "light direction error, median degrees": float(np.median([one.light for one in figures])),
        "mouth opening, correlation": float(np.corrcoef(mouths.T)[0, 1]),
        "mouth opening, mean error": float(np.abs(mouths[:, 0] - mouths[:, 1]).mean()),
        "skin albedo, mean error": float(np.mean([one.tone for one in figures])),
    }


def _opening(model: MorphableModel, parameters: FaceParameters) -> float:
    """Opening of the inner lips in the head's own frame over the outer-eye distance; 0 where they touch or cross."""
    points = geometry(model, parameters.replaced(pose=np.zeros(6, np.float32))).landmarks_world["mesh468"]
    opening = (points[[82, 13, 312], 1] - points[[87, 14, 317], 1]).mean()
    return max(float(opening), 0.0) / float(np.linalg.norm(points[33] - points[263]))


def _face_region(model: MorphableModel, parameters: FaceParameters) -> npt.NDArray[np.bool_]:
    """(256, 256) pixels within the outline of the mesh points."""
    points = geometry(model, parameters).landmarks["mesh468"]
    region = np.zeros((256, 256), np.uint8)
    cv2.fillConvexPoly(region, cv2.convexHull(np.round(points).astype(np.int32)), 1)
    return region > 0


def _yaw(parameters: FaceParameters) -> float:
    forward = axis_angle_matrix(parameters.pose[None, :3])[0][:, 2]
    return float(np.degrees(np.arctan2(forward[0], forward[2])))


def _towards(light: Floats) -> FloatArray:
    return np.asarray(np.asarray(light, np.float64)[1:4].mean(axis=1))


def _angle(one: FloatArray, two: FloatArray) -> float:
    cosine = float(one @ two / max(float(np.linalg.norm(one) * np.linalg.norm(two)), 1e-9))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6), np.float32)
