"""Who asked for a fine-tune, noted before it begins: an erasure finds the photographs also while the training runs.

    identities/<id>/<digest>/requests/<digest>.json    one a distinct request: photograph, its sha256, consent

Equal photographs with equal configurations train once, and each request's address and consent is kept all the same.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from storage.canonical import canonical_json, sha256_of
from storage.errors import Conflict, NotFound
from storage.interface import Store

FOLDER = "requests/"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRequest:
    image_uri: str
    """Absolute (tasks.image_uri.absolute_uri)."""
    image_sha256: str
    consent: str | None

    @property
    def key(self) -> str:
        return f"{FOLDER}{sha256_of(canonical_json(asdict(self)))[:16]}.json"


def note_request(home: Store, request: FinetuneRequest) -> None:
    """Keep a request beside the result it asks for; a second time changes nothing. Raises Tombstoned."""
    try:
        home.create(request.key, canonical_json(asdict(request)))
    except Conflict:
        return


def forget_request(home: Store, request: FinetuneRequest) -> None:
    """Take a request back that was refused: nothing is kept of a photograph that cannot be used."""
    home.delete(request.key)


def requests_of(home: Store) -> Iterator[FinetuneRequest]:
    """Every request for the result in a folder."""
    for info in home.list(FOLDER):
        try:
            yield FinetuneRequest(**json.loads(home.read(info.key)))
        except NotFound:  # taken back since it was listed
            continue
