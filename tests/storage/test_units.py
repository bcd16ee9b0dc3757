from pathlib import Path

import pytest

from storage.errors import ManifestCorrupt
from storage.manifest import StatusRow
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
