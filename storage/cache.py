"""Copies of remote shards on the local disk, shared by all processes of the machine, within a size limit.

A copy is named by its sha256, so a changed shard is another file and nothing is ever stale.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from storage.disk import make_folders, room_in
from storage.errors import ShardCorrupt, StoreFull
from storage.interface import Store
from storage.open_shard import OpenShard
from storage.shards import ShardEntry, download_shard

log = logging.getLogger(__name__)

ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a download that was never finished is removed."""


class ShardCache:
    """Downloads to a temporary name, verifies, renames; forgets the shards that were opened longest ago.

    Any number of processes may share one folder: a lock a shard makes one of them download while the others wait, a
    lock for the folder makes one of them tidy. The limit holds but for what is being downloaded at the moment. A shard
    that is mapped when it is forgotten stays readable until closed.
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
                f"{entry.name} has {entry.bytes:,} bytes and the cache {self.folder} may hold {self.limit:,}; "
                "raise its limit"
            )
        make_folders(self.folder)
        path = self.folder / f"{entry.sha256}.tar"
        copy = self._fetch(store, entry, path)
        try:
            return OpenShard(copy, entry, sidecar)
        except ShardCorrupt as error:
            log.warning("the cached copy of %s is dropped and fetched again: %s", entry.name, error)
            path.unlink(missing_ok=True)
        return OpenShard(self._fetch(store, entry, path), entry, sidecar)

    def _fetch(self, store: Store, entry: ShardEntry, path: Path) -> IO[bytes]:
        with self._locked(entry.sha256):
            while True:
                try:
                    file = path.open("rb")
                except FileNotFoundError:  # not here yet, or forgotten again by another process
                    self._make_room(entry.bytes)
                    with room_in(self.folder, entry.bytes):
                        download_shard(store, entry.name, path, entry.sha256)
                    self._make_room(0)  # others may have downloaded meanwhile
                else:
                    os.utime(file.fileno())
                    return file

    def _make_room(self, needed: int) -> None:
        with self._locked("tidy"):
            for partial in self.folder.glob(".*.part"):
                with contextlib.suppress(FileNotFoundError):  # just finished by its process
                    if time.time() - partial.stat().st_mtime > ABANDONED_AFTER:
                        partial.unlink()
            copies = [(path.stat(), path) for path in self.folder.glob("*.tar")]
            copies.sort(key=lambda copy: copy[0].st_mtime_ns)
            total = sum(stat.st_size for stat, _ in copies)
            for stat, path in copies:
                if total + needed <= self.limit:
                    break
                path.unlink(missing_ok=True)
                total -= stat.st_size

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
