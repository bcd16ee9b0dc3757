"""What a dataset is made of: pose, expression, light, skin, brightness and fit of its rows, measured from what is stored."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.face3d.lighting import sh_basis
from models.face3d.morphable import MorphableModel
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FRAME, FaceParameters
from models.face3d.render import geometry
from models.face3d.rotations import axis_angle_matrix
from models.images import decode_png
from tasks.array_bytes import from_npy
from tasks.earlier_rows import IN_ORDER
from tasks.extract import MIRRORED
from tasks.generation import Generation

MOST_ROWS = 5000
"""Rows that are measured; of larger datasets as many, chosen by a stable hash."""
# Mesh points of both cheeks, away from eyes, nose and beard lines.
_CHEEKS = (50, 101, 36, 280, 330, 266)
_OUTER_EYES = (33, 263)
_SKIN_CLASSES = ((55.0, "very light"), (41.0, "light"), (28.0, "intermediate"), (10.0, "tan"), (-30.0, "brown"))
_XYZ_OF_SRGB = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175],
                         [0.0193339, 0.119192, 0.9503041]])  # fmt: skip
_WHITE = np.array([0.95047, 1.0, 1.08883])


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """Figures of one row."""

    key: str
    yaw: float
    """Degrees, positive where the face is turned to the image's right."""
    pitch: float
    """Degrees, positive where it looks up."""
    expression: Mapping[str, float]
    """Named units that are active at all (open head); empty for models without names."""
    strength: float
    """Root of the summed squares of the expression coefficients."""
    light_azimuth: float
    """Degrees: where most light comes from, positive from the image's right."""
    light_elevation: float
    """Degrees above the horizon."""
    light_contrast: float
    """Difference between the lit and the dark side over their sum; 0 is flat light."""
    tone: float
    """Individual typology angle of the cheeks' albedo in degrees (Chardon 1991): light skin high, dark skin low."""
    brightness: float
    """Mean luma of the image in [0, 1]."""
    residual: float | None
    """Mean distance between found and fitted mesh points over the outer-eye distance; None for models without a mesh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    faces: Sequence[Face]
    of: int
    """Rows that there are."""
    resolution: Sequence[int]
    """Shorter side of every photograph, pixels."""
    licences: Mapping[str, int]
    splits: Mapping[str, int]
    people: int | None
    """Different people, where the source names them."""
    aligned: int
    """Photographs that came aligned."""
    known: int
    """Photographs that came with exact parameters."""

    def worst(self, count: int) -> list[Face]:
        """The rows whose fit is farthest from the landmarks."""
        rated = [face for face in self.faces if face.residual is not None]
        return sorted(rated, key=lambda face: (-(face.residual or 0.0), face.key))[:count]


def measure(images: Generation, maps: Generation) -> Figures:
    """Figures of a dataset; mirror images are left out."""
    keys = [key for key in maps.reader(["params.npy"]).keys if not key.endswith(MIRRORED)]
    drawn = set(sorted(keys, key=_lot)[:MOST_ROWS])
    chosen = [key for key in keys if key in drawn]  # in the order of the shards
    pictures = images.reader(["image.png", "meta.json"], open_shards=IN_ORDER)
    samples = maps.reader(["params.npy", "albedo.png", "landmarks.npy"], open_shards=IN_ORDER)
    model = load_open_head().model
    faces = [_face(key, pictures.by_key(key)[1], samples.by_key(key)[1], model) for key in chosen]
    metas = [json.loads(sample["meta.json"]) for _, sample in images.reader(["meta.json"], open_shards=IN_ORDER)]
    people = {meta["person"] for meta in metas} - {None}
    return Figures(
        faces=faces, of=len(keys), resolution=[min(meta["height"], meta["width"]) for meta in metas],
        licences=Counter(meta["licence"] or "not stated" for meta in metas),
        splits=Counter(meta["split"] for meta in metas), people=len(people) or None,
        aligned=sum(bool(meta["aligned"]) for meta in metas), known=sum(meta["truth"] is not None for meta in metas),
    )  # fmt: skip


def skin_class(tone: float) -> str:
    """The name of a typology angle."""
    return next((name for least, name in _SKIN_CLASSES if tone > least), "dark")


def fitted_mesh(sample: Mapping[str, bytes], size: int) -> NDArray[np.float32] | None:
    """(468, 2) mesh points of the fitted head in the pixels of an image of `size`; None for models without a mesh."""
    parameters, model = FaceParameters.from_npy(sample["params.npy"]), load_open_head().model
    if parameters.model != model.name:
        return None
    points = geometry(model, parameters).landmarks["mesh468"] * (size / FRAME[0])
    return np.asarray(points, np.float32)


def _lot(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def _face(key: str, picture: Mapping[str, bytes], sample: Mapping[str, bytes], model: MorphableModel) -> Face:
    parameters = FaceParameters.from_npy(sample["params.npy"])
    image, mesh = decode_png(picture["image.png"]), from_npy(sample["landmarks.npy"])
    forward = axis_angle_matrix(parameters.pose[:3])[:, 2]
    named = parameters.model == model.name
    active = {
        name: round(float(value), 4)
        for name, value in zip(model.expression_names, parameters.expression, strict=False)
        if named and value > 0.05
    }
    azimuth, elevation, contrast = light_direction(parameters.light.astype(np.float64))
    fitted = fitted_mesh(sample, image.shape[0])
    eyes = float(np.linalg.norm(mesh[_OUTER_EYES[0]] - mesh[_OUTER_EYES[1]]))
    return Face(
        key=key,
        yaw=float(np.degrees(np.arctan2(forward[0], forward[2]))),
        pitch=float(np.degrees(np.arcsin(np.clip(forward[1], -1, 1)))),
        expression=active,
        strength=float(np.linalg.norm(parameters.expression)),
        light_azimuth=azimuth,
        light_elevation=elevation,
        light_contrast=contrast,
        tone=typology_angle(_cheeks(decode_png(sample["albedo.png"]), mesh)),
        brightness=float((image @ np.array([0.299, 0.587, 0.114])).mean() / 255),
        residual=None if fitted is None else float(np.linalg.norm(fitted - mesh, axis=1).mean() / max(eyes, 1e-6)),
    )


def light_direction(light: NDArray[np.float64]) -> tuple[float, float, float]:
    """(9, 3) light → azimuth and elevation of its strongest direction in degrees, and contrast in [0, 1]."""
    ends = np.concatenate([np.eye(3), -np.eye(3)])
    shades = np.maximum(sh_basis(ends) @ light, 0).mean(axis=1)
    x, y, z = (shades[:3] - shades[3:]).tolist()
    contrast = float(np.linalg.norm((x, y, z)) / max(shades.sum() / 3, 1e-6))
    azimuth, elevation = np.degrees(np.arctan2(x, z)), np.degrees(np.arctan2(y, np.hypot(x, z)))
    return float(azimuth), float(elevation), min(contrast, 1.0)


def _cheeks(albedo: NDArray[np.uint8], mesh: NDArray[Any]) -> NDArray[np.float64]:
    """(3,) sRGB in [0, 1]: the median around the cheek points."""
    height, width = albedo.shape[:2]
    patches = []
    for x, y in mesh[list(_CHEEKS)]:
        column, row = int(np.clip(x, 3, width - 4)), int(np.clip(y, 3, height - 4))
        patches.append(albedo[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3))
    return np.asarray(np.median(np.concatenate(patches), axis=0) / 255)


def typology_angle(srgb: NDArray[np.float64]) -> float:
    """ITA = atan((L* - 50) / b*) in degrees, of sRGB (3,) in [0, 1] under D65."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    ratio = _XYZ_OF_SRGB @ linear / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    lightness, b = 116 * f[1] - 16, 200 * (f[1] - f[2])
    return float(np.degrees(np.arctan2(lightness - 50, max(b, 1e-6))))
