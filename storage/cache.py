"""Copies of remote shards on the local disk, shared by all processes of the machine, within a size limit.

A copy is named by its sha256, so a changed shard is another file and nothing is ever stale.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.disk import make_folders, room_in
from storage.errors import StoreFull
from storage.interface import Store
from storage.open_shard import OpenShard
from storage.shards import ShardEntry


class ShardCache:
    """Downloads to a temporary name, verifies, renames; forgets the shards that were opened longest ago.

    Any number of processes may share one folder: a lock per shard makes one of them download while the others
    wait, a lock for the folder makes one of them tidy. A shard that is mapped when it is forgotten stays
    readable until closed.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        """`limit` is in bytes."""
        if limit <= 0:
            raise ValueError(f"the cache limit is {limit} bytes; it must hold at least one shard")
        self.folder = Path(folder)
        self.limit = limit

    def open(self, store: Store, entry: ShardEntry, sidecar: bytes | None = None) -> OpenShard:
        """Raises NotFound, ShardCorrupt, StoreUnavailable, and StoreFull when the shard exceeds the limit."""
        if entry.bytes > self.limit:
            raise StoreFull(
                f"{entry.name} has {entry.bytes:,} bytes and the cache {self.folder} may hold "
                f"{self.limit:,}; raise its limit"
            )
        make_folders(self.folder)
        path = self.folder / f"{entry.sha256}.tar"
        with self._locked(entry.sha256):
            if not path.exists() or path.stat().st_size != entry.bytes:
                with room_in(self.folder, entry.bytes):
                    self._make_room(entry.bytes)
                    store.download(entry.name, path, entry.sha256)
            os.utime(path)
            file = path.open("rb")
        return OpenShard(file, entry, sidecar)

    def _make_room(self, needed: int) -> None:
        with self._locked("tidy"):
            copies = [(path.stat(), path) for path in self.folder.glob("*.tar")]
            copies.sort(key=lambda copy: copy[0].st_mtime_ns)
            total = sum(stat.st_size for stat, _ in copies)
            for stat, path in copies:
                if total + needed <= self.limit:
                    break
                path.unlink()
                total -= stat.st_size

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
