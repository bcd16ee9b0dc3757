"""Who a picture shows, as one vector: the face-recognition half of the identity condition.

Five points guide every alignment, in this order: the eye on the picture's left, the eye on its right, the tip
of the nose, the mouth corner on the picture's left, the one on its right; pixels, x right, y down, (0, 0) in
the middle of the first pixel.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from models.encoders.weight_files import digest_of_file, dlib_weights

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Points = npt.NDArray[np.floating[Any]]

ARCFACE_TEMPLATE: Doubles = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace's training crops have the five points, in a 112×112 picture."""

_DLIB_MEAN_FACE: Doubles = np.array(
    [
        [0.225492, 0.215990],
        [0.754761, 0.215990],
        [0.490127, 0.515625],
        [0.254149, 0.780233],
        [0.726104, 0.780233],
    ]
)
"""The five points of the mean face of dlib's alignment, in units of its box: eye centres are means of
landmarks 36-41 and 42-47, the nose tip is landmark 30, the mouth corners are 48 and 54."""
_DLIB_WEIGHTS = (6, 6, 3, 1, 1)
"""dlib fits many landmarks; an eye centre stands for six of them. With these weights embeddings are 0.10 from
those of dlib's own 68-landmark chips on average (0.14 unweighted, and 0.14 between dlib's own five- and
68-landmark chips)."""
_DLIB_PADDING = 0.25
_DLIB_SIZE = 150
DLIB_TEMPLATE = (_DLIB_MEAN_FACE + _DLIB_PADDING) / (1 + 2 * _DLIB_PADDING) * _DLIB_SIZE
"""Where dlib's recogniser wants the five points, in its 150×150 chip."""


class FaceEncoder(Protocol):
    """A face → a vector in which the same person is near."""

    name: str
    width: int
    """D, numbers a face."""

    @property
    def digest(self) -> str:
        """Hash of name, alignment and weights."""

    def embed(self, image: Pixels, five_points: Points) -> Floats:
        """uint8 RGB (H, W, 3) and five points (5, 2) in pixels → float32 (D,)."""


def similarity(source: Points, target: Points, weights: Sequence[float] | None = None) -> Doubles:
    """The rotation, scale and shift that takes points to points best in least squares: 2×3, never a
    reflection.

    Umeyama 1991, equations 38-43, with weighted means: R = U S Vᵀ of the covariance U D Vᵀ, c = tr(D S)/σ².
    Points are (N, 2). Raises ValueError for points that coincide or are not numbers.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"points must be two equal (N, 2) arrays, not {x.shape} and {y.shape}")
    w = np.full((len(x), 1), 1 / len(x)) if weights is None else np.array(weights)[:, None] / sum(weights)
    x_mean, y_mean = (w * x).sum(axis=0), (w * y).sum(axis=0)
    variance = (w * np.square(x - x_mean)).sum()
    if not variance > 0:
        raise ValueError("the points coincide (or are not numbers): no similarity is defined by them")
    u, d, vt = np.linalg.svd((w * (y - y_mean)).T @ (x - x_mean))
    s = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * s) @ vt
    scale = (d * s).sum() / variance
    matrix: Doubles = np.empty((2, 3))
    matrix[:, :2] = scale * rotation
    matrix[:, 2] = y_mean - matrix[:, :2] @ x_mean
    return matrix


def arcface_template(size: int) -> Doubles:
    """The template at other sizes, as insightface: multiples of 112 scale it, of 128 also shift it."""
    if size % 112 and size % 128:
        raise ValueError(f"an ArcFace crop is a multiple of 112 or 128 pixels wide, not {size}")
    unit, shift = (112, 0.0) if size % 112 == 0 else (128, 8.0)
    template: Doubles = (ARCFACE_TEMPLATE + np.array([shift, 0.0])) * (size / unit)
    return template


def warp(image: Pixels, matrix: Doubles, size: int) -> Pixels:
    """Warp the picture by a 2×3 matrix, picture to crop: (size, size, 3), bilinear, black outside."""
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), borderValue=0.0), np.uint8)


def arcface_crop(image: Pixels, five_points: Points, size: int = 112) -> Pixels:
    """ArcFace's aligned crop."""
    return warp(image, similarity(five_points, arcface_template(size)), size)


def dlib_chip(image: Pixels, five_points: Points) -> Pixels:
    """dlib's 150×150 chip. Shrinking is done on a smoothed picture, as dlib does through its pyramid."""
    matrix = similarity(five_points, DLIB_TEMPLATE, _DLIB_WEIGHTS)
    shrink = 1 / np.hypot(matrix[0, 0], matrix[1, 0])
    if shrink > 1.5:
        # A bilinear sample reads 2×2 pixels: average the others first, or they alias.
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 * shrink), np.uint8)
    return warp(image, matrix, _DLIB_SIZE)


class DlibEncoder:
    """dlib's face-recognition ResNet (D. King 2017, public domain): 128 numbers, one person within 0.6."""

    name = "dlib-resnet-v1"
    width = 128

    def __init__(self, weights: Path | None = None) -> None:
        """`weights`: dlib_face_recognition_resnet_model_v1.dat; by default the one in
        face-recognition-models."""
        import dlib

        self.path = weights or dlib_weights()
        self.network = dlib.face_recognition_model_v1(str(self.path))

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_file(f"{self.name}:five-point-chip", self.path)

    def embed(self, image: Pixels, five_points: Points) -> Floats:
        chip = np.ascontiguousarray(dlib_chip(image, five_points))
        return np.asarray(self.network.compute_face_descriptor(chip), np.float32)

    def __reduce__(self) -> tuple[type["DlibEncoder"], tuple[Path]]:
        return DlibEncoder, (self.path,)


class ArcFaceEncoder:
    """An insightface ArcFace network (w600k_r50 in `buffalo_l`, for one): a unit vector, from the user's ONNX
    file.

    insightface's own weights are licensed for non-commercial research only.
    """

    name = "arcface"

    def __init__(self, weights: Path) -> None:
        from insightface.model_zoo import model_zoo

        if not weights.is_file():
            raise ValueError(f"no ArcFace model at {weights}: give the path of a recognition .onnx file")
        self.path = weights
        self.network = model_zoo.get_model(str(weights), providers=["CPUExecutionProvider"])
        if getattr(self.network, "taskname", None) != "recognition":
            raise ValueError(f"{weights} is not a face-recognition network: choose e.g. w600k_r50.onnx of buffalo_l")
        self.size = int(self.network.input_size[0])
        self.width = int(self.network.output_shape[1])

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_file(f"{self.name}:{self.size}", self.path)

    def embed(self, image: Pixels, five_points: Points) -> Floats:
        aligned = arcface_crop(image, five_points, self.size)
        vector = np.asarray(self.network.get_feat(aligned[..., ::-1]), np.float32).reshape(-1)
        return vector / np.linalg.norm(vector)

    def __reduce__(self) -> tuple[type["ArcFaceEncoder"], tuple[Path]]:
        return ArcFaceEncoder, (self.path,)
