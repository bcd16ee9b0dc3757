"""A store in a local folder."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj, rmtree
from stat import S_ISREG

from storage.canonical import sha256_of
from storage.disk import (
    CHUNK,
    copy_verified,
    nearest_existing,
    publish_once,
    remove_abandoned,
    remove_empty_folders,
    room_in,
    sha256_of_file,
    staging_folder,
    write_durably,
)
from storage.errors import Conflict, NotFound, StoreUnavailable
from storage.interface import Leftover, ObjectInfo
from storage.keys import STAGING, check_key, check_prefix, is_staging

ROOM_TO_START = 64 << 20
"""Bytes that must be free before `check` agrees to begin."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Objects are files. See `storage.interface.Store` for what each method promises."""

    root: str

    @property
    def uri(self) -> str:
        return Path(self.root).as_uri()

    def read(self, key: str) -> bytes:
        with _reading(self._path(key)):
            return self._path(key).read_bytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with _reading(self._path(key)), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            status = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(key, status.st_size, stamp=str(status.st_mtime_ns)) if S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        folder, _, _ = prefix.rpartition("/")
        return (info for info in self._walk(folder) if info.key.startswith(prefix))

    def folders(self, prefix: str = "") -> Iterator[str]:
        try:
            with os.scandir(Path(self.root, check_prefix(prefix))) as entries:
                return iter(sorted(entry.name for entry in entries if entry.is_dir() and entry.name != STAGING))
        except (FileNotFoundError, NotADirectoryError):
            return iter(())

    def create(self, key: str, data: bytes) -> None:
        final = self._path(key)
        if not final.exists():
            with self.staging(len(data)) as folder:
                write_durably(folder / "object", data)
                if publish_once(folder / "object", final):
                    return
        self._same_or_conflict(key, len(data), sha256_of(data))

    def create_from_file(self, key: str, path: Path) -> None:
        final, size = self._path(key), path.stat().st_size
        if not final.exists():
            ours = path.resolve().is_relative_to(Path(self.root, STAGING).resolve())
            with self.staging(0 if ours else size) as folder:
                staged = path if ours else folder / "object"
                if not ours:
                    with path.open("rb") as source, staged.open("wb") as target:
                        copyfileobj(source, target, CHUNK)
                with staged.open("rb") as file:
                    os.fsync(file.fileno())
                if publish_once(staged, final):
                    return
        self._same_or_conflict(key, size, sha256_of_file(path))

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        source = self._path(key)
        with (
            room_in(path.parent, source.stat().st_size if source.exists() else 0),
            _reading(source),
            source.open("rb") as file,
        ):
            copy_verified(file, path, sha256, str(source))

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)
        remove_empty_folders(self._path(key).parent, Path(self.root))

    def delete_prefix(self, prefix: str) -> int:
        keys = [info.key for info in self.list(prefix)]
        for key in keys:
            self.delete(key)
        return len(keys)

    def purge(self, prefix: str) -> int:
        removed = self.delete_prefix(prefix)
        below = Path(self.root, prefix)
        if prefix.endswith("/") and below.is_dir():
            removed += sum(len(files) for _, _, files in os.walk(below))
            rmtree(below)
        return removed

    def child(self, prefix: str) -> "LocalStore":
        return LocalStore(str(Path(self.root, check_prefix(prefix))))

    def check(self) -> None:
        try:
            with self.staging(ROOM_TO_START) as folder:
                write_durably(folder / "check", b"check")
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise StoreUnavailable(f"cannot write in {self.root}: {error.strerror}") from error
        except OSError as error:
            raise StoreUnavailable(f"{self.root} does not work as a store: {error}") from error

    @contextmanager
    def _staging(self, needed: int) -> Iterator[Path]:
        with room_in(Path(self.root), needed), staging_folder(Path(self.root, STAGING)) as folder:
            yield folder

    def staging(self, needed: int = 0) -> AbstractContextManager[Path]:
        return self._staging(needed)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def clean(self, older_than: float) -> Iterator[Leftover]:
        for parent in sorted(Path(self.root).rglob(STAGING)):
            for folder, age, removed in remove_abandoned(parent, older_than):
                yield Leftover(str(folder.relative_to(self.root)), "staging folder", age, removed)

    def _path(self, key: str) -> Path:
        return Path(self.root, check_key(key))

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        try:
            entries = os.scandir(Path(self.root, folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            # A folder sorts as if its name ended in "/", which gives the byte order of whole keys, as S3
            # lists them.
            named = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
        for name in named:
            key = f"{folder}/{name}" if folder else name
            if is_staging(key.rstrip("/")):
                continue
            if name.endswith("/"):
                yield from self._walk(key[:-1])
            elif (info := self.stat(key)) is not None:  # None: deleted meanwhile, or no regular file
                yield info

    def _same_or_conflict(self, key: str, size: int, sha256: str) -> None:
        path = self._path(key)
        try:
            same = path.stat().st_size == size and sha256_of_file(path) == sha256
        except FileNotFoundError:
            raise Conflict(f"{path} was created and deleted by others at this moment; try again") from None
        if not same:
            raise Conflict(
                f"{path} exists with other bytes than the {size:,} bytes to be committed "
                f"(sha256 {sha256[:16]}…); committed objects are never replaced"
            )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFound(f"there is no file {path} (the nearest folder is {nearest_existing(path.parent)})") from error
    except PermissionError as error:
        raise StoreUnavailable(f"{path} may not be read by this user") from error
