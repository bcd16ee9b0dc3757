"""The surroundings of a run: where things are kept, and Ray."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from storage.seaweed import SeaweedServer
from storage.stores import Store, open_store
from tasks.ray_pool import PoolOnDemand, ray_session

ROOT_VARIABLE = "INSTAFACE_ROOT"
HOME = Path(".instaface")
BUCKET = "instaface"
# Images, maps, features and checkpoints of the demo take far less; a run that fills a disk loses more than time.
MIN_FREE_BYTES = 1 << 30


class NotEnoughDisk(ValueError):
    """Too little free space to start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    root: str
    """URI under which everything is kept."""
    workers: int
    """Ray actors a stage: the CPUs of the cluster."""


@contextmanager
def workspace(root: str | None = None, *, cpus: int | None = None) -> Iterator[Workspace]:
    """A checked store and Ray for the duration of a block.

    `root` is a URI or folder; None means INSTAFACE_ROOT, else `.instaface/store` in the working directory.

    Raises:
        NotEnoughDisk, StorageError: one sentence, before any work starts.
    """
    uri = check_root(root or default_root())
    _tell_of_filling_disks(uri)
    with ray_session(cpus):
        yield Workspace(root=uri, workers=max(1, int(ray.cluster_resources().get("CPU", 1))))


@contextmanager
def workspace_on_demand(root: str | None = None, *, workers: int | None = None) -> Iterator[tuple[str, PoolOnDemand]]:
    """As `workspace`, for work that may be done already: the root's URI, and a pool that starts Ray when it is needed.

    Raises:
        NotEnoughDisk, StorageError: one sentence, before any work starts.
    """
    uri = check_root(root or default_root())
    _tell_of_filling_disks(uri)
    with ExitStack() as sessions:
        yield uri, PoolOnDemand(workers=workers, sessions=sessions)


def _tell_of_filling_disks(uri: str) -> None:
    """In a Prefect run, whose automations listen."""
    from tasks.notices import tell_disk  # Ray's processes import this module too, and need no Prefect
    from tasks.progress import in_prefect_run

    if in_prefect_run():
        local = Path.cwd() if uri.startswith("s3://") else Path(uri.removeprefix("file://"))
        tell_disk(local, full=MIN_FREE_BYTES)


def default_root() -> str:
    """INSTAFACE_ROOT, else `.instaface/store` in the working directory."""
    return os.environ.get(ROOT_VARIABLE) or str((HOME / "store").resolve())


def store_at(root: str | None) -> Store:
    """The checked store below `root`, by default the project's own. Raises NotEnoughDisk, StorageError."""
    return open_store(check_root(root or default_root()))


def check_root(root: str) -> str:
    """The canonical URI of a store that can be written.

    Raises:
        NotEnoughDisk, StorageError: one sentence.
    """
    if not root.startswith("s3://"):
        require_free_space(Path(root.removeprefix("file://")))
    store = open_store(root)
    store.check()
    return store.uri


@contextmanager
def embedded_s3(folder: Path, port: int | None = None) -> Iterator[str]:
    """A real S3 server (SeaweedFS) on loopback for the duration of a block; yields the URI of its bucket.

    Its endpoint and credentials go into this process's environment, where boto3's ordinary chain and every Ray
    worker started inside the block find them. The data stay in `folder` for the next block.

    Raises:
        NotEnoughDisk, StorageError: no space, a taken port, or no server program.
    """
    require_free_space(folder)
    with SeaweedServer(folder, bucket=BUCKET, port=port) as server:
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        try:
            yield f"s3://{BUCKET}"
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def require_free_space(folder: Path, needed: int = MIN_FREE_BYTES) -> None:
    """Raises: NotEnoughDisk, before anything is written."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise NotEnoughDisk(
            f"{existing} has {free / 2**20:.0f} MiB free and a run needs at least {needed / 2**20:.0f} MiB: "
            "free some space or choose another folder"
        )
