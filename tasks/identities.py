"""What identities there are below a root."""

from collections.abc import Iterator
from dataclasses import dataclass

from storage.records import RECORD, Record, committed, read_record
from storage.stores import Store, open_store
from tasks.edit_identity import find_identity
from tasks.finetune_requests import requests_of
from tasks.identity_card import identity_card


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """One finished fine-tune of one identity."""

    identity_id: str
    record: Record
    edits: int
    """Finished sets of edits."""


def list_identities(root: Store) -> Iterator[Checkpoint]:
    """Every finished checkpoint of every identity, by name and digest."""
    identities = root.child("identities")
    for name in identities.folders():
        for digest in identities.child(name).folders():
            home = identities.child(f"{name}/{digest}")
            record = read_record(home)
            if record is not None:
                below = home.child("edits")
                edits = sum(below.stat(f"{one}/{RECORD}") is not None for one in below.folders())
                yield Checkpoint(identity_id=name, record=record, edits=edits)


def checkpoint_of(root: Store, identity_id: str, digest: str | None) -> str:
    """URI of a checkpoint of an identity: the one whose digest begins so, or the only one.

    Raises:
        ValueError: no such identity, or not exactly one checkpoint.
    """
    if digest is None:
        return find_identity(root, identity_id)
    known = [one.record.uri for one in list_identities(root) if one.identity_id == identity_id]
    found = [uri for uri in known if uri.rpartition("/")[2].startswith(digest)]
    if len(found) != 1:
        names = ", ".join(uri.rpartition("/")[2][:12] for uri in known) or "none"
        raise ValueError(
            f"{len(found)} checkpoints of {identity_id!r} begin with {digest!r}; there are: {names}. Give the start of one"
        )
    return found[0]


def introduce(checkpoint: str) -> tuple[str, bytes]:
    """Model card (Markdown) and preview (PNG) of the checkpoint at a URI, with every consent that was given for it."""
    record = committed(checkpoint)
    card = identity_card(record.facts, weight_bytes=record.files["weights.safetensors"]["bytes"])
    consents = sorted({one.consent for one in requests_of(open_store(checkpoint)) if one.consent})
    given = f"\nConsents given with equal requests: {', '.join(consents)}\n" if consents else ""
    return card + given, record.read("preview.png")


def pictures_of(edits_uri: str) -> dict[str, bytes]:
    """The pictures of a set of edits by file name: each edit, its version in the photograph, films, and the contact sheet."""
    record = committed(edits_uri)
    names = ["grid.png", *record.facts.get("films", {}).values()]
    for image in record.facts["images"]:
        names += [image["image"], *([image["full"]] if image.get("full") else [])]
    return {name: record.read(name) for name in names}
