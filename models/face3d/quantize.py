"""Float pictures to bytes and back, in one pass over memory."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True, fastmath=True)
def _quantize(values: NDArray[np.float32], scale: float, offset: float, out: NDArray[np.uint8]) -> None:
    a = np.float32(scale * 255.0)
    b = np.float32(offset * 255.0 + 0.5)
    for i in range(values.size):
        out[i] = np.uint8(min(max(values[i] * a + b, np.float32(0.0)), np.float32(255.0)))


def to_bytes(values: NDArray[np.float32], scale: float, offset: float) -> NDArray[np.uint8]:
    """round((values · scale + offset) · 255), clipped to 0…255; any shape. NaN is not expected."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    out = np.empty(flat.shape, np.uint8)
    _quantize(flat, scale, offset, out)
    return out.reshape(values.shape)


def from_bytes(values: NDArray[np.uint8], scale: float, offset: float) -> NDArray[np.float32]:
    """values / 255 · scale + offset: undoes :func:`to_bytes`, given width and start of the range."""
    return values.astype(np.float32) * np.float32(scale / 255.0) + np.float32(offset)
