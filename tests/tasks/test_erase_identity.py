"""What an erasure finds and removes, without a network or a server."""

from pathlib import Path
from typing import Any

import pytest

from storage.canonical import sha256_of
from storage.errors import Tombstoned
from storage.identities import IdentityStore
from storage.records import commit_record
from storage.stores import Store, open_store
from tasks import erase_identity as erasing
from tasks.edit_identity import chosen_identities
from tasks.erase_identity import erase_identity
from tasks.finetune_requests import FinetuneRequest, note_request, requests_of
from tasks.image_uri import FOLDERS_VARIABLE, BadImageUri
from tasks.redaction import Redaction


@pytest.fixture
def root(tmp_path: Path) -> Store:
    return open_store(tmp_path / "root")


def photograph(tmp_path: Path, name: str, content: bytes = b"ada") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path.resolve()


def asked(root: Store, uri: str, content: bytes = b"ada", digest: str = "1" * 16) -> FinetuneRequest:
    request = FinetuneRequest(image_uri=uri, image_sha256=sha256_of(content), consent=None)
    note_request(IdentityStore(root).home("ada").child(digest), request)
    return request


def erased(root: Store, **options: Any) -> erasing.Receipt:
    return erase_identity(root, "ada", reason="asked", redact_runs=False, delete_original=True, **options).receipt


def test_requests_are_kept_once_each(root: Store) -> None:
    one = asked(root, "s3://b/one.jpg")
    other = asked(root, "s3://b/two.jpg")
    assert asked(root, "s3://b/one.jpg") == one
    found = requests_of(root.child(f"identities/ada/{'1' * 16}"))
    assert sorted(found, key=lambda request: request.image_uri) == [one, other]


def test_originals_of_a_training_under_way_go_too(root: Store, tmp_path: Path) -> None:
    """No record says where the photograph is: the request does. Both addresses of one picture are known."""
    first, second = photograph(tmp_path, "a.jpg"), photograph(tmp_path, "b.jpg")
    asked(root, str(first))
    asked(root, str(second))
    receipt = erased(root)
    assert (receipt.originals_removed, receipt.originals_kept, receipt.remaining) == (2, 0, 0)
    assert not first.exists()
    assert not second.exists()


def test_what_is_no_longer_the_photograph_is_left_alone(root: Store, tmp_path: Path) -> None:
    other = photograph(tmp_path, "a.jpg", b"bo, by now")
    asked(root, str(other))
    asked(root, str(tmp_path / "moved.jpg"))
    asked(root, "embedded:portrait")
    receipt = erased(root)
    assert (receipt.originals_removed, receipt.originals_kept) == (0, 3)
    assert other.read_bytes() == b"bo, by now"


def test_an_interrupted_erasure_finds_everything_again(
    root: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = photograph(tmp_path, "a.jpg")
    facts = {"lineage": {"image_uri": str(original), "image_sha256": sha256_of(b"ada")}}
    commit_record(IdentityStore(root).home("ada").child("1" * 16), {"weights.safetensors": b"w"}, facts)
    asked_of: list[tuple[set[str], set[str]]] = []

    def gone(identity_id: str, *, uris: set[str], digests: set[str], delete: bool) -> Redaction:
        asked_of.append((uris, digests))
        if len(asked_of) == 1:
            raise ConnectionError("Prefect is away")
        return Redaction(runs=1)

    monkeypatch.setattr(erasing, "redact", gone)
    with pytest.raises(ConnectionError):
        erase_identity(root, "ada", reason="asked", delete_original=True)
    with pytest.raises(Tombstoned):
        IdentityStore(root).home("ada")
    receipt = erase_identity(root, "ada", reason="asked", delete_original=True).receipt
    assert asked_of == [({str(original)}, {sha256_of(b"ada")})] * 2, "the second attempt knows what to look for"
    assert (receipt.remaining, receipt.runs.runs) == (0, 1)
    assert not original.exists()


def test_an_original_that_may_not_be_read_here_keeps_the_erasure_from_losing_it(
    root: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = photograph(tmp_path, "a.jpg")
    asked(root, str(original))
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(BadImageUri, match="outside the allowed folders"):
        erased(root)
    monkeypatch.delenv(FOLDERS_VARIABLE)
    assert erased(root).originals_removed == 1


def test_edits_are_of_checkpoints_below_the_root(root: Store, tmp_path: Path) -> None:
    """Where an erasure would not find them none are made."""
    commit_record(root.child("identities/ada/1"), {}, {"identity_id": "ada"})
    commit_record(root.child("stage1/1"), {}, {})
    elsewhere = open_store(tmp_path / "other")
    commit_record(elsewhere.child("identities/ada/1"), {}, {"identity_id": "ada"})
    IdentityStore(root).home("bo").child("2").create("requests/1.json", b"{}")
    uri = root.child("identities/ada/1").uri
    assert chosen_identities(root, [], uri) == chosen_identities(root, [], None) == chosen_identities(root, ["ada"], None) == [uri]
    for wrong in (elsewhere.child("identities/ada/1").uri, root.child("stage1/1").uri, root.child("identities/ada").uri):
        with pytest.raises(ValueError, match="is no checkpoint of an identity below"):
            chosen_identities(root, [], wrong)
    with pytest.raises(ValueError, match="holds nothing finished"):
        chosen_identities(root, [], root.child("identities/ada/2").uri)
    with pytest.raises(ValueError, match="the names bo: give one or the other"):
        chosen_identities(root, ["bo"], uri)
