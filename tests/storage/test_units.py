from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import ManifestCorrupt
from storage.manifest import Manifest, StatusRow, read_status, write_status
from storage.reader import SampleReader
from storage.shards import stream_shard
from storage.stores import open_store
from storage.units import commit_unit, read_unit


def _rows(*states: str) -> list[StatusRow]:
    return [StatusRow(key=f"k{n}", source=f"{n}.jpg", status=state) for n, state in enumerate(states)]


def test_the_first_attempt_decides(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert read_unit(store, 3) is None
    first = commit_unit(store, 3, [("k0", {"x": b"0"}), ("k1", {"x": b"1"})], ["x"], _rows("ok", "ok"))
    assert first.entry is not None
    assert [row.shard for row in first.rows] == [first.entry.name] * 2
    assert first.entry.name.startswith("shard-000003-")
    second = commit_unit(store, 3, [("k0", {"x": b"0"})], ["x"], _rows("ok", "timeout"))
    assert second == first == read_unit(store, 3)
    assert [key for key, _ in stream_shard(store, second.entry, ["x"])] == ["k0", "k1"]


def test_unchanged_rows_are_copied_from_an_earlier_generation(tmp_path: Path) -> None:
    """Rows name their content and their shard: whatever has an equal content key is read instead of computed."""
    old = open_store(tmp_path / "maps/old")
    rows = [replace(row, content_key=f"content-{row.key}") for row in _rows("ok", "ok", "ok")]
    unit = commit_unit(old, 0, [(f"k{n}", {"x": bytes([n])}) for n in range(3)], ["x"], rows)
    assert unit.entry is not None
    write_status(old, unit.rows)
    manifest = Manifest(
        stage="maps", fields=("x",), config_digest="1", code_version="v", inputs={}, shards=(unit.entry,)
    )
    manifest.commit(old)

    reader = SampleReader(old, manifest, ["x"])
    known = {row.content_key: row.key for row in read_status(old) if row.shard}
    computed = []

    def make(key: str, content_key: str) -> dict[str, bytes]:
        if content_key in known:
            return reader.by_key(known[content_key])[1]
        computed.append(key)
        return {"x": b"new"}

    wanted = {"k0": "content-k0", "renamed": "content-k1", "k2": "content-changed"}
    samples = [(key, make(key, content_key)) for key, content_key in wanted.items()]
    assert samples == [("k0", {"x": b"\0"}), ("renamed", {"x": b"\1"}), ("k2", {"x": b"new"})]
    assert computed == ["k2"]


def test_a_killed_attempt_does_not_stand_in_the_way(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    killed = commit_unit(store, 0, [("k0", {"x": b"0"})], ["x"], _rows("ok", "timeout"))
    store.delete("units/000000.json")  # as if it had been killed before it could decide
    decided = commit_unit(store, 0, [("k0", {"x": b"0"}), ("k1", {"x": b"1"})], ["x"], _rows("ok", "ok"))
    assert decided.entry != killed.entry
    assert read_unit(store, 0) == decided


def test_a_unit_without_samples(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    unit = commit_unit(store, 0, [], ["x"], _rows("corrupt"))
    assert unit.entry is None
    assert unit.rows[0].shard == ""
    assert read_unit(store, 0) == unit


def test_a_damaged_record(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.create("units/000000.json", b'{"entry": ')
    with pytest.raises(ManifestCorrupt, match="no record of a unit"):
        read_unit(store, 0)
