"""Everything derived from one person lies under one prefix, and can be erased for good.

    <root>/identities/<identity_id>/<digest>/…    one folder a fine-tune
    <root>/erasures/<sha256 of the id>.json       tombstones; they do not tell the id

A tombstone is written before the erasure begins. Stores handed out here look for it before and after they create an
object, and take the object back when they find it. So whichever comes first, a late writer leaves nothing behind: its
object was there when the erasure listed, or the tombstone was there when the writer looked.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from storage.canonical import canonical_json, sha256_of
from storage.errors import BadKey, Conflict, NotFound, StoreUnavailable, Tombstoned
from storage.interface import Store

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
PASSES = 5
"""How often an erasure lists and deletes before it gives up against a writer that does not look for tombstones."""


@dataclass(frozen=True, slots=True)
class Erasure:
    identity: str
    """sha256 of the identity's id."""
    reason: str
    time: str
    """ISO 8601, of the first request."""
    removed: int
    """Objects, versions and unfinished uploads that this call removed."""


def check_identity_id(identity_id: str) -> str:
    """Returns the id, or raises BadKey: lower-case letters, digits and dashes, at most 63; a UUID is one."""
    if not _ID.fullmatch(identity_id):
        raise BadKey(f"{identity_id!r} cannot be an identity; use 1 to 63 lower-case letters, digits and dashes")
    return identity_id


class IdentityStore:
    """The identities of one dataset root."""

    def __init__(self, root: Store) -> None:
        self._root = root

    def identities(self) -> Iterator[str]:
        return self._root.folders("identities/")

    def home(self, identity_id: str) -> Store:
        """The store of all that belongs to the identity. Its `create` methods, too, raise Tombstoned after an erasure.

        Raises Tombstoned, BadKey.
        """
        guarded = _Guarded(self._root.child(f"identities/{check_identity_id(identity_id)}"), self._root, identity_id)
        guarded.refuse_if_erased()
        return cast(Store, guarded)

    def generations(self, identity_id: str) -> Iterator[str]:
        """Digests of the identity's folders. Raises Tombstoned."""
        return self.home(identity_id).folders()

    def tombstone(self, identity_id: str) -> Erasure | None:
        """What is known of the erasure of this identity."""
        try:
            body = json.loads(self._root.read(_ledger_key(identity_id)))
        except NotFound:
            return None
        return Erasure(body["identity"], body["reason"], body["time"], 0)

    def bury(self, identity_id: str, *, reason: str, time: str) -> Erasure:
        """Writes the tombstone and removes nothing: from now on late writers are refused. The first tombstone stays."""
        body = {"identity": sha256_of(identity_id.encode()), "reason": reason, "time": time}
        try:
            self._root.create(_ledger_key(identity_id), canonical_json(body))
        except Conflict:
            body = json.loads(self._root.read(_ledger_key(identity_id)))
        return Erasure(body["identity"], body["reason"], body["time"], 0)

    def erase(self, identity_id: str, *, reason: str, time: str) -> Erasure:
        """Buries the identity and removes its objects with all versions; repeatable.

        Raises StoreUnavailable when something keeps writing under the prefix without looking for tombstones.
        """
        prefix = f"identities/{check_identity_id(identity_id)}/"
        buried = self.bury(identity_id, reason=reason, time=time)
        removed = 0
        for _ in range(PASSES):
            found = self._root.purge(prefix)
            if not found:
                return replace(buried, removed=removed)
            removed += found
        raise StoreUnavailable(f"{self._root.uri}/{prefix} is not empty after {PASSES} passes: stop what writes there")


def _ledger_key(identity_id: str) -> str:
    return f"erasures/{sha256_of(check_identity_id(identity_id).encode())}.json"


@dataclass(frozen=True)
class _Guarded:
    """A store whose creations are taken back when the identity is erased; everything else is the inner store's."""

    inner: Store
    root: Store
    identity_id: str

    def refuse_if_erased(self) -> None:
        if self.root.stat(_ledger_key(self.identity_id)) is not None:
            raise Tombstoned(
                f"the identity {self.identity_id!r} was erased; nothing may be stored under it: choose a new id"
            )

    def create(self, key: str, data: bytes) -> None:
        self.refuse_if_erased()
        try:
            self.inner.create(key, data)
        finally:
            self._take_back_if_erased(key)

    def create_from_file(self, key: str, path: Path) -> None:
        self.refuse_if_erased()
        try:
            self.inner.create_from_file(key, path)
        finally:
            self._take_back_if_erased(key)

    def child(self, prefix: str) -> Store:
        return cast(Store, _Guarded(self.inner.child(prefix), self.root, self.identity_id))

    def _take_back_if_erased(self, key: str) -> None:
        """This object only: the erasure still reads what else is there, to find the originals."""
        try:
            self.refuse_if_erased()
        except Tombstoned:
            folder = self.inner.uri.removeprefix(self.root.uri).strip("/")
            self.root.purge(f"{folder}/{key}")  # by the root, which removes folders that are empty then
            raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # while being unpickled there is no inner store yet
            raise AttributeError(name)
        return getattr(self.inner, name)
