"""Random generators named by what they are for.

Every draw in InstaFace comes from a generator whose seed is a hash of its purpose: (run seed, epoch, sample
key, "noise"), say. So a sample sees the same noise on one device or eight, in one run or a resumed one,
whoever asks first.
"""

from hashlib import blake2b

import numpy as np
import torch


def seed_of(*parts: str | int) -> int:
    """Hash the parts to a seed in [0, 2^63) with blake2b.

    Each part is written with its type and length, so ("a", "bc") and ("ab", "c"), or 1 and "1", differ.
    Raises ValueError when no part is given and TypeError for a part that is neither str nor int.
    """
    if not parts:
        raise ValueError("seed_of() needs at least one part: a seed must say what it is for")
    digest = blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int):
            raise TypeError(f"a seed is made of str and int, not {type(part).__name__}: {part!r}")
        kind = b"s" if isinstance(part, str) else b"i"
        text = str(part).encode()
        digest.update(kind + len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def torch_generator(*parts: str | int) -> torch.Generator:
    """A CPU generator for these parts; draw on the CPU and move: every device sees the same numbers."""
    return torch.Generator().manual_seed(seed_of(*parts))


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """A PCG64 generator for these parts."""
    return np.random.Generator(np.random.PCG64(seed_of(*parts)))
