"""Random access to the samples of a dataset, in any order, without reading what lies between."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from storage.cache import ShardCache
from storage.errors import NotFound
from storage.interface import Store
from storage.manifest import Manifest
from storage.open_shard import OpenShard, open_local
from storage.shard_index import ShardIndex, check_field
from storage.shards import ShardEntry, index_name


class SampleReader:
    """`reader[i]` and `reader.by_key(key)` give (key, {field: bytes}); iteration takes the order of the manifest.

    A shard is verified as a whole (size, sha256, every sample has every field) when its first sample is asked for, and
    stays mapped, `open_shards` of them at most. Shards of remote stores pass through a cache on the local disk. A
    pickled reader opens its shards anew. Reading raises NotFound, ShardCorrupt, StoreUnavailable.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        fields: Sequence[str],
        cache_dir: str | Path | None = None,
        *,
        cache_bytes: int = 64 << 30,
        open_shards: int = 256,
    ) -> None:
        """Reads nothing yet. Raises ValueError for a field that the manifest lacks, a remote store without cache_dir."""
        missing = [field for field in fields if check_field(field) not in manifest.fields]
        if missing:
            raise ValueError(f"the dataset has no field {missing[0]!r}; it has {', '.join(manifest.fields)}")
        remote = store.local_path("any") is None
        if remote and cache_dir is None:
            raise ValueError(f"{store.uri} is not on this machine: name a cache_dir for its shards")
        if open_shards < 1:
            raise ValueError(f"open_shards is {open_shards}; at least one shard must be open")
        self.manifest = manifest
        self.fields = tuple(fields)
        self._store = store
        self._cache = ShardCache(cache_dir, cache_bytes) if remote and cache_dir is not None else None
        self._ends = list(accumulate(entry.samples for entry in manifest.shards))
        self._open_shards = open_shards
        self._open: dict[int, tuple[OpenShard, list[int]]] = {}
        self._places: dict[str, int] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[str, dict[str, bytes]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        shard, columns = self._open.get(number) or self._open_shard(number)
        row = index - self._ends[number] + len(shard.index)
        return shard.index.keys[row], dict(zip(self.fields, shard.sample(row, columns), strict=True))

    def __iter__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        return (self[index] for index in range(len(self)))

    @property
    def keys(self) -> list[str]:
        """All keys in order. The first call reads the index of every shard."""
        return list(self._place)

    def __contains__(self, key: object) -> bool:
        """The first call reads the index of every shard."""
        return key in self._place

    def keys_of_shard(self, number: int) -> Sequence[str]:
        """The keys of one shard in order. Reads its index only."""
        return self._keys_of(number)

    def by_key(self, key: str) -> tuple[str, dict[str, bytes]]:
        """Raises NotFound for a key that the dataset lacks. The first call reads the index of every shard."""
        if key not in self._place:
            raise NotFound(f"no sample of {self._store.uri} has the key {key!r}")
        return self[self._place[key]]

    def close(self) -> None:
        """Lets go of all shards; a later read opens them again."""
        for shard, _ in self._open.values():
            shard.close()
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @property
    def _place(self) -> dict[str, int]:
        if self._places is None:
            keys = [key for number in range(len(self.manifest.shards)) for key in self._keys_of(number)]
            self._places = {key: place for place, key in enumerate(keys)}
        return self._places

    def _keys_of(self, number: int) -> Sequence[str]:
        entry = self.manifest.shards[number]
        index = ShardIndex.from_json(self._sidecar(entry) or b"", entry.sha256)
        return index.keys if index else self._open_shard(number)[0].index.keys

    def _open_shard(self, number: int) -> tuple[OpenShard, list[int]]:
        entry = self.manifest.shards[number]
        sidecar = self._sidecar(entry)
        if self._cache is not None:
            shard = self._cache.open(self._store, entry, sidecar)
        else:
            path = self._store.local_path(entry.name)
            assert path is not None, "checked at construction"
            shard = open_local(path, entry, sidecar)
        opened = shard, shard.columns(self.fields)
        if len(self._open) >= self._open_shards:
            # Dropped, not closed: another thread may be reading from it.
            del self._open[next(iter(self._open))]
        self._open[number] = opened
        return opened

    def _sidecar(self, entry: ShardEntry) -> bytes | None:
        try:
            return self._store.read(index_name(entry.name))
        except NotFound:
            return None
