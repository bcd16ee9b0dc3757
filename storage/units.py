"""Units of work: a shard together with what became of its inputs, decided once even when attempts differ.

Time-outs and crashes make two attempts at one unit differ. So an attempt first stores its shard under a name that
holds the content's digest, which collides with nothing, and then tries to create the unit's record. Whoever creates it
has decided; every other attempt, a late one included, adopts that decision.
"""

import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain

from storage.canonical import canonical_json
from storage.errors import Conflict, ManifestCorrupt, NotFound
from storage.interface import Store
from storage.manifest import StatusRow
from storage.shards import Sample, ShardEntry, shard_name, write_named_by_content

FOLDER = "units"


@dataclass(frozen=True, slots=True)
class Unit:
    index: int
    entry: ShardEntry | None
    """None when no input gave a sample."""
    rows: tuple[StatusRow, ...]
    """One an input; those that gave a sample name the shard."""


def commit_unit(
    store: Store, index: int, samples: Sequence[Sample], fields: Sequence[str], rows: Sequence[StatusRow]
) -> Unit:
    """Stores the shard and decides the unit, or returns what was decided before. Raises as `write_shard` does."""
    entry = write_unit_shard(store, index, samples, fields)
    return decide_unit(store, index, entry, {key for key, _ in samples}, rows)


def write_unit_shard(store: Store, index: int, samples: Iterable[Sample], fields: Sequence[str]) -> ShardEntry | None:
    """Stores the shard of a unit from a stream of samples; None when there is not one. Raises as `write_shard` does."""
    stream = iter(samples)
    first = next(stream, None)
    if first is None:
        return None
    return write_named_by_content(store, shard_name(index), chain((first,), stream), fields)


def decide_unit(
    store: Store, index: int, entry: ShardEntry | None, held: Container[str], rows: Sequence[StatusRow]
) -> Unit:
    """Decides a unit whose shard holds the keys `held`, or returns what was decided before."""
    placed = tuple(replace(row, shard=entry.name if entry and row.key in held else "") for row in rows)
    unit = Unit(index, entry, placed)
    try:
        store.create(f"{FOLDER}/{index:06d}.json", canonical_json(asdict(unit)))
    except Conflict:
        decided = read_unit(store, index)
        if decided is None:
            raise
        return decided
    return unit


def read_unit(store: Store, index: int) -> Unit | None:
    """None when the unit is not decided yet. Raises ManifestCorrupt for a damaged record."""
    try:
        data = store.read(f"{FOLDER}/{index:06d}.json")
    except NotFound:
        return None
    try:
        body = json.loads(data)
        entry = ShardEntry(**body["entry"]) if body["entry"] is not None else None
        return Unit(body["index"], entry, tuple(StatusRow(**row) for row in body["rows"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestCorrupt(f"{store.uri}/{FOLDER}/{index:06d}.json is no record of a unit: it is damaged") from error
