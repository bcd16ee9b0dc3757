"""A picture for people: what the estimator made of each photograph, one row a face."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.face3d.estimator import FaceEstimate, FaceEstimator
from models.face3d.lighting import light_preset, relight
from models.face3d.maps import ConditionMaps

__all__ = ["COLUMNS", "contact_sheet", "geometry_overlay", "landmark_picture"]

Floats = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

COLUMNS: Final = (
    "photograph", "landmarks", "geometry", "normals", "albedo", "render", "in place", "light left", "light right",
)  # fmt: skip
_FOUND: Final = (60, 220, 60)
_FITTED: Final = (235, 60, 60)
_HEADER: Final = 22


def contact_sheet(
    estimator: FaceEstimator, faces: Sequence[tuple[UInt8Array, FaceEstimate]], *, size: int = 256
) -> UInt8Array:
    """(H, W, 3) RGB: a header and a row of nine pictures a face.

    Args:
        faces: aligned photographs uint8 (256, 256, 3) and what the estimator said of them.
        size: side of each picture.
    """
    if not faces:
        raise ValueError("a contact sheet needs at least one face")
    rows = [_header(size)]
    for image, estimate in faces:
        row = _row(estimator, image, estimate)
        rows.append(np.hstack([cv2.resize(one, (size, size), interpolation=cv2.INTER_AREA) for one in row]))
    return np.vstack(rows)


def _header(size: int) -> UInt8Array:
    bar = np.full((_HEADER, size * len(COLUMNS), 3), 24, np.uint8)
    for number, name in enumerate(COLUMNS):
        where = (number * size + 6, _HEADER - 7)
        cv2.putText(bar, name, where, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (220, 220, 220), 1, cv2.LINE_AA)
    return bar


def _row(estimator: FaceEstimator, image: UInt8Array, estimate: FaceEstimate) -> list[UInt8Array]:
    parameters = estimate.parameters
    maps = estimator.maps(parameters)
    lit = [
        estimator.maps(parameters.replaced(light=relight(parameters.light, light_preset(side)).astype(np.float32)))
        for side in ("left", "right")
    ]
    render = _bytes(maps.render)
    return [
        image,
        landmark_picture(image, estimate),
        geometry_overlay(image, maps),
        _bytes(np.asarray((maps.normal + 1) / 2 * maps.mask[..., None], np.float32)),
        _bytes(maps.albedo),
        render,
        np.where(maps.mask[..., None], render, image),
        *(_bytes(one.render) for one in lit),
    ]


def landmark_picture(image: UInt8Array, estimate: FaceEstimate) -> UInt8Array:
    """The photograph with detected points in green and fitted points in red."""
    picture = image.copy()
    for points, colour in ((estimate.detected, _FOUND), (estimate.fitted, _FITTED)):
        for x, y in points:
            cv2.circle(picture, (round(float(x) * 8), round(float(y) * 8)), 7, colour, -1, cv2.LINE_AA, 3)
    return picture


def geometry_overlay(image: UInt8Array, maps: ConditionMaps) -> UInt8Array:
    """The photograph with the gray head half-transparent in its place."""
    gray = np.clip(maps.normal @ np.array([-0.30, 0.40, 0.85], np.float32), 0, 1)[..., None]
    mixed = image * 0.42 + gray * 255 * 0.58
    return np.where(maps.mask[..., None], mixed, image).astype(np.uint8)


def _bytes(picture: Floats) -> UInt8Array:
    return np.asarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
