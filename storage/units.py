"""Units of work: a shard together with what became of its inputs, decided once even when attempts differ.

Time-outs and crashes make two attempts at one unit differ. So an attempt first stores its shard under a name
that holds the content's digest, which collides with nothing, and then tries to create the unit's record.
Whoever creates it has decided; every other attempt, a late one included, adopts that decision.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from storage.canonical import canonical_json
from storage.errors import Conflict, ManifestCorrupt, NotFound
from storage.interface import Store
from storage.manifest import StatusRow
from storage.shards import Sample, ShardEntry, shard_name, write_named_by_content


@dataclass(frozen=True, slots=True)
class Unit:
    entry: ShardEntry
    rows: tuple[StatusRow, ...]
    """One an input; those with status "good" name the shard."""


def record_name(number: int) -> str:
    """ "unit-000042.json"."""
    return f"unit-{number:06d}.json"


def commit_unit(
    store: Store, number: int, samples: Iterable[Sample], fields: Sequence[str], rows: Iterable[StatusRow]
) -> Unit:
    """Stores the shard and decides the unit, or returns what was decided before.

    `rows` is read after `samples` is exhausted, so both may come from one pass. Raises as `write_shard` does.
    """
    entry = write_named_by_content(store, shard_name(number), samples, fields)
    placed = tuple(replace(row, shard=entry.name if row.status == "good" else "") for row in rows)
    unit = Unit(entry, placed)
    try:
        store.create(record_name(number), canonical_json({"entry": entry, "rows": [asdict(row) for row in placed]}))
    except Conflict:
        decided = read_unit(store, number)
        if decided is None:
            raise
        return decided
    return unit


def read_unit(store: Store, number: int) -> Unit | None:
    """None when the unit is not decided yet. Raises ManifestCorrupt for a damaged record."""
    try:
        data = store.read(record_name(number))
    except NotFound:
        return None
    try:
        body = json.loads(data)
        return Unit(ShardEntry(**body["entry"]), tuple(StatusRow(**row) for row in body["rows"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestCorrupt(f"{store.uri}/{record_name(number)} is no record of a unit: it is damaged") from error
