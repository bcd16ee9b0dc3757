"""What a store of bytes promises; `storage.stores.open_store` gives one for a folder or a bucket.

An object appears complete or not at all, is created once and never changed (`create`), and can always be listed right
after. Everything else in this package (shards, manifests, checkpoints, identities) is built on these promises.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size: int
    """Bytes."""
    sha256: str | None = None
    """Of the whole object, where the store knows it without reading (S3 objects that were created through here)."""
    stamp: str = field(default="", compare=False)
    """What changes when the bytes change, without reading them: modification time in ns of a file, ETag of an S3 object."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something unfinished that a killed writer left behind."""

    name: str
    kind: str
    """"staging folder" or "multipart upload"."""
    age: float
    """Seconds since it was begun."""
    removed: bool
    """False: too young, or its writer is alive."""


@runtime_checkable
class Store(Protocol):
    """Keys are relative, "/"-separated. A store is picklable and cheap to copy; its connections stay behind.

    Every method raises StoreUnavailable when the store cannot be reached or refuses, BadKey for an impossible key.
    """

    @property
    def uri(self) -> str:
        """What `open_store` accepts to open the same place."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises NotFound; ObjectCorrupt when the store knows its sha256 and it differs."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer where the object ends. Raises NotFound."""

    def stat(self, key: str) -> ObjectInfo | None:
        """None when there is no such object."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in byte order of their keys, without unfinished work."""

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below `prefix` ("" or ending in "/"), empty ones included where they exist."""

    def create(self, key: str, data: bytes) -> None:
        """Creates the object once. Equal bytes already there are fine. Raises Conflict, StoreFull."""

    def create_from_file(self, key: str, path: Path) -> None:
        """The same for a local file, which is not held in memory. A file in `staging()` may be taken, not copied."""

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Copies to `path` through a temporary name. Raises NotFound, ObjectCorrupt (nothing is left), StoreFull."""

    def delete(self, key: str) -> None:
        """No error when there is no such object."""

    def delete_prefix(self, prefix: str) -> int:
        """Deletes what `list(prefix)` shows; returns how many."""

    def purge(self, prefix: str) -> int:
        """Deletes everything that starts with `prefix`: objects, their older versions, delete markers, unfinished
        work. Returns how many things.
        """

    def child(self, prefix: str) -> "Store":
        """The store of the keys below `prefix`."""

    def check(self) -> None:
        """Reachable, exists, writable, some space left; otherwise StoreUnavailable in one sentence."""

    def staging(self, needed: int = 0) -> AbstractContextManager[Path]:
        """A private local folder for files to be created here, gone after the block. Raises StoreFull when it cannot
        hold `needed` bytes, or when it fills up inside the block.
        """

    def local_path(self, key: str) -> Path | None:
        """Where the object lies on this machine's disk; None for remote stores. It need not exist."""

    def clean(self, older_than: float) -> Iterator[Leftover]:
        """Removes what killed writers left longer ago than `older_than` seconds."""
