"""MediaPipe's face networks (Apache-2.0 weights inside the `mediapipe` wheel) run by LiteRT, one picture
at a time.

Pre- and post-processing follow the model cards: BlazeFace short range (128 px, 896 anchors), face mesh
    (192 px,
468 points) and iris (64 px, 71 contour and 5 iris points).
"""

from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from models.face3d.data_files import MEDIAPIPE_VERSION
from models.face3d.package_files import package_file

__all__ = ["MEDIAPIPE_VERSION", "FaceDetectorNet", "FaceMeshNet", "IrisNet", "PersonNet", "crop_square"]

_MODULES: Final = "mediapipe/modules"

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]


class _Network:
    """One LiteRT interpreter with one input; single-threaded, so that results do not depend on the
    machine."""

    def __init__(self, path: str) -> None:
        file: Path = package_file("mediapipe", MEDIAPIPE_VERSION, f"{_MODULES}/{path}")
        self._interpreter = Interpreter(str(file), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = int(self._interpreter.get_input_details()[0]["index"])
        self._outputs = [int(detail["index"]) for detail in self._interpreter.get_output_details()]

    def __call__(self, picture_HWC: Float32Array) -> list[Float32Array]:
        self._interpreter.set_tensor(self._input, picture_HWC[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _short_range_anchors() -> Float32Array:
    """(896, 2) anchor centres in [0, 1]: 16 x 16 cells with 2 anchors, then 8 x 8 cells with 6."""
    centres = []
    for cells, count in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        grid = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
        centres.append(np.repeat(grid, count, axis=0))
    return np.concatenate(centres).astype(np.float32)


class FaceDetectorNet:
    """BlazeFace short range on a square picture."""

    size: Final = 128

    def __init__(self) -> None:
        self._network = _Network("face_detection/face_detection_short_range.tflite")
        self._anchors = _short_range_anchors()

    def __call__(self, square: UInt8Array, threshold: float) -> tuple[Float32Array, Float32Array]:
        """Raw detections of uint8 (128, 128, 3) above a score.

        Returns:
            scores (N,) in [0, 1] and points (N, 8, 2) in [0, 1] of the square: box top left, box bottom
                right, then
            right eye, left eye (the person's), nose tip, mouth, right ear, left ear.
        """
        raw, logits = self._network(square.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1))
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0], -60, 60)))
        kept = np.flatnonzero(scores >= threshold)
        offsets = raw[0, kept].reshape(-1, 8, 2) / self.size
        points = np.empty_like(offsets)
        centre = offsets[:, 0] + self._anchors[kept]
        points[:, 0], points[:, 1] = centre - offsets[:, 1] / 2, centre + offsets[:, 1] / 2
        points[:, 2:] = offsets[:, 2:] + self._anchors[kept][:, None]
        return scores[kept].astype(np.float32), points.astype(np.float32)


class FaceMeshNet:
    """The 468-point mesh on a square crop."""

    size: Final = 192

    def __init__(self) -> None:
        self._network = _Network("face_landmark/face_landmark.tflite")

    def __call__(self, square: UInt8Array) -> tuple[Float32Array, float]:
        """(468, 3) points in pixels of the uint8 (192, 192, 3) crop (z: smaller is nearer), presence in
        [0, 1]."""
        points, presence = self._network(square.astype(np.float32) * np.float32(1 / 255))
        return points.reshape(468, 3), float(1 / (1 + np.exp(-np.clip(presence.ravel()[0], -60, 60))))


class IrisNet:
    """Eye contour and iris on a square crop of one eye, seen as the person's right eye."""

    size: Final = 64

    def __init__(self) -> None:
        self._network = _Network("iris_landmark/iris_landmark.tflite")

    def __call__(self, square: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """(71, 2) contour points and (5, 2) iris points (centre first) in pixels of the uint8 (64, 64,
        3) crop."""
        contour, iris = self._network(square.astype(np.float32) * np.float32(1 / 255))
        return contour.reshape(71, 3)[:, :2], iris.reshape(5, 3)[:, :2]


class PersonNet:
    """Which pixels belong to a person (selfie segmentation)."""

    size: Final = 256

    def __init__(self) -> None:
        self._network = _Network("selfie_segmentation/selfie_segmentation.tflite")

    def __call__(self, square: UInt8Array) -> Float32Array:
        """(256, 256) in [0, 1] for a uint8 (256, 256, 3) picture."""
        return self._network(square.astype(np.float32) * np.float32(1 / 255))[0][0, :, :, 0]


def crop_square(
    pyramid: list[UInt8Array], centre: Float32Array, side: float, angle: float, size: int, *, mirror: bool = False
) -> tuple[UInt8Array, Float32Array]:
    """A rotated square of a picture, resampled to size x size (bilinear, black outside).

    Args:
        pyramid: the picture uint8 (H, W, 3) and its halvings; levels that are missing are appended.
        centre: (2,) in pixels of the full picture, pixel corners at integers.
        side: of the square in pixels of the full picture.
        angle: radians from the picture's x axis to the square's.
        mirror: whether the square's x axis runs backwards.

    Returns:
        crop uint8 (size, size, 3), and the (2, 3) affine map from crop pixels to picture pixels.
    """
    level = max(0, int(np.floor(np.log2(max(side / size, 1.0)))))
    while len(pyramid) <= level and min(pyramid[-1].shape[:2]) >= 2:
        pyramid.append(halve(pyramid[-1]))
    level = min(level, len(pyramid) - 1)
    scale = side / size
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    sign = -1.0 if mirror else 1.0
    axes = np.array([[cos * sign, -sin], [sin * sign, cos]])
    to_picture = np.concatenate([axes, (centre - axes @ np.full(2, size / 2))[:, None]], axis=1)
    # OpenCV puts pixel centres at integers: shift by half a pixel on both sides.
    ratio = np.array(pyramid[0].shape[1::-1]) / np.array(pyramid[level].shape[1::-1])
    matrix = to_picture / ratio[:, None]
    matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    crop = cv2.warpAffine(pyramid[level], matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(crop, dtype=np.uint8), to_picture.astype(np.float32)


def halve(picture: UInt8Array) -> UInt8Array:
    """The picture at half its size (area average)."""
    height, width = picture.shape[:2]
    target = (max(width // 2, 1), max(height // 2, 1))
    return np.asarray(cv2.resize(picture, target, interpolation=cv2.INTER_AREA), dtype=np.uint8)
