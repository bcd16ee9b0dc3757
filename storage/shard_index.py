"""Where each sample of a shard lies, so that it can be read without reading the others.

The index is derived from the shard and can always be rebuilt. Its sidecar (`shard-000000.index.json`) names the sha256
of the shard it belongs to and carries its own digest; one that fits neither is ignored and rebuilt.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from storage.canonical import canonical_json
from storage.errors import BadKey, ShardCorrupt
from storage.tar import members

VERSION = 1
ABSENT = -1
_START = b'{"digest":"%s",'
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_FIELD = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def check_sample_key(key: str) -> str:
    """Returns `key`, or raises BadKey: only letters, digits, "_" and "-" (a dot would start the field's name)."""
    if not _KEY.fullmatch(key):
        raise BadKey(f"{key!r} cannot be the key of a sample; use letters, digits, '_' and '-'")
    return key


def check_field(field: str) -> str:
    """Returns `field`, or raises BadKey. Fields look like file extensions: "image.png", "moments.npy"."""
    if not _FIELD.fullmatch(field):
        raise BadKey(f"{field!r} cannot be the name of a field; write it like a file extension, as in image.png")
    return field


@dataclass(frozen=True)
class ShardIndex:
    shard_sha256: str
    fields: tuple[str, ...]
    keys: tuple[str, ...]
    spans: "array[int]"
    """Start and size of every field of every sample, in the order of `keys` and `fields`; ABSENT where it lacks one."""

    def __len__(self) -> int:
        return len(self.keys)

    def columns(self, fields: Sequence[str], shard: str) -> list[int]:
        """Positions of `fields` in a row of `spans`. Raises ShardCorrupt when any sample lacks any of them."""
        if not self.keys:
            return [0] * len(fields)
        columns = []
        for field in fields:
            if field not in self.fields:
                raise ShardCorrupt(f"{shard} has no field {field!r}; it has {', '.join(self.fields) or 'none'}")
            column = 2 * self.fields.index(field)
            starts = self.spans[column :: 2 * len(self.fields)]
            if ABSENT in starts:
                key = self.keys[starts.index(ABSENT)]
                raise ShardCorrupt(f"{shard}: the sample {key} lacks its field {field!r}")
            columns.append(column)
        return columns

    def to_json(self) -> bytes:
        body = {
            "version": VERSION,
            "shard_sha256": self.shard_sha256,
            "fields": self.fields,
            "keys": self.keys,
            "spans": self.spans.tolist(),
        }
        # Canonical, too: "digest" sorts before the other names.
        text = canonical_json(body)
        return _START % _digest(text) + text[1:]

    @staticmethod
    def from_json(data: bytes, shard_sha256: str) -> "ShardIndex | None":
        """None when the bytes are not the undamaged index of that shard."""
        body = b"{" + data[len(_START % bytes(32)) :]
        if data != _START % _digest(body) + body[1:]:
            return None
        index = json.loads(body)
        if index["version"] != VERSION or index["shard_sha256"] != shard_sha256:
            return None
        return ShardIndex(shard_sha256, tuple(index["fields"]), tuple(index["keys"]), array("q", index["spans"]))


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


def index_tar(tar: bytes | memoryview, shard: str, sha256: str) -> ShardIndex:
    """Reads every header of the shard.

    Raises ShardCorrupt, naming the member, for duplicate fields, keys that come back after another sample, names
    without a key or a field, and whatever `storage.tar.members` refuses.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    current = None
    for member in members(tar, shard):
        key, _, field = member.name.partition(".")
        if not _KEY.fullmatch(key) or not _FIELD.fullmatch(field):
            raise ShardCorrupt(f"{shard}: {member.name!r} is no KEY.FIELD of letters, digits, '_', '-' and '.'")
        if key != current and key in samples:
            raise ShardCorrupt(
                f"{shard}: {member.name} belongs to a sample that ended before: its members are scattered"
            )
        current = key
        sample = samples.setdefault(key, {})
        if field in sample:
            raise ShardCorrupt(f"{shard}: {member.name} is there twice")
        sample[field] = (member.start, member.size)
    fields = tuple(dict.fromkeys(field for sample in samples.values() for field in sample))
    absent = (ABSENT, 0)
    spans = array("q", (n for sample in samples.values() for field in fields for n in sample.get(field, absent)))
    return ShardIndex(sha256, fields, tuple(samples), spans)
