"""shard: photographs → FFHQ-aligned images in WebDataset shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import task

from storage.canonical import digest_of
from storage.manifest import StatusRow
from storage.stores import Store, open_store
from tasks.generation import Generation, Plan, build_generation
from tasks.near_duplicates import mark_near_duplicates
from tasks.ray_pool import Pool
from tasks.rows import RowWorker
from tasks.sources import Photo, SourceConfig, list_photos

FIELDS = ("image.png", "meta.json", "mesh.npy")
FACTS = ("person", "split", "licence", "aligned", "landmarks", "truth")
"""What a source may know of a photograph."""
# Raise it whenever an aligned image of an unchanged photograph would change.
VERSION = "2"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    size: int = 256
    """Side of the aligned image in pixels."""
    min_face: int = 48
    """Faces whose box is smaller than this (pixels of the photograph) are refused: upsampling invents them."""
    several_faces: str = "largest"
    """`largest` takes the largest usable face; `refuse` refuses photographs with a second one at least half as high."""
    near_duplicates: int = 0
    """Photographs whose 64-bit perceptual hash differs in at most this many bits from an earlier one's are marked in the
    status table (4 finds recompressed and scaled copies); 0 looks for equal bytes only."""
    samples_per_shard: int = 1000
    """Photographs a shard, the unit of work and of repair."""
    bad_share_limit: float = 0.02
    """Share of photographs that may fail before the stage stops and commits nothing."""
    validation_share: float = 0.05
    """Share of people (photographs, where the source names no people) kept for validation by a stable hash."""
    test_share: float = 0.05
    """The same for the final test; a split that the source itself has is kept as it is."""

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 8:
            raise ValueError(
                f"size={self.size}: aligned images need a multiple of 8 of at least 64 pixels, for example 256"
            )
        if self.several_faces not in ("largest", "refuse"):
            raise ValueError(f"several_faces={self.several_faces!r}: choose 'largest' or 'refuse'")
        if not 0 <= self.near_duplicates <= 32:
            raise ValueError(
                f"near_duplicates={self.near_duplicates}: 0 to 32 of 64 bits; unrelated pictures differ in 32"
            )
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard={self.samples_per_shard}: a shard needs at least one sample")
        for name in ("bad_share_limit", "validation_share", "test_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share lies between 0 and 1")
        if self.validation_share + self.test_share > 1:
            raise ValueError(
                "validation_share and test_share together are more than 1: nothing would be left to train on"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoUnit:
    index: int
    photos: tuple[Photo, ...]

    def __str__(self) -> str:
        return f"shard {self.index:06d} ({len(self.photos)} photographs)"


def shard(
    config: ShardConfig, photos: Sequence[Photo], root: Store, pool: Pool, *, redrive: Sequence[str] = ()
) -> Generation:
    """Align all photographs into image shards below `<root>/images/`.

    Of photographs with equal bytes the first is used; the others become rows of status `duplicate`.

    Raises:
        TooManyBadRows: too many photographs without a usable face; nothing is committed.
    """
    unique: dict[str, Photo] = {}
    again = []
    for photo in photos:
        if unique.setdefault(photo.key, photo) is not photo:
            again.append(photo)
    kept = list(unique.values())
    step = config.samples_per_shard
    units = [PhotoUnit(index=i // step, photos=tuple(kept[i : i + step])) for i in range(0, len(kept), step)]
    plan = Plan(
        stage="images",
        fields=FIELDS,
        config_digest=digest_of([VERSION, config]),
        inputs={"photos": digest_of([_identity(photo) for photo in photos])},
        bad_share_limit=config.bad_share_limit,
        total=len(photos),
        known=tuple(_duplicate(photo, unique[photo.key]) for photo in again),
    )
    mark = partial(mark_near_duplicates, distance=config.near_duplicates) if config.near_duplicates else None
    return build_generation(root, plan, units, partial(_worker, config), pool, redrive=redrive, mark=mark)


def _worker(config: ShardConfig, home: str, earlier: tuple[str, ...]) -> Any:
    return partial(_build, config, earlier)


def _build(config: ShardConfig, earlier: tuple[str, ...]) -> RowWorker:
    """In the process that makes rows: only there the face models are imported."""
    from tasks.aligner import ShardWorker

    return ShardWorker(config, earlier)


def _duplicate(photo: Photo, first: Photo) -> StatusRow:
    return StatusRow(
        key=photo.key,
        source=photo.source,
        status="duplicate",
        reason=f"the same bytes as {first.source}",
        stage="images",
    )


def _identity(photo: Photo) -> str:
    """Everything of a photograph that its row depends on; where it lies is not part of it."""
    facts = {name: getattr(photo, name) for name in FACTS if getattr(photo, name)}
    return f"{photo.sha256} {digest_of(facts)}" if facts else photo.sha256


@task(name="shard", persist_result=False)
def shard_task(
    config: ShardConfig, source: SourceConfig, root: str, pool: Pool, redrive: Sequence[str] = ()
) -> Generation:
    """Photographs → aligned image shards."""
    store = open_store(root)
    return shard(config, list_photos(source, store), store, pool, redrive=redrive)
