"""A finished result that is a handful of files: written first, described last by a record that makes it exist.

Files are stored under names that carry their digest, so that what a killed attempt left behind can neither be mistaken
for a result nor stand in the way of the next attempt.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from storage.canonical import canonical_json, sha256_of
from storage.errors import Conflict, StorageError
from storage.stores import Store, open_store

RECORD = "record.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A committed result."""

    uri: str
    facts: Mapping[str, Any]
    """What the result says about itself: lineage, metrics, order of its pictures (JSON)."""
    files: Mapping[str, Mapping[str, Any]]
    """Logical name → stored name, bytes, sha256."""

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            StorageError: the file is not part of the record, or its bytes are not the committed ones.
        """
        if name not in self.files:
            raise StorageError(f"{self.uri} has no file {name!r}; it has {', '.join(sorted(self.files))}")
        entry = self.files[name]
        data = open_store(self.uri).read(str(entry["stored"]))
        if sha256_of(data) != entry["sha256"]:
            raise StorageError(
                f"{self.uri}/{entry['stored']} differs from its record: restore it or delete the folder and run again"
            )
        return data


def commit_record(home: Store, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Record:
    """Write files, then the record. Where another process committed the same result first, its record is returned."""
    entries = {}
    for name, data in sorted(files.items()):
        digest = sha256_of(data)
        path = PurePosixPath(name)
        stored = str(path.with_name(f"{path.stem}-{digest[:12]}{path.suffix}"))
        home.create(stored, data)
        entries[name] = {"stored": stored, "bytes": len(data), "sha256": digest}
    try:
        home.create(RECORD, canonical_json({"facts": dict(facts), "files": entries}))
    except Conflict:
        existing = read_record(home)
        if existing is None:
            raise
        return existing
    return Record(uri=home.uri, facts=facts, files=entries)


def read_record(home: Store) -> Record | None:
    """The committed result in a folder, or None."""
    if home.stat(RECORD) is None:
        return None
    manifest = json.loads(home.read(RECORD))
    return Record(uri=home.uri, facts=manifest["facts"], files=manifest["files"])


def committed(uri: str) -> Record:
    """Raises: ValueError where nothing finished is there."""
    record = read_record(open_store(uri))
    if record is None:
        raise ValueError(f"{uri} holds nothing finished")
    return record


def only_record(root: Store, kind: str, remedy: str) -> str:
    """URI of the only finished record below `<root>/<kind>/`.

    Raises:
        ValueError: none (with the remedy) or several (with their names).
    """
    suffix = f"/{RECORD}"
    names = (info.key.removesuffix(suffix) for info in root.child(kind).list() if info.key.endswith(suffix))
    found = [name for name in names if "/" not in name]  # deeper ones belong to parts
    if not found:
        raise ValueError(f"{root.uri}/{kind} holds nothing finished: {remedy}")
    if len(found) > 1:
        raise ValueError(f"{root.uri}/{kind} holds several: {', '.join(found)}. Say which one")
    return root.child(f"{kind}/{found[0]}").uri
