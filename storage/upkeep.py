"""Looking after what is stored: verify all of it, repair what can be repaired, clean up after killed writers.

These functions work on a whole root or any folder of it and return rows for a table; they print nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from storage.canonical import sha256_of
from storage.checkpoints import CheckpointStore
from storage.errors import CheckpointCorrupt, ManifestCorrupt, NotFound, ObjectCorrupt
from storage.interface import Leftover, Store
from storage.manifest import MANIFEST, MANIFEST_COPY, STATUS, Manifest, read_status
from storage.records import RECORD
from storage.shard_index import ShardIndex
from storage.shards import ShardEntry, describe_shard, index_name
from storage.units import FOLDER

Verdict = Literal["ok", "damaged", "missing", "surplus", "unfinished"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of a verification."""

    place: str
    """Folder of the dataset or of the checkpoints, relative to the root; "" is the root itself."""
    name: str
    """Of the object."""
    verdict: Verdict
    detail: str = ""
    samples: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Repair:
    """One row of a repair."""

    place: str
    name: str
    done: bool
    """False: it cannot be repaired from what is stored; `detail` says what to do."""
    detail: str


def verify_dataset(root: Store) -> Iterator[Finding]:
    """Re-reads every byte below `root`: manifests, shards, indexes, status tables, checkpoints, records.

    Yields a finding an object, good ones included. Raises StoreUnavailable only.
    """
    for place, names in _folders(root).items():
        store = root.child(place) if place else root
        if _is_checkpoint(place):
            yield from _verify_checkpoint(root, place)
        elif MANIFEST in names:
            yield from _verify_generation(store, place, names)
        elif RECORD in names:
            yield from _verify_record(store, place)
        elif shards := [name for name in names if name.endswith(".tar")]:
            detail = f"{len(shards)} shards and no manifest: interrupted, or at work; run the stage again"
            yield Finding(place, MANIFEST, "unfinished", detail)


def repair_dataset(root: Store, *, withdraw: bool = False) -> Iterator[Repair]:
    """Rebuilds indexes from shards and manifests from their copies, and removes shards that no manifest names.

    A damaged or missing shard cannot be rebuilt from what is stored. With `withdraw` such a shard, its record and the
    manifest are removed, so that running the stage again recomputes that shard alone; without, it is only reported.
    """
    for place, names in _folders(root).items():
        store = root.child(place) if place else root
        if _is_checkpoint(place) or not {MANIFEST, MANIFEST_COPY} & names:
            continue
        yield from _repair_manifest(store, place)
        manifest = _read_manifest(store, MANIFEST)
        if isinstance(manifest, Manifest):
            yield from _repair_shards(store, place, manifest, withdraw)


def clean_staging(root: Store, older_than: float = 24 * 3600.0) -> list[Leftover]:
    """Removes staging folders of dead writers and multipart uploads that were begun `older_than` seconds ago.

    What lives or is younger is listed with `removed` False. Younger than a minute is never safe to remove, because a
    writer may not have locked its folder yet: raises ValueError below 60 seconds.
    """
    if older_than < 60:
        raise ValueError(f"older_than is {older_than} s; what is younger than 60 s may belong to a living writer")
    return list(root.clean(older_than))


def _folders(root: Store) -> dict[str, set[str]]:
    """Names of the objects by folder."""
    folders: dict[str, set[str]] = {}
    for info in root.list():
        place, _, name = info.key.rpartition("/")
        folders.setdefault(place, set()).add(name)
    return folders


def _is_checkpoint(place: str) -> bool:
    return place.rpartition("/")[2].startswith("step-")


def _verify_checkpoint(root: Store, place: str) -> Iterator[Finding]:
    parent, _, folder = place.rpartition("/")
    step = folder.removeprefix("step-")
    if not step.isdigit():
        yield Finding(place, folder, "surplus", "no checkpoint has such a name")
        return
    try:
        CheckpointStore(root.child(parent) if parent else root).load(int(step))
    except (NotFound, ValueError):
        yield Finding(place, MANIFEST, "unfinished", "files without a manifest: interrupted, or at work")
    except CheckpointCorrupt as error:
        yield Finding(place, folder, "damaged", str(error))
    else:
        yield Finding(place, folder, "ok", bytes=sum(info.size for info in root.list(f"{place}/")))


def _verify_record(store: Store, place: str) -> Iterator[Finding]:
    try:
        files = json.loads(store.read(RECORD))["files"]
    except (ObjectCorrupt, ValueError, KeyError, TypeError) as error:
        yield Finding(place, RECORD, "damaged", f"it is no record ({type(error).__name__})")
        return
    yield Finding(place, RECORD, "ok")
    for entry in files.values():
        name, size = entry["stored"], entry["bytes"]
        try:
            same = sha256_of(store.read(name)) == entry["sha256"]
        except NotFound as error:
            yield Finding(place, name, "missing", str(error))
        except ObjectCorrupt as error:
            yield Finding(place, name, "damaged", str(error))
        else:
            yield Finding(place, name, "ok" if same else "damaged", "" if same else "differs from its record", 0, size)


def _verify_generation(store: Store, place: str, names: set[str]) -> Iterator[Finding]:
    manifest = _read_manifest(store, MANIFEST)
    if not isinstance(manifest, Manifest):
        yield Finding(place, MANIFEST, "damaged", str(manifest))
        return
    yield Finding(place, MANIFEST, "ok", samples=manifest.samples)
    copied = _read_manifest(store, MANIFEST_COPY)
    if copied != manifest:
        yield Finding(place, MANIFEST_COPY, "missing" if copied is None else "damaged", "repair rewrites it")
    keys_of: dict[str, set[str]] = {}
    for entry in manifest.shards:
        finding, keys = _verify_shard(store, place, entry, manifest.fields)
        yield finding
        if finding.verdict == "ok":
            keys_of[entry.name] = keys
            yield from _verify_index(store, place, entry)
    yield from _verify_status(store, place, manifest, keys_of)
    expected = {entry.name for entry in manifest.shards}
    for name in sorted(name for name in names if name.endswith(".tar") and name not in expected):
        yield Finding(place, name, "surplus", "no manifest names it: left by an attempt that was not adopted")


def _verify_shard(store: Store, place: str, entry: ShardEntry, fields: tuple[str, ...]) -> tuple[Finding, set[str]]:
    try:
        found, index = describe_shard(store, entry.name)
        if found != entry:
            raise ObjectCorrupt(
                f"{found.samples} samples, {found.bytes:,} bytes, sha256 {found.sha256[:16]}…; the manifest says "
                f"{entry.samples}, {entry.bytes:,}, {entry.sha256[:16]}…"
            )
        index.columns(fields, entry.name)
    except NotFound as error:
        return Finding(place, entry.name, "missing", str(error)), set()
    except ObjectCorrupt as error:
        return Finding(place, entry.name, "damaged", str(error)), set()
    return Finding(place, entry.name, "ok", samples=entry.samples, bytes=entry.bytes), set(index.keys)


def _verify_index(store: Store, place: str, entry: ShardEntry) -> Iterator[Finding]:
    """Nothing when all is well: an index is part of its shard."""
    name = index_name(entry.name)
    try:
        if ShardIndex.from_json(store.read(name), entry.sha256) is None:
            yield Finding(place, name, "damaged", "readers ignore it and scan the shard; repair rewrites it")
    except NotFound:
        yield Finding(place, name, "missing", "readers scan the shard instead; repair rewrites it")
    except ObjectCorrupt as error:
        yield Finding(place, name, "damaged", str(error))


def _verify_status(store: Store, place: str, manifest: Manifest, keys_of: dict[str, set[str]]) -> Iterator[Finding]:
    try:
        rows = read_status(store)
    except NotFound:
        yield Finding(place, STATUS, "missing", "what became of the inputs is not recorded")
        return
    except ObjectCorrupt as error:
        yield Finding(place, STATUS, "damaged", str(error))
        return
    astray = [row.key for row in rows if row.shard in keys_of and row.key not in keys_of[row.shard]]
    good = sum(bool(row.shard) for row in rows)
    if astray:
        yield Finding(place, STATUS, "damaged", f"{len(astray)} rows name a shard without their sample: {astray[0]}, …")
    elif good != manifest.samples:
        yield Finding(place, STATUS, "damaged", f"{good} good rows, but {manifest.samples} samples")
    else:
        yield Finding(place, STATUS, "ok", f"{good} good of {len(rows)} rows", samples=len(rows))


def _read_manifest(store: Store, name: str) -> Manifest | Exception | None:
    """The manifest, why it cannot be read, or None when there is none."""
    try:
        return Manifest.from_json(store.read(name), name)
    except NotFound:
        return None
    except ObjectCorrupt as error:
        return error


def _repair_manifest(store: Store, place: str) -> Iterator[Repair]:
    found = {name: _read_manifest(store, name) for name in (MANIFEST, MANIFEST_COPY)}
    good = [manifest for manifest in found.values() if isinstance(manifest, Manifest)]
    if not good:
        yield Repair(place, MANIFEST, False, f"{found[MANIFEST]}; its copy too: remove both, run the stage again")
        return
    for name, manifest in found.items():
        if manifest != good[0]:
            store.delete(name)
            store.create(name, good[0].to_json())
            yield Repair(place, name, True, "rewritten from its twin")


def _repair_shards(store: Store, place: str, manifest: Manifest, withdraw: bool) -> Iterator[Repair]:
    broken = []
    for entry in manifest.shards:
        finding, _ = _verify_shard(store, place, entry, manifest.fields)
        if finding.verdict != "ok":
            broken.append(finding)
        elif list(_verify_index(store, place, entry)):
            store.delete(index_name(entry.name))
            store.create(index_name(entry.name), describe_shard(store, entry.name)[1].to_json())
            yield Repair(place, index_name(entry.name), True, "rebuilt from its shard")
    expected = {name for entry in manifest.shards for name in (entry.name, index_name(entry.name))}
    for name in [info.key for info in store.list("shard-") if info.key not in expected]:
        store.delete(name)
        yield Repair(place, name, True, "removed: no manifest names it")
    for finding in broken:
        yield Repair(place, finding.name, withdraw, _lost(store, finding, withdraw))
    if broken and withdraw:
        _withdraw(store, {finding.name for finding in broken})


def _lost(store: Store, finding: Finding, withdraw: bool) -> str:
    try:
        keys = [row.key for row in read_status(store) if row.shard == finding.name]
        lost = f"{len(keys)} samples ({', '.join(keys[:3])}, …)" if keys else "its samples"
    except (NotFound, ManifestCorrupt):
        lost = "its samples (the status table is lost, too)"
    then = "withdrawn: run the stage again" if withdraw else "withdraw it and run the stage again"
    return f"{finding.verdict}, and {lost} cannot be rebuilt from what is stored; {then}"


def _withdraw(store: Store, shards: set[str]) -> None:
    """The manifest goes first: from then on there is no dataset that could be read."""
    records = [
        info.key for info in store.list(f"{FOLDER}/") if any(name.encode() in store.read(info.key) for name in shards)
    ]
    tars = [gone for name in shards for gone in (name, index_name(name))]
    for name in (MANIFEST, MANIFEST_COPY, STATUS, *records, *tars):
        store.delete(name)
