"""plan: what preprocessing a source would take, from a probe of a few photographs on this machine, before anything starts."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from storage.stores import Store
from tasks.preset import Preset
from tasks.progress import in_prefect_run
from tasks.sources import SourceConfig, list_photos
from tasks.workspace import store_at

PROBE = 20
# A tar header and padding for every field, and the row's line in index, unit record and status table.
_BYTES_A_ROW = 6 * 1024
_ROOM_TO_SPARE = 1.1


class PlanTooLarge(ValueError):
    """The result would not fit on the disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEstimate:
    stage: str
    rows: int
    shards: int
    bytes: int
    seconds_a_row: float
    """Of one core."""
    minutes: float
    """On all actors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    photographs: int
    probed: int
    failed: Mapping[str, int]
    """Probed photographs that cannot be used, by status."""
    actors: int
    stages: Sequence[StageEstimate]
    bytes: int
    free: int | None
    """Bytes free where the results would lie; None on S3, which does not tell."""
    minutes: float
    listing_seconds: float


def estimate(preset: Preset, source: SourceConfig, root: Store, actors: int) -> Estimate:
    """List the source, run PROBE photographs spread over it through all stages, and extrapolate.

    Raises:
        PlanTooLarge: the disk cannot take the result.
        NoPhotos: there is nothing to do.
    """
    from tasks.probe import Probe  # all models

    began = time.monotonic()
    photos = list_photos(source, root)
    listing = time.monotonic() - began
    chosen = [photos[i * len(photos) // min(PROBE, len(photos))] for i in range(min(PROBE, len(photos)))]
    probe = Probe(preset)
    for photo in chosen:
        probe.take(photo)
    twice = {"maps": preset.extract.flip, "features": preset.extract.flip or preset.encode.flip}
    stages = []
    usable = len(photos)
    for stage, shown in probe.shown.items():
        good = [size for size in shown.sizes if size]
        rows = usable * (2 if twice.get(stage) else 1)
        usable = round(usable * len(good) / max(len(shown.sizes), 1))
        kept = usable * (2 if twice.get(stage) else 1)
        seconds = sum(shown.seconds) / max(len(shown.seconds), 1)
        stages.append(
            StageEstimate(
                stage=stage, rows=rows, shards=-(-len(photos) // preset.shard.samples_per_shard),
                bytes=round(kept * (sum(good) / max(len(good), 1) + _BYTES_A_ROW)), seconds_a_row=round(seconds, 4),
                minutes=round(rows * seconds / actors / 60, 4),
            )
        )  # fmt: skip
    total = Estimate(
        photographs=len(photos), probed=len(chosen), failed=probe.failed, actors=actors, stages=stages,
        bytes=sum(one.bytes for one in stages), free=_free(root), listing_seconds=round(listing, 2),
        minutes=round(sum(one.minutes for one in stages), 4),
    )  # fmt: skip
    _refuse_small_disk(total, root)
    return total


def _free(root: Store) -> int | None:
    place = root.local_path("manifest.json")
    return None if place is None else shutil.disk_usage(next(p for p in place.parents if p.exists())).free


def _refuse_small_disk(total: Estimate, root: Store) -> None:
    if total.free is not None and total.bytes * _ROOM_TO_SPARE > total.free:
        raise PlanTooLarge(
            f"{total.photographs:,} photographs would need about {total.bytes * _ROOM_TO_SPARE / 2**30:.1f} GiB below "
            f"{root.uri}, which has {total.free / 2**30:.1f} GiB free: free some space, or choose another root"
        )


@task(name="plan", persist_result=False)
def plan_task(preset: Preset, source: SourceConfig, root: str | None, workers: int | None) -> dict[str, Any]:
    """What it would take; nothing is written but what listing remembers."""
    store = store_at(root)
    found = estimate(preset, source, store, workers or os.cpu_count() or 1)
    if in_prefect_run():
        create_table_artifact(
            key="plan",
            table=[asdict(stage) for stage in found.stages],
            description=f"{found.photographs:,} photographs: {found.bytes / 2**30:.2f} GiB, {found.minutes:.1f} min",
        )
    return asdict(found)
