"""Photographs that look alike although their bytes differ: the same picture scaled, recompressed, retouched."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from storage.manifest import StatusRow
from storage.reader import SampleReader
from tasks.rows import OK

_ROWS_AT_ONCE = 512


def nearest_before(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every 64-bit hash of (N,): the earlier one it differs from in the fewest bits, and in how many.

    The first row, which has none before it, gets 64. Compares all pairs: 70,000 hashes take seconds.
    """
    count = len(hashes)
    index, distance = np.zeros(count, np.int64), np.full(count, 64, np.int64)
    for start in range(0, count, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, count)
        bits = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, :stop])
        bits[np.arange(stop)[None, :] >= np.arange(start, stop)[:, None]] = 64
        index[start:stop] = bits.argmin(axis=1)
        distance[start:stop] = bits.min(axis=1)
    return index, distance


def mark_near_duplicates(rows: Sequence[StatusRow], reader: SampleReader, *, distance: int) -> list[StatusRow]:
    """The rows, in which a good one that looks like an earlier one says so in its reason; it stays a good row."""
    keys, hashes = [], []
    for key, sample in reader:
        keys.append(key)
        hashes.append(int(json.loads(sample["meta.json"])["perceptual_hash"], 16))
    if not keys:
        return list(rows)
    index, bits = nearest_before(np.array(hashes, np.uint64))
    reasons = {
        key: f"near-duplicate of {keys[other]}: {n} of 64 bits differ"
        for key, other, n in zip(keys, index.tolist(), bits.tolist(), strict=True)
        if n <= distance
    }
    return [replace(row, reason=reasons[row.key]) if row.status == OK and row.key in reasons else row for row in rows]
