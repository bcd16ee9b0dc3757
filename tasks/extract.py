"""extract: aligned images → 3D condition maps (albedo, normal, Lambertian render, mask) and their parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task

from models.face3d.data_files import DATA_FILE, MEDIAPIPE_VERSION
from storage.canonical import digest_of, sha256_of
from storage.shards import ShardEntry
from storage.stores import Store, open_store
from tasks.assets import asset, weights_digest
from tasks.generation import Generation, Plan, build_generation
from tasks.ray_pool import Pool
from tasks.rows import RowWorker

FIELDS = ("albedo.png", "normal.png", "render.png", "mask.png", "params.npy", "texture.png", "landmarks.npy")
MIRRORED = "-mirrored"
"""What the key of a mirror image's row ends in."""
# Raise it whenever the maps of an unchanged image would change for a reason that no digest shows.
VERSION = "2"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    estimator: str = "open"
    """`open` (landmark fit on the freely licensed head) or `deca` (needs the user's DECA and FLAME files)."""
    truth: bool = True
    """Take the face parameters of a photograph whose source knows them exactly, instead of estimating them."""
    estimated_share: float = 0.0
    """Share of these photographs, chosen by key, that are estimated all the same: so training sees estimates too."""
    flip: bool = False
    """Store the maps of every image's mirror image too, as rows of their own (key `…-mirrored`)."""
    bad_share_limit: float = 0.02
    """Share of images that may fail before the stage stops and commits nothing."""

    def __post_init__(self) -> None:
        if self.estimator not in ("open", "deca"):
            raise ValueError(f"estimator={self.estimator!r}: choose 'open' or 'deca'")
        if not 0 <= self.estimated_share <= 1:
            raise ValueError(f"estimated_share={self.estimated_share}: a share lies between 0 and 1")

    def takes_truth(self, key: str) -> bool:
        """Are exact parameters taken for the photograph of this key, where there are some?"""
        return self.truth and int(sha256_of(key.encode())[:8], 16) >= self.estimated_share * 2**32


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardUnit:
    index: int
    entry: ShardEntry

    def __str__(self) -> str:
        return f"shard {self.index:06d} ({self.entry.samples} images)"


def estimator_digest(name: str) -> str:
    """Digest of the files that an estimator's results depend on, without loading it."""
    if name == "open":
        return digest_of([weights_digest(DATA_FILE), MEDIAPIPE_VERSION])
    return weights_digest(deca_assets())


def deca_assets() -> Path:
    return asset("face3d", "the converted DECA and FLAME files")


def extract(
    config: ExtractConfig, images: Generation, root: Store, pool: Pool, *, redrive: Sequence[str] = ()
) -> Generation:
    """Condition maps for every image of a generation, below `<root>/maps/`.

    Raises:
        TooManyBadRows: too many images without a usable 3D fit; nothing is committed.
        MissingAsset: the estimator's files are not there.
    """
    units = [ShardUnit(index=i, entry=entry) for i, entry in enumerate(images.manifest.shards)]
    plan = Plan(
        stage="maps",
        fields=FIELDS,
        config_digest=digest_of([VERSION, config, estimator_digest(config.estimator)]),
        inputs={"images": images.manifest.digest},
        bad_share_limit=config.bad_share_limit,
        total=images.manifest.samples * (2 if config.flip else 1),
    )
    make_worker = partial(_worker, config, images, "cuda" if pool.gpus else "cpu")
    return build_generation(root, plan, units, make_worker, pool, redrive=redrive)


def _worker(config: ExtractConfig, images: Generation, device: str, home: str, earlier: tuple[str, ...]) -> Any:
    return partial(_build, config, images, device, earlier)


def _build(config: ExtractConfig, images: Generation, device: str, earlier: tuple[str, ...]) -> RowWorker:
    """In the process that makes rows: only there the 3D models are imported."""
    from tasks.mapper import ExtractWorker

    return ExtractWorker(config, images, device, earlier)


@task(name="extract", persist_result=False)
def extract_task(
    config: ExtractConfig, images: Generation, root: str, pool: Pool, redrive: Sequence[str] = ()
) -> Generation:
    """Aligned images → 3D condition maps."""
    return extract(config, images, open_store(root), pool, redrive=redrive)
