"""One generation of one stage: shards, a status row for every input, and a manifest that makes it exist.

A generation is a folder named by a digest of what went into it (the stage's configuration and its input), so a
rerun with equal input finds it finished, and another input cannot collide with it:

    <root>/<stage>/<digest>/shard-000000-1f3a….tar       the good rows of a unit, named by content
    <root>/<stage>/<digest>/units/000000.json            one finished unit: its shard and its status rows
    <root>/<stage>/<digest>/quarantine/000000-….jsonl    rows that failed, with the reason
    <root>/<stage>/<digest>/status.parquet               every input row
    <root>/<stage>/<digest>/manifest.json                written last, once

What failed may be tried again (`redrive`): that is another attempt at the same plan, a generation of its own, into which
every good row is copied and only the others are made. The last finished attempt is the one that counts.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

import cloudpickle

from storage.canonical import digest_of
from storage.manifest import Manifest, StatusRow, read_status, write_status
from storage.reader import SampleReader
from storage.stores import Store, open_store
from storage.units import Unit, read_unit
from tasks.earlier_rows import CACHE_VARIABLE, EarlierRows, decided_units, open_reader
from tasks.progress import StageProgress
from tasks.ray_pool import Pool, PoolConfig, run_units
from tasks.rows import DUPLICATES, OK, Row, RowFailed, RowWorker
from tasks.unit_host import HostSettings, PackedUnit, UnitHost

__all__ = [
    "CACHE_VARIABLE", "OK", "EarlierRows", "Generation", "Plan", "Row", "RowFailed", "TooManyBadRows",
    "build_generation", "earlier_generations", "find_generation", "open_reader",
]  # fmt: skip


class TooManyBadRows(ValueError):
    """More rows failed than the configuration allows; nothing was committed."""


class DiskTooSmall(ValueError):
    """The rest of the work does not fit on the disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A finished generation."""

    stage: str
    uri: str
    manifest: Manifest
    reused: bool
    """True where nothing had to be done."""
    seconds: float = 0.0
    """What it took, now."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Actor-seconds of this run: load (models, reading a unit), rows (making them), commit; and the number of actors."""

    def store(self) -> Store:
        return open_store(self.uri)

    def reader(self, fields: Sequence[str] | None = None, *, open_shards: int = 256) -> SampleReader:
        return open_reader(self.store(), self.manifest, fields or self.manifest.fields, open_shards=open_shards)

    def status(self) -> list[StatusRow]:
        return read_status(self.store())


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a generation is made of, known before any model is loaded."""

    stage: str
    fields: tuple[str, ...]
    config_digest: str
    inputs: Mapping[str, str]
    """Digests of what goes in, by name: photographs, or the manifest of the stage before."""
    bad_share_limit: float
    total: int
    """Rows in all, the known ones included."""
    known: tuple[StatusRow, ...] = ()
    """Rows whose fate is clear beforehand: duplicates."""
    attempt: int = 1
    """Later ones retry what failed in those before."""

    @property
    def digest(self) -> str:
        body: dict[str, Any] = {"stage": self.stage, "config": self.config_digest, "inputs": dict(self.inputs)}
        return digest_of(body if self.attempt == 1 else {**body, "attempt": self.attempt})

    def home(self, root: Store) -> Store:
        return root.child(f"{self.stage}/{self.digest}")


class WorkUnit(Protocol):
    """A shard's worth of input. Its text says which, for messages."""

    @property
    def index(self) -> int: ...


MakeWorker = Callable[[str, tuple[str, ...]], Callable[[], RowWorker]]
"""(home, URIs of earlier generations) → what builds the worker in its process."""
Mark = Callable[[Sequence[StatusRow], SampleReader], Sequence[StatusRow]]
"""(rows, reader of their meta.json) → the same rows, some with a reason."""


def build_generation(
    root: Store,
    plan: Plan,
    units: Sequence[WorkUnit],
    make_worker: MakeWorker,
    pool: Pool,
    *,
    redrive: Sequence[str] = (),
    mark: Mark | None = None,
) -> Generation:
    """Find the generation finished, or finish it: units that an earlier, killed run completed are not redone.

    `make_worker(home, earlier)` gives what builds the worker of a process for the generation at `home`, which may copy
    unchanged rows from the `earlier` generations of the stage. Where the last attempt has rows of the statuses
    `redrive`, its failed rows are tried again. `mark` may add reasons to good rows before they are committed.

    Raises:
        TooManyBadRows: the share of failed rows is above the plan's limit, or no row is good.
        DiskTooSmall: the disk cannot take what is still to come.
        UnitFailed: a unit as a whole could not be done.
    """
    before: tuple[str, ...] = ()
    if redrive:
        plan, before = _next_attempt(root, plan, len(units), redrive)
    else:
        plan = _latest(root, plan)
    home = plan.home(root)
    with StageProgress(plan.stage, total=plan.total) as progress:
        manifest = Manifest.read(home)
        if manifest is not None:
            progress.reused(manifest.counts)
            return Generation(stage=plan.stage, uri=home.uri, manifest=manifest, reused=True, seconds=progress.seconds)
        results: dict[int, Unit] = {}
        progress.advance(plan.known)
        for unit in units:
            finished = read_unit(home, unit.index)
            if finished is not None:
                results[unit.index] = finished
                progress.advance(finished.rows)
        remaining = [unit for unit in units if unit.index not in results]
        actors = 0
        if remaining:
            workers = pool.ready()
            actors = min(workers.actors, len(remaining))
            worker = make_worker(home.uri, (*earlier_generations(root, plan.stage), *before))
            for result in _done(plan, home, worker, remaining, workers, progress):
                results[result.index] = result
                progress.advance(result.rows, unit=result.index)
                _refuse_full_disk(home, plan, result, plan.total - progress.done)
        manifest = _commit(home, plan, [results[index] for index in sorted(results)], mark)
        parts = {**progress.parts, "actors": float(actors)}
    return Generation(
        stage=plan.stage, uri=home.uri, manifest=manifest, reused=False, seconds=progress.seconds, parts=parts
    )


def _done(
    plan: Plan,
    home: Store,
    worker: Callable[[], RowWorker],
    units: Sequence[WorkUnit],
    pool: PoolConfig,
    progress: StageProgress,
) -> Iterator[Unit]:
    """The units, as the pool finishes them."""
    settings = HostSettings(
        stage=plan.stage, home=home.uri, fields=plan.fields, limits=pool.limits, attempt=plan.attempt,
        worker=cloudpickle.dumps(worker),
    )  # fmt: skip
    packed = [PackedUnit(index=unit.index, label=str(unit), payload=cloudpickle.dumps(unit)) for unit in units]
    return run_units(partial(UnitHost, settings), packed, pool, watch=progress.watch)


def _latest(root: Store, plan: Plan) -> Plan:
    """The plan of the last finished attempt, the first one where there is none."""
    latest, following = plan, replace(plan, attempt=2)
    while Manifest.read(following.home(root)) is not None:
        latest, following = following, replace(following, attempt=following.attempt + 1)
    return latest


def _next_attempt(root: Store, plan: Plan, units: int, statuses: Sequence[str]) -> tuple[Plan, tuple[str, ...]]:
    """The plan whose generation retries rows of these statuses, and the attempt to copy from where that is unfinished.

    An attempt that was refused for too many bad rows has decided all its units; one that was killed has not, and goes on.
    """
    before: tuple[str, ...] = ()
    while True:
        home, following = plan.home(root), replace(plan, attempt=plan.attempt + 1)
        later = Manifest.read(following.home(root)) is not None or any(following.home(root).list("units/"))
        if not later:
            finished = Manifest.read(home) is not None
            rows = read_status(home) if finished else [row for unit in decided_units(home) for row in unit.rows]
            decided = finished or sum(1 for _ in home.list("units/")) == units
            if not decided or not any(row.status in statuses for row in rows):
                return plan, before
            return following, () if finished else (home.uri,)
        before = () if Manifest.read(home) is not None else (home.uri,)
        plan = following


def _refuse_full_disk(home: Store, plan: Plan, unit: Unit, rows_left: int) -> None:
    place = home.local_path("manifest.json")
    if place is None or unit.entry is None or not rows_left:
        return
    free, needed = shutil.disk_usage(place.parent).free, rows_left * unit.entry.bytes // unit.entry.samples
    if needed > free:
        raise DiskTooSmall(
            f"{plan.stage}: {rows_left} more rows need about {needed / 2**30:.1f} GiB and {place.parent} has "
            f"{free / 2**30:.1f} GiB free. What is done is kept: free some space and run it again"
        )


def _commit(home: Store, plan: Plan, results: Sequence[Unit], mark: Mark | None) -> Manifest:
    rows: Sequence[StatusRow] = [*plan.known, *(row for result in results for row in result.rows)]
    counts = Counter(row.status for row in rows)
    if len(rows) != plan.total:
        raise AssertionError(f"{plan.stage}: {len(rows)} status rows for {plan.total} inputs")
    _refuse_too_many_bad(plan, rows, counts)
    manifest = Manifest(
        stage=plan.stage,
        fields=plan.fields,
        config_digest=plan.config_digest,
        code_version=version("instaface"),
        inputs=dict(plan.inputs),
        shards=tuple(result.entry for result in results if result.entry is not None),
        counts=dict(counts),
    )
    write_status(home, mark(rows, open_reader(home, manifest, ("meta.json",))) if mark else rows)
    manifest.commit(home)
    return manifest


def _refuse_too_many_bad(plan: Plan, rows: Sequence[StatusRow], counts: Mapping[str, int]) -> None:
    fine = (OK, *DUPLICATES)
    bad = sum(n for status, n in counts.items() if status not in fine)
    reasons = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if status not in fine)
    if not counts.get(OK):
        first = next((row for row in rows if row.status not in fine), rows[0])
        raise TooManyBadRows(
            f"{plan.stage}: none of {len(rows)} inputs can be used ({reasons}); for example {first.source}: {first.reason}"
        )
    if bad > plan.bad_share_limit * len(rows):
        raise TooManyBadRows(
            f"{plan.stage}: {bad} of {len(rows)} inputs failed ({reasons}), more than the allowed "
            f"{plan.bad_share_limit:.0%}. Nothing was committed; look at the quarantine, repair the input or raise bad_share_limit"
        )


def earlier_generations(root: Store, stage: str) -> tuple[str, ...]:
    """URIs of the finished generations of a stage."""
    suffix = "/manifest.json"
    keys = [info.key for info in root.child(stage).list() if info.key.endswith(suffix)]
    return tuple(root.child(f"{stage}/{key.removesuffix(suffix)}").uri for key in keys)


def find_generation(root: Store, stage: str, uri: str | None) -> Generation:
    """The generation at `uri`, or the only finished one of the stage.

    Raises:
        ValueError: nothing finished there, or several to choose from.
    """
    found = (uri,) if uri is not None else earlier_generations(root, stage)
    if not found:
        raise ValueError(f"{root.uri} has no finished {stage}: run preprocess-ffhq with this root first")
    if len(found) > 1:
        raise ValueError(f"{root.uri} has several generations of {stage}; say which one: {', '.join(found)}")
    manifest = Manifest.read(open_store(found[0]))
    if manifest is None or manifest.stage != stage:
        raise ValueError(
            f"{found[0]} is no finished generation of {stage}; preprocess-ffhq prints the URIs of its results"
        )
    return Generation(stage=stage, uri=found[0], manifest=manifest, reused=True)
