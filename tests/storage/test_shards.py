"""Writing shards: reproducible bytes, exact fields, bounds."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import shards
from storage.errors import BadKey, Conflict, ShardCorrupt
from storage.manifest import Manifest
from storage.reader import SampleReader
from storage.shard_index import ShardIndex
from storage.shards import ShardEntry, describe_shard, index_name, stream_shard, write_shard, write_shards
from storage.stores import open_store

keys = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
fields = st.from_regex(r"[a-z0-9_-]{1,12}(\.[a-z0-9_-]{1,12}){0,2}", fullmatch=True)


@st.composite
def datasets(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, dict[str, bytes]]]]:
    names = draw(st.lists(fields, min_size=1, max_size=4, unique=True))
    contents = st.fixed_dictionaries({name: st.binary(max_size=1500) for name in names})
    return names, draw(st.lists(st.tuples(keys, contents), max_size=12, unique_by=lambda sample: sample[0]))


@settings(deadline=None, max_examples=60)
@given(datasets(), st.randoms(use_true_random=False))
def test_whatever_is_written_is_read(dataset: tuple[list[str], list[tuple[str, dict[str, bytes]]]], random) -> None:
    names, samples = dataset
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        entries = tuple(write_shards(store, samples, names, max_samples=5))
        assert [entry.samples for entry in entries] == [len(samples[at : at + 5]) for at in range(0, len(samples), 5)]
        assert [sample for entry in entries for sample in stream_shard(store, entry, names)] == samples
        assert all(describe_shard(store, entry.name)[0] == entry for entry in entries)
        manifest = Manifest(
            stage="s", fields=tuple(names), config_digest="c", code_version="v", inputs={}, shards=entries
        )
        assert Manifest.from_json(manifest.to_json()) == manifest
        reader = SampleReader(store, manifest, names)
        order = list(range(len(samples)))
        random.shuffle(order)
        assert [reader[index] for index in order] == [samples[index] for index in order]
        assert [reader.by_key(key) for key, _ in samples] == samples
        some = names[: len(names) // 2 + 1]
        assert list(SampleReader(store, manifest, some)) == [(key, {n: s[n] for n in some}) for key, s in samples]


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    samples = [("a", {"x": b"1", "y": b"2"}), ("b", {"y": b"4", "x": b"3"})]
    entries = [write_shard(open_store(tmp_path / name), "s.tar", samples, ["x", "y"]) for name in ("one", "two")]
    assert entries[0] == entries[1]
    assert (tmp_path / "one/s.tar").read_bytes() == (tmp_path / "two/s.tar").read_bytes()
    assert (tmp_path / "one/s.index.json").read_bytes() == (tmp_path / "two/s.index.json").read_bytes()


def test_a_second_writer(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first = write_shard(store, "s.tar", [("a", {"x": b"1"})], ["x"])
    assert write_shard(store, "s.tar", [("a", {"x": b"1"})], ["x"]) == first
    with pytest.raises(Conflict):
        write_shard(store, "s.tar", [("a", {"x": b"2"})], ["x"])
    assert list(stream_shard(store, first, ["x"])) == [("a", {"x": b"1"})]


@pytest.mark.parametrize(
    ("samples", "names", "message"),
    [
        ([("a", {"x": b""})], ["x", "y"], "the sample a has the fields"),
        ([("a", {"x": b"", "y": b""})], ["x"], "the sample a has the fields"),
        ([("a", {"x": b""}), ("a", {"x": b""})], ["x"], "the sample a comes twice"),
        ([("a.b", {"x": b""})], ["x"], "cannot be the key"),
        ([("a/b", {"x": b""})], ["x"], "cannot be the key"),
        ([("", {"x": b""})], ["x"], "cannot be the key"),
        ([("k" * 100, {"x": b""})], ["x"], "at most 100"),
        ([], [], "one or more different names"),
        ([], ["x", "x"], "one or more different names"),
        ([], ["../x"], "cannot be the name of a field"),
        ([], ["x/y"], "cannot be the name of a field"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, samples: list, names: list[str], message: str) -> None:
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_shard(store, "s.tar", samples, names)
    assert list(store.list()) == []


def test_bounds_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_SAMPLES", 3)
    samples = [(f"k{n}", {"x": b""}) for n in range(4)]
    with pytest.raises(ValueError, match="use more shards"):
        write_shard(open_store(tmp_path), "s.tar", samples, ["x"])
    with pytest.raises(ValueError, match="max_samples is 0"):
        list(write_shards(open_store(tmp_path), samples, ["x"], max_samples=0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../s.tar"},
        {"name": "a/s.tar"},
        {"name": "s.zip"},
        {"samples": -1},
        {"bytes": -5},
        {"sha256": "abc"},
        {"sha256": "Z" * 64},
    ],
)
def test_impossible_entries_are_refused(wrong: dict[str, object]) -> None:
    right = {"name": "s.tar", "samples": 0, "bytes": 1024, "sha256": "0" * 64}
    ShardEntry(**right)  # type: ignore[arg-type]
    with pytest.raises((BadKey, ValueError)):
        ShardEntry(**(right | wrong))  # type: ignore[arg-type]


def test_an_index_that_fits_nothing_is_ignored(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    entry = write_shard(store, "s.tar", [("a", {"x": b"1"}), ("b", {"x": b"2"})], ["x"])
    data = store.read(index_name("s.tar"))
    index = ShardIndex.from_json(data, entry.sha256)
    assert index is not None
    assert index.to_json() == data
    assert index == describe_shard(store, "s.tar")[1]
    assert ShardIndex.from_json(data, "0" * 64) is None
    for wrong in (b"", b"{}", b"[]", b"null", data[:-1], data.replace(b'"a"', b'"c"'), b"\xff"):
        assert ShardIndex.from_json(wrong, entry.sha256) is None


def test_a_shard_without_samples(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    entry = write_shard(store, "s.tar", [], ["x"])
    assert list(stream_shard(store, entry, ["x"])) == []
    assert describe_shard(store, "s.tar")[0] == entry


def test_a_shard_that_is_not_the_one_of_the_manifest(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    entry = write_shard(store, "s.tar", [("a", {"x": b"1"})], ["x"])
    with pytest.raises(ShardCorrupt, match="has no field 'y'"):
        next(stream_shard(store, entry, ["y"]))
    with pytest.raises(ShardCorrupt, match="its manifest says 7"):
        next(stream_shard(store, ShardEntry("s.tar", 7, entry.bytes, entry.sha256), ["x"]))
