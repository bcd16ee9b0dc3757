"""erase-identity: everything that was derived from one person goes, and stays gone.

What goes: all below `<root>/identities/<id>/` (photograph, maps, embeddings, weights, previews, edits, with every S3
version and unfinished upload), evaluations of its edits, and, where asked, the original photograph. A tombstone, which
does not tell the id, refuses whoever is late. A receipt says what was done, in numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from prefect import task

from storage.canonical import canonical_json, sha256_of
from storage.identities import IdentityStore, check_identity_id
from storage.records import RECORD, read_record
from storage.stores import Store, open_store
from tasks.image_uri import check_image_uri
from tasks.redaction import Redaction, redact

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
    """Original photographs outside the root, which are the uploader's and were not asked for."""
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
        delete_original: also delete the photographs that the identity's records name as their source.
        delete_runs: delete Prefect's flow runs that name the identity, instead of blanking their parameters.
        redact_runs: False where no Prefect server is at hand; the receipt then says that none was looked at.

    Raises:
        BadKey: not an identity's id. ValueError: no reason. StoreUnavailable: somebody keeps writing.
    """
    check_identity_id(identity_id)
    reason = " ".join(reason.split())
    if not 1 <= len(reason) <= 200:
        raise ValueError(f"reason has {len(reason)} characters: say in 1 to 200 why, without naming the person")
    facts = _facts(root, identity_id)
    originals = sorted({str(one["lineage"]["image_uri"]) for one in facts})
    mentioned = {*originals, *(str(one["lineage"]["image_sha256"]) for one in facts)}
    erasure = IdentityStore(root).erase(identity_id, reason=reason, time=_now())
    prefix = f"{root.uri.rstrip('/')}/identities/{identity_id}/"
    evaluations = _remove_evaluations(root, prefix)
    deleted = [_delete_original(uri) for uri in originals] if delete_original else []
    runs = redact(identity_id, sorted(mentioned), delete=delete_runs) if redact_runs else Redaction(looked=False)
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


def _facts(root: Store, identity_id: str) -> list[Mapping[str, Any]]:
    """Facts of every finished checkpoint; none for an identity that is erased or was never there."""
    below = root.child(f"identities/{identity_id}")
    records = [read_record(below.child(name)) for name in below.folders()]
    return [record.facts for record in records if record is not None]


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


def _delete_original(uri: str) -> bool:
    """Whether the original was there and is gone, with its versions."""
    folder, name = check_image_uri(uri, exists=False)
    store = open_store(folder)
    if store.stat(name) is None:
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
