"""Index sets of MediaPipe's 468-point face mesh. "Right" and "left" are the person's: right is on the
image's left."""

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BROW_LEFT", "BROW_RIGHT", "EYE_LEFT", "EYE_RIGHT", "LANDMARKS_68", "LIPS_INNER", "LIPS_OUTER", "OVAL",
    "lid_gap", "mirror_permutation", "mouth_gap",
]  # fmt: skip

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating]

# Outer corner, lower lid to the inner corner (9), then upper lid from the outer side (7): the order of
# the first
# sixteen points of the iris network.
EYE_RIGHT: Final = (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)
EYE_LEFT: Final = (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398)
BROW_RIGHT: Final = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107)
BROW_LEFT: Final = (276, 283, 282, 295, 285, 300, 293, 334, 296, 336)
LIPS_OUTER: Final = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185,
)  # fmt: skip
LIPS_INNER: Final = (
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191,
)  # fmt: skip
OVAL: Final = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip

# The dlib / iBUG order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, outer lips 48-59, inner lips 60-67.
LANDMARKS_68: Final = (
    127, 234, 132, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 361, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip


def mirror_permutation(template: FloatArray) -> IntArray:
    """For each of the points, the index of its mirror image in a left-right symmetric template (N, 3), x
    = 0 axis.

    Raises:
        ValueError: the template is not symmetric (the map would not be its own inverse).
    """
    flipped = template * np.array([-1.0, 1.0, 1.0])
    distance = np.linalg.norm(template[None] - flipped[:, None], axis=-1)
    partner: IntArray = np.argmin(distance, axis=1).astype(np.int64)
    if not np.array_equal(partner[partner], np.arange(len(template))):
        raise ValueError("mirror partners are not mutual; give a left-right symmetric template")
    return partner


def mouth_gap(points: FloatArray) -> float:
    """Inner lip opening (mean of three columns) over the outer-eye distance; points (468, ≥2), any unit."""
    upper, lower = points[[82, 13, 312], :2], points[[87, 14, 317], :2]
    return float(np.linalg.norm(upper - lower, axis=-1).mean() / outer_eye_distance(points))


def lid_gap(points: FloatArray) -> tuple[float, float]:
    """Aperture (mean lid distance over corner distance) of the right and the left eye; points (468, ≥2)."""
    gaps = []
    for eye in (EYE_RIGHT, EYE_LEFT):
        lower, upper = points[list(eye[2:7]), :2], points[list(eye[10:15]), :2]
        width = np.linalg.norm(points[eye[0], :2] - points[eye[8], :2])
        gaps.append(float(np.linalg.norm(lower - upper, axis=-1).mean() / max(float(width), 1e-6)))
    return gaps[0], gaps[1]


def outer_eye_distance(points: FloatArray) -> float:
    """Distance of the outer eye corners in the unit of the points (468, ≥2)."""
    return float(np.linalg.norm(points[33, :2] - points[263, :2]))
