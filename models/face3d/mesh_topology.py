"""Index sets of MediaPipe's 468-point face mesh. "Right" and "left" are the person's: right is on the
image's left."""

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BROW_LEFT", "BROW_RIGHT", "EYE_LEFT", "EYE_RIGHT", "LANDMARKS_68", "LIPS_INNER", "LIPS_OUTER", "MIRROR", "OVAL",
    "lid_gap", "mouth_gap", "outer_eye_distance",
]  # fmt: skip

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

# Index of each point's mirror image, measured on a symmetric head (models/face3d/build_open_head.py checks it).
MIRROR: Final = (
    0, 1, 2, 248, 4, 5, 6, 249, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 250, 251, 252, 253, 254, 255,
    256, 257, 258, 259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, 270, 271, 272, 273, 274, 275, 276,
    277, 278, 279, 280, 281, 282, 283, 284, 285, 286, 287, 288, 289, 290, 291, 292, 293, 294, 295, 296, 297,
    298, 299, 300, 301, 302, 303, 304, 305, 306, 307, 308, 309, 310, 311, 312, 313, 314, 315, 316, 317, 318,
    319, 320, 321, 322, 323, 94, 324, 325, 326, 327, 328, 329, 330, 331, 332, 333, 334, 335, 336, 337, 338,
    339, 340, 341, 342, 343, 344, 345, 346, 347, 348, 349, 350, 351, 352, 353, 354, 355, 356, 357, 358, 359,
    360, 361, 362, 363, 364, 365, 366, 367, 368, 369, 370, 371, 372, 373, 374, 375, 376, 377, 378, 379, 151,
    152, 380, 381, 382, 383, 384, 385, 386, 387, 388, 389, 390, 164, 391, 392, 393, 168, 394, 395, 396, 397,
    398, 399, 175, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417,
    418, 195, 419, 197, 420, 199, 200, 421, 422, 423, 424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434,
    435, 436, 437, 438, 439, 440, 441, 442, 443, 444, 445, 446, 447, 448, 449, 450, 451, 452, 453, 454, 455,
    456, 457, 458, 459, 460, 461, 462, 463, 464, 465, 466, 467, 3, 7, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54,
    55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80,
    81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 95, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105,
    106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126,
    127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141, 142, 143, 144, 145, 146, 147,
    148, 149, 150, 153, 154, 155, 156, 157, 158, 159, 160, 161, 162, 163, 165, 166, 167, 169, 170, 171, 172,
    173, 174, 176, 177, 178, 179, 180, 181, 182, 183, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194,
    196, 198, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219,
    220, 221, 222, 223, 224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, 238, 239, 240,
    241, 242, 243, 244, 245, 246, 247,
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
