"""One generation of one stage: shards, a status row for every input, and a manifest that makes it exist.

A generation is a folder named by a digest of what went into it (the stage's configuration and its input), so a
rerun with equal input finds it finished, and another input cannot collide with it:

    <root>/<stage>/<digest>/shard-000000-1f3a….tar       the good rows of a unit, named by content
    <root>/<stage>/<digest>/units/000000.json            one finished unit: its shard and its status rows
    <root>/<stage>/<digest>/quarantine/000000-….jsonl    rows that failed, with the reason
    <root>/<stage>/<digest>/status.parquet               every input row
    <root>/<stage>/<digest>/manifest.json                written last, once
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.images import BadImage
from storage.canonical import canonical_json, digest_of, sha256_of
from storage.errors import StoreUnavailable
from storage.manifest import Manifest, StatusRow, read_status, write_status
from storage.reader import SampleReader
from storage.stores import Store, open_store
from storage.units import Unit, commit_unit, read_unit
from tasks.progress import StageProgress
from tasks.ray_pool import UnitWorker, run_units

OK = "ok"
CACHE_VARIABLE = "INSTAFACE_CACHE"


class TooManyBadRows(ValueError):
    """More rows failed than the configuration allows; nothing was committed."""


class RowFailed(ValueError):
    """One row cannot be used: `status` is one machine word, the message a sentence."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One input row of a unit."""

    key: str
    source: str
    """Where a person finds the original."""
    content_key: str
    """Digest of everything the row's output depends on; equal keys mean equal output."""


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

    def store(self) -> Store:
        return open_store(self.uri)

    def reader(self, fields: Sequence[str] | None = None) -> SampleReader:
        return open_reader(self.store(), self.manifest, fields or self.manifest.fields)

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

    @property
    def digest(self) -> str:
        return digest_of({"stage": self.stage, "config": self.config_digest, "inputs": dict(self.inputs)})


def build_generation(
    root: Store,
    plan: Plan,
    units: Sequence[Any],
    make_worker: Callable[[str, tuple[str, ...]], Callable[[], UnitWorker[Any, Unit]]],
    *,
    workers: int,
) -> Generation:
    """Find the generation finished, or finish it: units that an earlier, killed run completed are not redone.

    `make_worker(home, earlier)` gives the factory of an actor's worker for the generation at `home`, which may copy
    unchanged rows from the `earlier` generations of the stage.

    Raises:
        TooManyBadRows: the share of failed rows is above the plan's limit, or no row is good.
        UnitFailed: a unit as a whole could not be done.
    """
    home = root.child(f"{plan.stage}/{plan.digest}")
    with StageProgress(plan.stage, total=plan.total) as progress:
        manifest = Manifest.read(home)
        if manifest is not None:
            progress.reused(manifest.counts)
            return Generation(stage=plan.stage, uri=home.uri, manifest=manifest, reused=True, seconds=progress.seconds)
        results: dict[int, Unit] = {}
        for unit in units:
            finished = read_unit(home, unit.index)
            if finished is not None:
                results[unit.index] = finished
                progress.advance(finished.rows)
        remaining = [unit for unit in units if unit.index not in results]
        factory = make_worker(home.uri, earlier_generations(root, plan.stage))
        for result in run_units(factory, remaining, workers=workers):
            results[result.index] = result
            progress.advance(result.rows)
        manifest = _commit(home, plan, [results[index] for index in sorted(results)])
    return Generation(stage=plan.stage, uri=home.uri, manifest=manifest, reused=False, seconds=progress.seconds)


def _commit(home: Store, plan: Plan, results: Sequence[Unit]) -> Manifest:
    rows = [row for result in results for row in result.rows]
    counts = Counter(row.status for row in rows)
    if len(rows) != plan.total:
        raise AssertionError(f"{plan.stage}: {len(rows)} status rows for {plan.total} inputs")
    _refuse_too_many_bad(plan, rows, counts)
    write_status(home, rows)
    manifest = Manifest(
        stage=plan.stage,
        fields=plan.fields,
        config_digest=plan.config_digest,
        code_version=version("instaface"),
        inputs=dict(plan.inputs),
        shards=tuple(result.entry for result in results if result.entry is not None),
        counts=dict(counts),
    )
    manifest.commit(home)
    return manifest


def _refuse_too_many_bad(plan: Plan, rows: Sequence[StatusRow], counts: Mapping[str, int]) -> None:
    bad = len(rows) - counts.get(OK, 0)
    reasons = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if status != OK)
    if bad == len(rows):
        first = next(row for row in rows if row.status != OK)
        raise TooManyBadRows(
            f"{plan.stage}: none of {len(rows)} inputs can be used ({reasons}); for example {first.source}: {first.reason}"
        )
    if bad > plan.bad_share_limit * len(rows):
        raise TooManyBadRows(
            f"{plan.stage}: {bad} of {len(rows)} inputs failed ({reasons}), more than the allowed "
            f"{plan.bad_share_limit:.0%}. Nothing was committed; look at the quarantine, repair the input or raise bad_share_limit"
        )


def open_reader(store: Store, manifest: Manifest, fields: Sequence[str]) -> SampleReader:
    """Random access to a generation; shards of a remote store pass through a verified cache on the local disk."""
    cache = Path(os.environ.get(CACHE_VARIABLE, Path.home() / ".cache" / "instaface" / "shards"))
    return SampleReader(store, manifest, fields, cache)


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


class EarlierRows:
    """Rows of earlier generations by content key, so that an unchanged row is copied instead of computed."""

    def __init__(self, generations: Sequence[str], fields: Sequence[str]) -> None:
        self._fields = list(fields)
        self._where: dict[str, tuple[str, str]] = {}
        self._readers: dict[str, SampleReader] = {}
        for uri in generations:
            manifest = Manifest.read(open_store(uri))
            if manifest is None or not set(fields) <= set(manifest.fields):
                continue  # erased meanwhile, or of an older form
            for row in read_status(open_store(uri)):
                if row.status == OK:
                    self._where[row.content_key] = (uri, row.key)

    def get(self, content_key: str) -> dict[str, bytes] | None:
        if content_key not in self._where:
            return None
        uri, key = self._where[content_key]
        if uri not in self._readers:
            store = open_store(uri)
            manifest = Manifest.read(store)
            if manifest is None:  # erased meanwhile
                return None
            self._readers[uri] = open_reader(store, manifest, self._fields)
        return dict(self._readers[uri].by_key(key)[1])


def write_unit(
    home: Store,
    plan_stage: str,
    index: int,
    rows: Sequence[Row],
    fields: Sequence[str],
    make: Callable[[Row], Mapping[str, bytes]],
    earlier: EarlierRows,
    complete: Callable[[Row, Mapping[str, bytes]], Mapping[str, bytes]] | None = None,
) -> Unit:
    """Make every row of a unit, write the good ones as one shard, and record how each row went.

    `complete` fills in what costs nothing and may have changed without the row's content key, in copied samples too.
    This is the row boundary: whatever `make` raises for a row becomes that row's status, and costs that row only.
    """
    samples: list[tuple[str, Mapping[str, bytes]]] = []
    status: list[StatusRow] = []
    for row in rows:
        word, reason = OK, ""
        try:
            sample = earlier.get(row.content_key) or make(row)
            samples.append((row.key, complete(row, sample) if complete else sample))
        except (RowFailed, BadImage) as error:
            word, reason = getattr(error, "status", "corrupt"), str(error)
        except StoreUnavailable:
            raise  # says nothing about the row: the unit as a whole has to be tried again
        except Exception as error:  # noqa: BLE001 - the row boundary
            word, reason = "error", f"{type(error).__name__}: {error}"
        status.append(
            StatusRow(
                key=row.key, source=row.source, status=word, reason=reason, stage=plan_stage, attempt=1,
                content_key=row.content_key,
            )
        )  # fmt: skip
    failed = [row for row in status if row.status != OK]
    if failed:
        lines = b"\n".join(canonical_json(asdict(row)) for row in failed) + b"\n"
        home.create(f"quarantine/{index:06d}-{sha256_of(lines)[:16]}.jsonl", lines)
    return commit_unit(home, index, samples, fields, status)
