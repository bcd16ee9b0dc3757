"""Rows of earlier generations by content key, so that an unchanged row is copied instead of computed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from storage.manifest import Manifest, StatusRow, read_status
from storage.reader import SampleReader
from storage.stores import Store, open_store
from storage.units import FOLDER, Unit, read_unit
from tasks.rows import OK

CACHE_VARIABLE = "INSTAFACE_CACHE"
IN_ORDER = 3
"""Shards to keep open for those who go through a dataset in its order."""


def cache_folder(name: str) -> Path:
    """Folder on this machine's disk for what can be fetched again: INSTAFACE_CACHE, ~/.cache/instaface by default."""
    return Path(os.environ.get(CACHE_VARIABLE, Path.home() / ".cache" / "instaface")) / name


def open_reader(store: Store, manifest: Manifest, fields: Sequence[str], *, open_shards: int = 256) -> SampleReader:
    """Random access to a generation; shards of a remote store pass through a verified cache on the local disk.

    Who goes through a dataset in its order needs few `open_shards` at once: what is mapped counts as its memory.
    """
    return SampleReader(store, manifest, fields, cache_folder("shards"), open_shards=open_shards)


def decided_units(store: Store) -> Iterator[Unit]:
    """What a generation, finished or not, has decided so far."""
    for info in store.list(f"{FOLDER}/"):
        unit = read_unit(store, int(info.key.removeprefix(f"{FOLDER}/").removesuffix(".json")))
        if unit is not None:
            yield unit


class EarlierRows:
    """Opens a generation only when one of its rows is asked for; holds one line a row of all of them."""

    def __init__(self, generations: Sequence[str], fields: Sequence[str]) -> None:
        self._fields = list(fields)
        self._where: dict[str, tuple[str, str]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._readers: dict[str, SampleReader] = {}
        for uri in generations:
            self._add(uri)

    def _add(self, uri: str) -> None:
        store = open_store(uri)
        manifest = Manifest.read(store)
        rows: Sequence[StatusRow]
        if manifest is None:  # stopped before its end, or erased: its units are all there is
            units = list(decided_units(store))
            rows = [row for unit in units for row in unit.rows]
            entries = tuple(unit.entry for unit in units if unit.entry is not None)
            manifest = Manifest(
                stage="", fields=tuple(self._fields), config_digest="", code_version="", inputs={}, shards=entries
            )
        elif set(self._fields) <= set(manifest.fields):
            rows = read_status(store)
        else:
            return  # of an older form
        self._manifests[uri] = manifest
        for row in rows:
            if row.status == OK:
                self._where[row.content_key] = (uri, row.key)

    def get(self, content_key: str) -> Mapping[str, bytes] | None:
        if content_key not in self._where:
            return None
        uri, key = self._where[content_key]
        if uri not in self._readers:
            self._readers[uri] = open_reader(open_store(uri), self._manifests[uri], self._fields, open_shards=IN_ORDER)
        return dict(self._readers[uri].by_key(key)[1])
