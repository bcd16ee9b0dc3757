"""A shard on this machine's disk, verified as a whole before anything of it is handed out."""

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from storage.errors import NotFound, ShardCorrupt
from storage.shard_index import ShardIndex, index_tar


class Described(Protocol):
    """What must be known of a shard beforehand; `storage.shards.ShardEntry` is one."""

    @property
    def name(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class OpenShard:
    """Samples by row, read from a memory map.

    The map is private to the file that was verified: deleting or replacing the file does not change what is read.
    """

    def __init__(self, file: IO[bytes], entry: Described, sidecar: bytes | None = None) -> None:
        """Takes over `file`. Raises ShardCorrupt unless size, sha256 and number of samples are those of `entry`."""
        with file:
            size = file.seek(0, 2)
            if size != entry.bytes:
                raise ShardCorrupt(f"{entry.name} has {size:,} bytes, its manifest says {entry.bytes:,}: it is damaged")
            self._map = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        sha256 = hashlib.sha256(self._map).hexdigest()
        if sha256 != entry.sha256:
            raise ShardCorrupt(
                f"{entry.name} has sha256 {sha256[:16]}…, not {entry.sha256[:16]}… as its manifest says: it is damaged"
            )
        index = ShardIndex.from_json(sidecar, sha256) if sidecar else None
        if index is None:
            with memoryview(self._map) as tar:
                index = index_tar(tar, entry.name, sha256)
        if len(index) != entry.samples:
            raise ShardCorrupt(f"{entry.name} holds {len(index)} samples, its manifest says {entry.samples}")
        self.index = index
        self._width = 2 * len(index.fields)
        self._name = entry.name

    def columns(self, fields: Sequence[str]) -> list[int]:
        """What `sample` needs to find `fields`. Raises ShardCorrupt when any sample of the shard lacks any of them."""
        return self.index.columns(fields, self._name)

    def sample(self, row: int, columns: Sequence[int]) -> list[bytes]:
        """The content of each column."""
        spans, tar, base = self.index.spans, self._map, row * self._width
        contents = []
        for column in columns:
            start = spans[base + column]
            contents.append(tar[start : start + spans[base + column + 1]])
        return contents

    def close(self) -> None:
        self._map.close()


def open_local(path: Path, entry: Described, sidecar: bytes | None = None) -> OpenShard:
    """Raises NotFound, ShardCorrupt."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"the shard {path} is missing, though its manifest names it") from None
    return OpenShard(file, entry, sidecar)
