"""DECA's crop: from 68 landmarks or a detector's box to the 224-pixel picture its networks see."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.face3d.camera import CROP

Doubles = NDArray[np.float64]
Box = Literal["kpt68", "bbox"]

SCALE = 1.25
"""Side of the crop over the size of the face, at inference."""


def landmark_box(landmarks: ArrayLike) -> Doubles:
    """(N, 2) landmarks in pixels → (4,) left, top, right, bottom of the box around them."""
    points = np.asarray(landmarks, np.float64)[:, :2]
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def crop_transform(box: ArrayLike, kind: Box = "kpt68", scale: float = SCALE) -> Doubles:
    """(4,) left, top, right, bottom → (3, 3): picture pixels → crop pixels, as column vectors.

    A square of int(size · scale) around the centre goes to 0…223, where size is (w + h)/2, times 1.1 for
    landmarks; a detector's box is centred 0.12 · size lower. Raises ``ValueError`` for a box without extent.
    """
    left, top, right, bottom = (float(value) for value in np.asarray(box, np.float64))
    if not (right > left and bottom > top):
        raise ValueError(f"the face's box {[left, top, right, bottom]} has no extent")
    size = (right - left + bottom - top) / 2
    x, y = right - (right - left) / 2, bottom - (bottom - top) / 2
    if kind == "kpt68":
        size *= 1.1
    else:
        y += size * 0.12
    side = int(size * scale)
    if side < 1:
        raise ValueError(f"the face's box {[left, top, right, bottom]} is smaller than a pixel")
    k = (CROP - 1) / side
    return np.array([[k, 0.0, -k * (x - side / 2)], [0.0, k, -k * (y - side / 2)], [0.0, 0.0, 1.0]])


def whole_picture_transform(height: int, width: int) -> Doubles:
    """(3, 3) when nothing is cropped: corners (0, 0), (0, h − 1), (w − 1, 0) go to the crop's corners."""
    return np.diag([(CROP - 1) / (width - 1), (CROP - 1) / (height - 1), 1.0])


def crop(image: NDArray[np.uint8] | NDArray[np.float32], tform: ArrayLike) -> NDArray[np.float32]:
    """(H, W, 3) picture (uint8, or float in 0…1) → (224, 224, 3) float32 in 0…1; bilinear, zero outside.

    OpenCV's own bilinear warp rounds coordinates to 1/32 pixel before version 5; this one is exact in any
    version.
    """
    picture = image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)
    back = np.linalg.inv(np.asarray(tform, np.float64))
    steps = np.arange(CROP, dtype=np.float64)
    x, y = np.meshgrid(steps, steps)
    source = np.stack([x, y, np.ones_like(x)], axis=-1) @ back.T
    return _bilinear(picture, source[..., 0] / source[..., 2], source[..., 1] / source[..., 2])


def _bilinear(picture: NDArray[np.float32], x: Doubles, y: Doubles) -> NDArray[np.float32]:
    """Samples at pixel centres counted from 0; what lies outside the picture is 0."""
    padded = cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    height, width = padded.shape[:2]
    outside = (x <= -1) | (y <= -1) | (x >= width - 2) | (y >= height - 2)
    x, y = np.clip(x + 1, 0, width - 1 - 1e-9), np.clip(y + 1, 0, height - 1 - 1e-9)
    column, row = x.astype(np.intp), y.astype(np.intp)
    fx, fy = (x - column)[..., None], (y - row)[..., None]
    top = padded[row, column] * (1 - fx) + padded[row, column + 1] * fx
    bottom = padded[row + 1, column] * (1 - fx) + padded[row + 1, column + 1] * fx
    sampled = top * (1 - fy) + bottom * fy
    sampled[outside] = 0.0
    return np.asarray(sampled, np.float32)
