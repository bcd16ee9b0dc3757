"""Records: a handful of files that exist together or not at all."""

from pathlib import Path

import pytest

from storage.errors import StorageError
from storage.records import commit_record, committed, only_record, read_record
from storage.stores import open_store


def test_a_record_is_read_back(tmp_path: Path) -> None:
    home = open_store(tmp_path).child("things/one")
    assert read_record(home) is None
    commit_record(home, {"a/b.txt": b"text", "c": b""}, {"figure": 1.5})
    record = committed(home.uri)
    assert record.facts == {"figure": 1.5}
    assert record.read("a/b.txt") == b"text"
    assert record.read("c") == b""
    with pytest.raises(StorageError, match="has no file 'd'"):
        record.read("d")


def test_the_first_of_two_results_stays(tmp_path: Path) -> None:
    home = open_store(tmp_path)
    commit_record(home, {"a": b"first"}, {"n": 1})
    second = commit_record(home, {"a": b"second"}, {"n": 2})
    assert (second.facts, second.read("a")) == ({"n": 1}, b"first")


def test_what_a_killed_attempt_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    home = open_store(tmp_path)
    home.create("a-0123456789ab", b"of another attempt")
    assert commit_record(home, {"a": b"mine"}, {}).read("a") == b"mine"


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    home = open_store(tmp_path)
    record = commit_record(home, {"a": b"right"}, {})
    (tmp_path / str(record.files["a"]["stored"])).write_bytes(b"wrong")
    with pytest.raises(StorageError, match="differs from its record"):
        committed(home.uri).read("a")


def test_only_record_says_what_there_is(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    with pytest.raises(ValueError, match="make one first"):
        only_record(root, "things", "make one first")
    one = commit_record(root.child("things/one"), {}, {})
    commit_record(root.child("things/one/parts/deeper"), {}, {})
    assert only_record(root, "things", "") == one.uri
    commit_record(root.child("things/two"), {}, {})
    with pytest.raises(ValueError, match="one, two"):
        only_record(root, "things", "")
