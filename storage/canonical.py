"""One way to write a value as bytes, so that equal values have equal digests on every machine and in every process."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces.

    Accepts None, bool, int, finite float, str, lists, tuples, mappings with str keys, and dataclasses (as mappings).
    Raises ValueError for anything else, NaN and infinities included, naming the place.
    """
    text = json.dumps(
        _plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest_of(value: object, length: int = 16) -> str:
    """BLAKE2b of `canonical_json(value)` as `length` hex digits (an even number up to 128)."""
    if length % 2 or not 2 <= length <= 128:
        raise ValueError(f"a digest of {length} hex digits was asked for; use an even number from 2 to 128")
    return hashlib.blake2b(canonical_json(value), digest_size=length // 2).hexdigest()


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def _plain(value: object, place: str) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(f"{place} holds half of a surrogate pair, which UTF-8 cannot write: {value!r}")
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{place} is {value}; only finite numbers have a canonical form")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{place}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{place} has the key {key!r} of type {type(key).__name__}; keys must be str")
        return {_plain(key, f"a key of {place}"): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, PurePath):
        raise ValueError(f"{place} is a path; write str(path) if the location is meant to enter the digest")
    raise ValueError(f"{place} is a {type(value).__name__}; only JSON values and dataclasses have a canonical form")
