import json
from pathlib import Path

import pytest

from storage import manifest as module
from storage.errors import Conflict, ManifestCorrupt, NotFound
from storage.manifest import MANIFEST, Manifest, StatusRow, read_status, write_status
from storage.shards import ShardEntry
from storage.stores import open_store


def _manifest(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "stage": "images",
        "fields": ("image.png", "meta.json"),
        "config_digest": "c0ffee",
        "code_version": "1.2.3",
        "inputs": {"photos": "abc"},
        "shards": (
            ShardEntry("shard-000000.tar", 2, 2048, "0" * 64),
            ShardEntry("shard-000001.tar", 3, 4096, "1" * 64),
        ),
        "counts": {"ok": 5, "corrupt": 1},
    }
    return Manifest(**(values | changes))  # type: ignore[arg-type]


def test_round_trip_and_digest(tmp_path: Path) -> None:
    store, manifest = open_store(tmp_path), _manifest()
    assert Manifest.read(store) is None
    manifest.commit(store)
    manifest.commit(store)
    again = Manifest.read(store)
    assert again == manifest
    assert again.digest == manifest.digest != _manifest(code_version="2").digest
    assert manifest.samples == 5
    with pytest.raises(Conflict):
        _manifest(code_version="2").commit(store)
    assert Manifest.read(store) == manifest


def test_a_newer_version_is_refused_and_an_older_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = json.dumps({**json.loads(_manifest().to_json()), "schema_version": 2, "something": "new"}).encode()
    with pytest.raises(ManifestCorrupt, match="has version 2; this program reads up to 1: update"):
        Manifest.from_json(newer)
    older = json.loads(_manifest().to_json())
    del older["counts"]
    monkeypatch.setattr(module, "SCHEMA_VERSION", 2)
    assert Manifest.from_json(json.dumps(older).encode()) == _manifest(counts={})


RIGHT = json.loads(_manifest().to_json())
ENTRY = RIGHT["shards"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        _manifest().to_json()[:-20],
        *(
            json.dumps(RIGHT | change).encode()
            for change in (
                {"extra": 1},
                {"schema_version": "1"},
                {"schema_version": 0},
                {"fields": ["../x"]},
                {"shards": [ENTRY, ENTRY]},
                {"shards": [ENTRY | {"bytes": -1}]},
                {"shards": [ENTRY | {"sha256": "0" * 63}]},
                {"shards": [ENTRY | {"name": "../../x.tar"}]},
                {"shards": [{"name": "shard-000000.tar"}]},
                {"shards": None},
                {"counts": {"ok": -1}},
            )
        ),
        *(json.dumps({k: v for k, v in RIGHT.items() if k != name}).encode() for name in ("stage", "shards", "fields")),
    ],
)
def test_damaged_manifests_are_refused(tmp_path: Path, wrong: bytes) -> None:
    store = open_store(tmp_path)
    store.create(MANIFEST, wrong)
    with pytest.raises(ManifestCorrupt):
        Manifest.read(store)


def test_a_manifest_of_many_shards(tmp_path: Path) -> None:
    shards = tuple(ShardEntry(f"shard-{n:06d}.tar", 1, 2048, "0" * 64) for n in range(20_000))
    manifest = _manifest(shards=shards)
    assert Manifest.from_json(manifest.to_json()).samples == 20_000


def test_status_rows(tmp_path: Path) -> None:
    rows = [
        StatusRow(key="b", source="b.jpg", status="ok", stage="images", content_key="k2", shard="shard-000000.tar"),
        StatusRow(key="a", source="ä/a.jpg", status="corrupt", reason="no end of image", stage="images", attempt=2),
    ]
    stores = [open_store(tmp_path / name) for name in ("one", "two")]
    with pytest.raises(NotFound):
        read_status(stores[0])
    write_status(stores[0], rows)
    write_status(stores[1], reversed(rows))
    assert read_status(stores[0]) == [rows[1], rows[0]]
    assert stores[0].read("status.parquet") == stores[1].read("status.parquet")
    write_status(stores[0], rows)
    with pytest.raises(Conflict):
        write_status(stores[0], rows[:1])
    (tmp_path / "one/status.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(ManifestCorrupt, match="no table of rows"):
        read_status(stores[0])


def test_no_rows_at_all(tmp_path: Path) -> None:
    write_status(open_store(tmp_path), [])
    assert read_status(open_store(tmp_path)) == []
