"""The record that makes a dataset exist: what it holds, what it was made from, and what became of every input."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from storage.canonical import canonical_json, digest_of
from storage.errors import ManifestCorrupt, NotFound
from storage.interface import Store
from storage.shard_index import check_field
from storage.shards import ShardEntry

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_COPY = "manifest.copy.json"
"""Written after the manifest and never read by readers: what `repair_dataset` restores a damaged manifest from."""
STATUS = "status.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    stage: str
    """"images", "maps", "features", …"""
    fields: tuple[str, ...]
    """Every sample has exactly these."""
    config_digest: str
    code_version: str
    inputs: Mapping[str, str]
    """Name of an input → its digest."""
    shards: tuple[ShardEntry, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows by status."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in self.fields:
            check_field(name)
        counted = Counter(entry.name for entry in self.shards)
        if twice := [name for name, count in counted.items() if count > 1]:
            raise ValueError(f"the shard {twice[0]} is named twice in one manifest")
        if negative := [name for name, count in self.counts.items() if count < 0]:
            raise ValueError(f"the count of {negative[0]} rows is negative")

    @property
    def samples(self) -> int:
        return sum(entry.samples for entry in self.shards)

    @property
    def digest(self) -> str:
        """Names this dataset wherever it is an input."""
        return digest_of(self)

    def to_json(self) -> bytes:
        return canonical_json(self)

    def commit(self, store: Store) -> None:
        """Publishes the dataset, after its shards and status. Equal manifests may be committed again.

        Raises Conflict when the dataset exists with another manifest.
        """
        store.create(MANIFEST, self.to_json())
        store.create(MANIFEST_COPY, self.to_json())

    @staticmethod
    def read(store: Store) -> "Manifest | None":
        """None when the dataset does not exist (yet). Raises ManifestCorrupt: damaged, or from a newer version."""
        try:
            data = store.read(MANIFEST)
        except NotFound:
            return None
        return Manifest.from_json(data, f"{store.uri}/{MANIFEST}")

    @staticmethod
    def from_json(data: bytes, place: str = MANIFEST) -> "Manifest":
        """Fields that this version lacks are an error, fields that an older version lacked get their defaults."""
        try:
            body = json.loads(data)
            version = body["schema_version"]
            if not isinstance(version, int) or version < 1:
                raise ValueError(f"schema_version is {version!r}")
            if version > SCHEMA_VERSION:
                raise ManifestCorrupt(
                    f"{place} has version {version}; this program reads up to {SCHEMA_VERSION}: update it"
                )
            shards = tuple(ShardEntry(**entry) for entry in body["shards"])
            return Manifest(**{**body, "fields": tuple(body["fields"]), "shards": shards})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestCorrupt(f"{place} is no manifest ({type(error).__name__}: {error}): it is damaged") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusRow:
    """What became of one input."""

    key: str
    source: str
    """Where it came from: the name or URI of a photo, or the key in the stage before."""
    status: str
    """One word: "ok", or the class of the failure."""
    reason: str = ""
    """Empty for rows that gave a sample, a sentence otherwise."""
    stage: str = ""
    attempt: int = 1
    content_key: str = ""
    """Digest of everything that the row's sample was computed from; equal keys mean that it can be copied."""
    shard: str = ""
    """Name of the shard that holds the sample; empty for rows without one."""


_COLUMNS = pa.schema(
    [(name, pa.int32() if name == "attempt" else pa.string()) for name in StatusRow.__dataclass_fields__]
)


def write_status(store: Store, rows: Iterable[StatusRow]) -> None:
    """Commits one row an input, sorted by key, before the manifest. Equal rows give equal bytes. Raises Conflict."""
    ordered = sorted(rows, key=lambda row: (row.key, row.attempt))
    table = pa.Table.from_pylist([asdict(row) for row in ordered], schema=_COLUMNS)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    store.create(STATUS, buffer.getvalue())


def read_status(store: Store) -> list[StatusRow]:
    """Raises NotFound, ManifestCorrupt."""
    data = store.read(STATUS)
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        return [StatusRow(**row) for row in rows]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise ManifestCorrupt(f"{store.uri}/{STATUS} is no table of rows ({error}): it is damaged") from error
