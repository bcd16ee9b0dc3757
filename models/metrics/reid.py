"""Re-ID readings of two face embeddings.

The paper's Re-ID (95.6 to 97.4) is not a multiple of 1/400, so it is no plain match rate; which continuous reading it is
was not published. All of these are given.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DLIB_MATCH = 0.6
"""dlib's distance up to which two faces count as one person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How alike two faces are."""

    distance: float
    """Euclidean."""
    cosine: float
    """In [-1, 1]."""


def reading(one: NDArray[np.floating], other: NDArray[np.floating]) -> Reading:
    """Distance and cosine of two embeddings (D,).

    Raises:
        ValueError: widths that differ, or a vector of zeros.
    """
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"embeddings of shape {a.shape} and {b.shape} do not compare")
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths == 0:
        raise ValueError("an embedding of zeros shows nobody: no cosine is defined")
    return Reading(distance=float(np.linalg.norm(a - b)), cosine=float(np.clip(a @ b / lengths, -1, 1)))


def confidence(distance: float, match: float = DLIB_MATCH) -> float:
    """The curve that users of face_recognition turn a dlib distance into a confidence with: 1 at 0, ½ at `match`.

    Up to `match` l = 1 - d/(2·match) and c = l + (1 - l)·(2·(l - ½))^0.2; beyond it c = (1 - d)/(2·(1 - match)), 0 from a
    distance of 1 on.
    """
    if distance > match:
        return max(0.0, (1 - distance) / (2 * (1 - match)))
    line = 1 - distance / (2 * match)
    return float(line + (1 - line) * (2 * (line - 0.5)) ** 0.2)
