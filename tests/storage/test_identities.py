"""Erasure: nothing is left, nothing comes back."""

import pickle
from pathlib import Path

import pytest
import torch

from storage.canonical import sha256_of
from storage.checkpoints import CheckpointStore
from storage.errors import BadKey, Tombstoned
from storage.identities import IdentityStore
from storage.interface import Store
from storage.s3 import S3Store
from storage.stores import open_store

ID = "8c0f0b6e-anna"
WHEN = "2026-11-22T12:00:00Z"


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "root") if request.param == "folder" else request.getfixturevalue("s3_store")


def test_layout_and_erasure(root: Store, tmp_path: Path) -> None:
    identities = IdentityStore(root)
    identities.home(ID).create("d1/photos/a.png", b"photo")
    CheckpointStore(identities.home(ID).child("d1/checkpoints")).save(1, {"w": torch.ones(3)}, {})
    (tmp_path / "lora").write_bytes(b"weights")
    identities.home(ID).create_from_file("d2/lora.safetensors", tmp_path / "lora")
    identities.home("bert").create("d1/x", b"another person")
    assert list(identities.identities()) == sorted([ID, "bert"])
    assert list(identities.generations(ID)) == ["d1", "d2"]
    assert root.read(f"identities/{ID}/d1/photos/a.png") == b"photo"
    assert identities.tombstone(ID) is None

    erased = identities.erase(ID, reason="asked by the person", time=WHEN)
    assert erased.removed == 4
    assert (erased.identity, erased.reason, erased.time) == (sha256_of(ID.encode()), "asked by the person", WHEN)
    assert [info.key for info in root.list()] == [f"erasures/{sha256_of(ID.encode())}.json", "identities/bert/d1/x"]
    assert list(identities.identities()) == ["bert"]
    again = identities.erase(ID, reason="asked twice", time="later")
    assert (again.removed, again.reason, again.time) == (0, "asked by the person", WHEN)
    with pytest.raises(Tombstoned, match="was erased"):
        identities.home(ID)


def test_a_late_writer_is_refused(root: Store, tmp_path: Path) -> None:
    identities = IdentityStore(root)
    home = identities.home(ID)  # of a run that began before the erasure
    travelled = pickle.loads(pickle.dumps(home.child("d1")))  # noqa: S301
    home.create("d1/x", b"x")
    identities.erase(ID, reason="", time=WHEN)
    (tmp_path / "file").write_bytes(b"late")
    for write in (
        lambda: home.create("d1/y", b"late"),
        lambda: travelled.create("y", b"late"),
        lambda: home.child("d3").create_from_file("file", tmp_path / "file"),
        lambda: CheckpointStore(home).save(2, {"w": torch.ones(1)}, {}),
    ):
        with pytest.raises(Tombstoned):
            write()
    assert list(root.list("identities/")) == []


def test_an_erasure_in_the_middle_of_a_write(root: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer has looked for a tombstone, then the whole erasure happens, then the writer creates its object."""
    identities = IdentityStore(root)
    home = identities.home(ID)
    create = type(root).create

    def slow_create(self: Store, key: str, data: bytes) -> None:
        if key == "d1/x":
            identities.erase(ID, reason="", time=WHEN)
        create(self, key, data)

    monkeypatch.setattr(type(root), "create", slow_create)
    with pytest.raises(Tombstoned):
        home.create("d1/x", b"x")
    assert list(root.list("identities/")) == []
    if (folder := root.local_path("identities/anyone")) is not None:
        assert not list(folder.parent.rglob("*")), "no empty folder tells the name"


def test_erasure_takes_versions(s3_store: S3Store) -> None:
    client = s3_store._requests._client
    client.create_bucket(Bucket="faces")
    client.put_bucket_versioning(Bucket="faces", VersioningConfiguration={"Status": "Enabled"})
    identities = IdentityStore(open_store("s3://faces/root"))
    home = identities.home(ID)
    home.create("d/x", b"1")
    home.delete("d/x")
    home.create("d/x", b"2")
    client.create_multipart_upload(Bucket="faces", Key=f"root/identities/{ID}/half")
    assert identities.erase(ID, reason="", time=WHEN).removed == 4
    left = client.list_object_versions(Bucket="faces", Prefix="root/identities/")
    assert "Versions" not in left
    assert "DeleteMarkers" not in left
    assert "Uploads" not in client.list_multipart_uploads(Bucket="faces")


@pytest.mark.parametrize("identity", ["", "A", "a/b", "..", "a.b", "-a", "a" * 64, "ä", "a b"])
def test_impossible_ids(tmp_path: Path, identity: str) -> None:
    identities = IdentityStore(open_store(tmp_path))
    for use in (identities.home, identities.tombstone, lambda name: identities.erase(name, reason="", time=WHEN)):
        with pytest.raises(BadKey, match="cannot be an identity"):
            use(identity)
