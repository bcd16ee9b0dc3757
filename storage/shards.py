"""Shards: ordinary WebDataset tars that are committed once, verified before the first sample leaves, never
half there."""

import hashlib
import mmap
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO

from storage.disk import sync_file
from storage.errors import BadKey, NotFound, ObjectCorrupt, ShardCorrupt
from storage.interface import Store
from storage.keys import check_key
from storage.open_shard import open_local
from storage.shard_index import ShardIndex, check_field, check_sample_key, index_tar
from storage.tar import END, header, padding

Sample = tuple[str, Mapping[str, bytes]]
"""A key and the content of each field."""

MOST_SAMPLES = 100_000
LARGEST_SHARD = 8 << 30
"""Bytes."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What a manifest says about a shard."""

    name: str
    samples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if "/" in check_key(self.name) or not self.name.endswith(".tar"):
            raise BadKey(f"{self.name!r} cannot be a shard; write a plain name that ends in .tar")
        if (
            self.samples < 0
            or self.bytes < len(END)
            or len(self.sha256) != 64
            or set(self.sha256) - set("0123456789abcdef")
        ):
            raise ValueError(
                f"{self.name} cannot have {self.samples} samples, {self.bytes} bytes, sha256 {self.sha256!r}"
            )


def shard_name(number: int) -> str:
    """ "shard-000042.tar"."""
    return f"shard-{number:06d}.tar"


def index_name(shard: str) -> str:
    """ "shard-000042.index.json" beside "shard-000042.tar"."""
    return f"{shard.removesuffix('.tar')}.index.json"


def write_shard(store: Store, name: str, samples: Iterable[Sample], fields: Sequence[str]) -> ShardEntry:
    """Commits the shard `name` with all `samples`, in their order, and its index.

    Equal samples give equal bytes; a shard that exists with these bytes is fine.
    Raises Conflict when it exists with others, ValueError for a sample that lacks a field or has another one, for a
    repeated key and beyond MOST_SAMPLES or LARGEST_SHARD, BadKey, StoreFull, StoreUnavailable.
    """
    return _write(store, samples, fields, lambda sha256: name)


def write_named_by_content(store: Store, name: str, samples: Iterable[Sample], fields: Sequence[str]) -> ShardEntry:
    """Like `write_shard`, under a name that tells the content ("shard-000042-1f3ab09c.tar"): it never conflicts."""
    return _write(store, samples, fields, lambda sha256: f"{name.removesuffix('.tar')}-{sha256[:12]}.tar")


def write_shards(
    store: Store, samples: Iterable[Sample], fields: Sequence[str], *, max_samples: int = 1000, first: int = 0
) -> Iterator[ShardEntry]:
    """Cuts a stream of samples into shards of `max_samples`, numbered from `first`; each is committed when yielded."""
    if not 1 <= max_samples <= MOST_SAMPLES:
        raise ValueError(f"max_samples is {max_samples}; a shard takes 1 to {MOST_SAMPLES:,}")
    remaining, number = iter(samples), first
    for head in remaining:
        yield write_shard(store, shard_name(number), chain((head,), islice(remaining, max_samples - 1)), fields)
        number += 1


def describe_shard(store: Store, name: str) -> tuple[ShardEntry, ShardIndex]:
    """Reads a shard that no manifest describes, one from another writer perhaps, and checks all its members.

    Raises NotFound, ShardCorrupt.
    """
    with _local_copy(store, name) as path, path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            index_tar(b"", name, "")  # raises: it is cut off
        with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as tar:
            sha256 = hashlib.sha256(tar).hexdigest()
            index = index_tar(tar, name, sha256)
    return ShardEntry(name, len(index), size, sha256), index


def stream_shard(store: Store, entry: ShardEntry, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples in the order of the shard, each with exactly `fields`.

    The whole shard is verified before the first sample leaves. Raises NotFound, ShardCorrupt.
    """
    with _local_copy(store, entry.name) as path:
        shard = open_local(path, entry)
        try:
            columns = shard.columns(fields)
            for row, key in enumerate(shard.index.keys):
                yield key, dict(zip(fields, shard.sample(row, columns), strict=True))
        finally:
            shard.close()


def download_shard(store: Store, name: str, path: Path, sha256: str | None = None) -> None:
    """Raises NotFound, StoreUnavailable, and ShardCorrupt unless the bytes are the committed ones."""
    try:
        store.download(name, path, sha256)
    except ObjectCorrupt as error:
        raise ShardCorrupt(str(error)) from error


def _write(store: Store, samples: Iterable[Sample], fields: Sequence[str], name_of: Callable[[str], str]) -> ShardEntry:
    with store.staging() as folder:
        staged = folder / "shard.tar"
        with staged.open("wb") as file:
            tar = _TarWriter(file, fields)
            for key, sample in samples:
                tar.add(key, sample)
            index, size = tar.finish()
        entry = ShardEntry(name_of(index.shard_sha256), len(index), size, index.shard_sha256)
        store.create_from_file(entry.name, staged)
        store.create(index_name(entry.name), index.to_json())
    return entry


@contextmanager
def _local_copy(store: Store, name: str) -> Iterator[Path]:
    path = store.local_path(name)
    if path is not None:
        if not path.is_file():
            raise NotFound(f"the shard {path} is missing")
        yield path
        return
    with store.staging() as folder:
        download_shard(store, name, folder / name)
        yield folder / name


class _TarWriter:
    """Writes members to a file while hashing and indexing them."""

    def __init__(self, file: IO[bytes], fields: Sequence[str]) -> None:
        self._file = file
        self._fields = tuple(check_field(field) for field in fields)
        if not fields or len(set(fields)) != len(fields):
            raise ValueError(f"the fields {list(fields)} of a shard must be one or more different names")
        self._digest = hashlib.sha256()
        self._size = 0
        self._rows: dict[str, None] = {}
        self._spans = array("q")

    def add(self, key: str, sample: Mapping[str, bytes]) -> None:
        check_sample_key(key)
        if set(sample) != set(self._fields):
            raise ValueError(
                f"the sample {key} has the fields {sorted(sample)}; this shard takes {sorted(self._fields)}"
            )
        if key in self._rows:
            raise ValueError(f"the sample {key} comes twice; keys are unique in a shard")
        self._rows[key] = None
        for field in self._fields:
            content = sample[field]
            self._put(header(f"{key}.{field}", len(content)))
            self._spans.extend((self._size, len(content)))
            self._put(content)
            self._put(padding(len(content)))
        if len(self._rows) > MOST_SAMPLES or self._size > LARGEST_SHARD:
            raise ValueError(
                f"the shard grew to {len(self._rows):,} samples and {self._size:,} bytes; "
                f"at most {MOST_SAMPLES:,} and {LARGEST_SHARD:,} go into one: use more shards"
            )

    def finish(self) -> tuple[ShardIndex, int]:
        """The index, and the size in bytes."""
        self._put(END)
        sync_file(self._file)
        return ShardIndex(self._digest.hexdigest(), self._fields, tuple(self._rows), self._spans), self._size

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)
