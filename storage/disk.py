"""Durable files on a local disk: fsync, create-once, verified copies, and plain sentences when the disk is full."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from storage.errors import ObjectCorrupt, StoreFull, StoreUnavailable

CHUNK = 1 << 20


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def sync_file(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` survive a power cut; without it a renamed file can vanish."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """mkdir -p whose new names are fsynced, and which survives others who remove empty folders meanwhile."""
    while not folder.is_dir():
        try:
            folder.mkdir()
            sync_folder(folder.parent)
        except FileNotFoundError:
            make_folders(folder.parent)
        except FileExistsError:
            if _is_no_folder(folder):
                raise


def _is_no_folder(path: Path) -> bool:
    """Whether something else has the name. One look: a folder that was there may be gone at the next."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()


def remove_empty_folders(folder: Path, top: Path) -> None:
    """Removes `folder` and those above it, below `top`, as long as they are empty."""
    while folder != top:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return
            raise
        folder = folder.parent


@contextlib.contextmanager
def room_in(folder: Path, needed: int) -> Iterator[None]:
    """Checks that `needed` bytes fit, and turns a disk that fills up meanwhile into StoreFull."""
    free = shutil.disk_usage(nearest_existing(folder)).free
    advice = "free some space or choose a folder on another disk"
    if free < needed:
        raise StoreFull(f"the disk of {folder} is full: {needed:,} bytes are needed and {free:,} are free; {advice}")
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreFull(
            f"the disk of {folder} is full: the {free:,} bytes that were free did not suffice; {advice}"
        ) from error


def nearest_existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        sync_file(file)


def publish_once(staged: Path, final: Path) -> bool:
    """Gives the finished file `staged` the name `final` unless the name is taken; says whether it did.

    A hard link either appears complete or fails, whatever other writers do and whenever this process is killed.
    Raises StoreUnavailable where the filesystem has no hard links.
    """
    make_folders(final.parent)
    try:
        os.link(staged, final)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if not staged.exists():
            raise
        return publish_once(staged, final)  # the folder was empty, and another process removed it
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK):
            raise StoreUnavailable(
                f"the filesystem of {final.parent} has no hard links ({os.strerror(error.errno)}), so files "
                "cannot be created exactly once there; use a local disk or an s3:// root"
            ) from error
        raise
    sync_folder(final.parent)
    return True


def copy_verified(source: Readable, path: Path, sha256: str | None, what: str) -> str:
    """Copies a stream to `path` through a temporary neighbour, fsyncs and renames; returns the SHA-256.

    Raises ObjectCorrupt when `sha256` is given and differs, and then leaves nothing behind.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
            sync_file(file)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ObjectCorrupt(
                f"{what} has sha256 {digest.hexdigest()[:16]}…, not {sha256[:16]}… as committed: damaged"
            )
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A private folder under `parent`, removed at the end and locked meanwhile, so that a cleaner can tell live
    writers from dead ones (the kernel drops the lock of a killed process).
    """
    folder = parent / uuid.uuid4().hex
    while not folder.is_dir():
        make_folders(parent.parent)
        with contextlib.suppress(FileNotFoundError):  # another process has just removed an empty parent
            try:
                parent.mkdir()
            except FileExistsError:
                if _is_no_folder(parent):
                    raise
            folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):  # an erasure may have taken it away
            shutil.rmtree(folder)
        remove_empty_folders(parent, parent.parent)


def remove_abandoned(parent: Path, older_than: float) -> Iterator[tuple[Path, float, bool]]:
    """The staging folders in `parent`, their age in seconds, and whether they were removed: those that are old enough
    and whose writer is dead.
    """
    for folder in sorted(parent.glob("*")):
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            age = time.time() - folder.stat().st_mtime
            removed = age >= older_than and not _in_use(folder)
            if removed:
                shutil.rmtree(folder)
            yield folder, age, removed


def _in_use(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
