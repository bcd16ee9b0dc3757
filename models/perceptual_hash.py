"""A 64-bit hash of what a picture looks like: copies that were scaled, recompressed or slightly retouched differ in few bits.

The DCT hash ("pHash"; Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): the 8 × 8
lowest frequencies of the 32 × 32 luma, each bit saying whether it lies above their median.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 32
_LOW = 8


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """uint8 (H, W, 3) RGB → 64 bits; the picture's mean brightness is not among them."""
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    luma = small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    low = cv2.dct(luma)[:_LOW, :_LOW].reshape(-1)
    low[0] = 0.0
    # Frequencies of flat pictures are rounding noise; a threshold keeps their hashes equal.
    bits = low > np.median(low) + 1e-3
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
