"""erase-identity: everything that was derived from one person goes, and stays gone.

What goes: all below `<root>/identities/<id>/` (photograph, maps, embeddings, weights, previews, edits, with every S3
version and unfinished upload), evaluations of its edits, and, where asked, the original photograph. A tombstone, which
does not tell the id, refuses whoever is late. A receipt says what was done, in numbers.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from prefect import task

from storage.canonical import canonical_json, sha256_of
from storage.identities import IdentityStore, check_identity_id
from storage.records import RECORD, read_record
from storage.stores import Store, open_store
from tasks.finetune_requests import requests_of
from tasks.image_uri import check_image_uri
from tasks.redaction import Redaction, redact
from tasks.sources import EMBEDDED

RECEIPTS = "erasures/receipts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What an erasure did. Holds no name: the identity is given by the sha256 of its id."""

    identity: str
    reason: str
    first_asked: str
    """ISO 8601; of the tombstone, which the first request wrote."""
    finished: str
    objects_removed: int
    """Objects, versions and unfinished uploads below the identity."""
    evaluations_removed: int
    originals_removed: int
    originals_kept: int
    """Original photographs that were not asked for, were gone before, or hold another picture by now."""
    runs: Redaction
    remaining: int
    """Objects still listed below the identity: 0, or the erasure has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Erased:
    uri: str
    """Of the receipt."""
    receipt: Receipt


def erase_identity(
    root: Store,
    identity_id: str,
    *,
    reason: str,
    delete_original: bool = False,
    delete_runs: bool = False,
    redact_runs: bool = True,
) -> Erased:
    """Erase one identity; repeatable. Works on an id that was never used, too: late writers are then refused.

    Args:
        reason: kept in the tombstone and the receipt; name nobody in it.
        delete_original: also delete the photographs that the identity was asked to be made from, where they are still there
            and the same (sha256).
        delete_runs: delete Prefect's flow runs that name the identity, instead of blanking their parameters.
        redact_runs: False where no Prefect server is at hand; the receipt then says that none was looked at.

    Raises:
        BadKey: not an identity's id. ValueError: no reason. StoreUnavailable: somebody keeps writing.
        BadImageUri: an original lies where this installation may not read; all but the tombstone is as before, so leave
            delete_original out, or ask where it may.
    """
    check_identity_id(identity_id)
    reason = " ".join(reason.split())
    if not 1 <= len(reason) <= 200:
        raise ValueError(f"reason has {len(reason)} characters: say in 1 to 200 why, without naming the person")
    identities = IdentityStore(root)
    identities.bury(identity_id, reason=reason, time=_now())  # from here on nobody adds a photograph
    originals = _originals(root, identity_id)
    deleted = [_delete_original(uri, known) for uri, known in originals.items()] if delete_original else []
    evaluations = _remove_evaluations(root, f"{root.uri.rstrip('/')}/identities/{identity_id}/")
    digests = {digest for known in originals.values() for digest in known}
    runs = Redaction(looked=False)
    if redact_runs:
        runs = redact(identity_id, uris=set(originals), digests=digests, delete=delete_runs)
    # Last, because it takes the only note of the originals along: what is interrupted before can be asked for again.
    erasure = identities.erase(identity_id, reason=reason, time=_now())
    receipt = Receipt(
        identity=erasure.identity, reason=erasure.reason, first_asked=erasure.time, finished=_now(),
        objects_removed=erasure.removed, evaluations_removed=evaluations, originals_removed=sum(deleted),
        originals_kept=len(originals) - sum(deleted), runs=runs,
        remaining=sum(1 for _ in root.list(f"identities/{identity_id}/")),
    )  # fmt: skip
    body = canonical_json(asdict(receipt))
    key = f"{RECEIPTS}/{erasure.identity[:16]}-{sha256_of(body)[:12]}.json"
    root.create(key, body)
    return Erased(uri=f"{root.uri.rstrip('/')}/{key}", receipt=receipt)


def _originals(root: Store, identity_id: str) -> Mapping[str, set[str]]:
    """Address and sha256s of every photograph that was asked to become the identity; none where it is erased or never was."""
    found: dict[str, set[str]] = {}
    below = root.child(f"identities/{identity_id}")
    for name in below.folders():
        home = below.child(name)
        for request in requests_of(home):
            found.setdefault(request.image_uri, set()).add(request.image_sha256)
        record = read_record(home)
        if record is not None:
            lineage = record.facts["lineage"]
            found.setdefault(str(lineage["image_uri"]), set()).add(str(lineage["image_sha256"]))
    return dict(sorted(found.items()))


def _remove_evaluations(root: Store, prefix: str) -> int:
    """Evaluations hold figures of a person's edits: they go with them."""
    removed = 0
    evaluations = root.child("evaluations")
    for name in list(evaluations.folders()):
        if evaluations.stat(f"{name}/{RECORD}") is None:
            continue
        text = evaluations.read(f"{name}/{RECORD}").decode()
        if any(value.startswith(prefix) for value in _strings(json.loads(text))):
            evaluations.purge(f"{name}/")
            removed += 1
    return removed


def _strings(value: Any) -> Sequence[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one)]


def _delete_original(uri: str, digests: Collection[str]) -> bool:
    """Whether the original was there, was still that photograph, and is gone with its versions."""
    if uri == EMBEDDED:  # ships with a package and is nobody's upload
        return False
    folder, name = check_image_uri(uri, exists=False)
    store = open_store(folder)
    if store.stat(name) is None or sha256_of(store.read(name)) not in digests:
        return False
    neighbours = [info.key for info in store.list(name) if info.key != name]
    if neighbours:  # a purge goes by prefix and would take these along
        store.delete(name)
    else:
        store.purge(name)
    return store.stat(name) is None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@task(name="erase", persist_result=False)
def erase_task(root: str, identity_id: str, reason: str, delete_original: bool, delete_runs: bool) -> Erased:
    """Everything of one identity → a receipt."""
    return erase_identity(
        open_store(root), identity_id, reason=reason, delete_original=delete_original, delete_runs=delete_runs
    )
