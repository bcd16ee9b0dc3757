"""Random access, the cache, and several processes at once."""

import multiprocessing
import pickle
import random
from pathlib import Path

import pytest

from storage.cache import ShardCache
from storage.errors import NotFound, ShardCorrupt, StoreFull
from storage.interface import Store
from storage.manifest import Manifest
from storage.reader import SampleReader
from storage.shards import describe_shard, index_name, write_shards
from storage.stores import open_store

FIELDS = ("face.npy", "moments.npy")
SAMPLES = [(f"k{n:03d}", {"face.npy": bytes([n]) * 64, "moments.npy": bytes([n, 1]) * 1000}) for n in range(60)]


def make_dataset(store: Store) -> Manifest:
    shards = tuple(write_shards(store, SAMPLES, FIELDS, max_samples=10))
    manifest = Manifest(stage="features", fields=FIELDS, config_digest="c", code_version="v", inputs={}, shards=shards)
    manifest.commit(store)
    return manifest


def test_any_order_any_fields(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    reader = SampleReader(store, make_dataset(store), ["moments.npy"], open_shards=2)
    assert len(reader) == 60
    for index in random.Random(0).sample(range(60), 60):
        key, sample = SAMPLES[index]
        assert reader[index] == (key, {"moments.npy": sample["moments.npy"]})
    assert reader[-1][0] == "k059"
    assert [key for key, _ in reader] == reader.keys == [key for key, _ in SAMPLES]
    for wrong in (60, -61):
        with pytest.raises(IndexError):
            reader[wrong]
    with pytest.raises(NotFound, match="no sample"):
        reader.by_key("k060")
    with pytest.raises(ValueError, match="has no field 'face'"):
        SampleReader(store, reader.manifest, ["face"])


def test_a_reader_travels_and_closes(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    reader = SampleReader(store, make_dataset(store), FIELDS)
    assert reader[3] == SAMPLES[3]
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert copy[33] == SAMPLES[33]
    reader.close()
    assert reader[3] == SAMPLES[3]
    reader.close()
    copy.close()


def test_without_its_index_a_shard_is_scanned(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    manifest = make_dataset(store)
    for entry in manifest.shards:
        store.delete(index_name(entry.name))
    (tmp_path / index_name(manifest.shards[0].name)).write_bytes(b"nonsense")
    reader = SampleReader(store, manifest, FIELDS)
    assert reader.by_key("k042") == SAMPLES[42]
    assert list(reader) == SAMPLES


def test_deleting_an_open_shard_changes_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    reader = SampleReader(store, make_dataset(store), FIELDS)
    assert reader[0] == SAMPLES[0]
    store.delete(reader.manifest.shards[0].name)
    assert reader[9] == SAMPLES[9]
    reader.close()
    with pytest.raises(NotFound, match="is missing, though its manifest names it"):
        reader[9]


def test_shards_of_s3_pass_through_the_cache(s3_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_dataset(s3_store)
    with pytest.raises(ValueError, match="name a cache_dir"):
        SampleReader(s3_store, manifest, FIELDS)
    reader = SampleReader(s3_store, manifest, FIELDS, tmp_path)
    assert reader.keys[59] == "k059"
    assert list(tmp_path.glob("*.tar")) == [], "keys come from the indexes alone"
    assert list(reader) == SAMPLES
    assert len(list(tmp_path.glob("*.tar"))) == 6
    copy = next(tmp_path.glob(f"{manifest.shards[0].sha256}.tar"))
    data = bytearray(copy.read_bytes())
    data[700] ^= 1
    copy.write_bytes(data)
    again = SampleReader(s3_store, manifest, FIELDS, tmp_path)
    assert again[0] == SAMPLES[0], "the damaged copy is dropped and fetched again"
    assert "is dropped and fetched again" in caplog.text


def test_a_shard_that_s3_holds_damaged_is_not_cached(s3_store: Store, tmp_path: Path) -> None:
    manifest = make_dataset(s3_store)
    s3_store.delete(manifest.shards[0].name)
    s3_store.create(manifest.shards[0].name, bytes(manifest.shards[0].bytes))
    reader = SampleReader(s3_store, manifest, FIELDS, tmp_path)
    with pytest.raises(ShardCorrupt):
        reader[0]
    assert list(tmp_path.glob("*.tar")) == []
    assert reader[10] == SAMPLES[10]


def test_the_cache_stays_within_its_limit(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    manifest = make_dataset(store)
    size = manifest.shards[0].bytes
    cache = ShardCache(tmp_path / "cache", 3 * size)
    for entry in manifest.shards:
        cache.open(store, entry).close()
        assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= 3 * size
    assert {path.stem for path in cache.folder.glob("*.tar")} == {entry.sha256 for entry in manifest.shards[3:]}
    cache.open(store, manifest.shards[3]).close()
    cache.open(store, manifest.shards[0]).close()
    assert (cache.folder / f"{manifest.shards[3].sha256}.tar").exists(), "what was opened last stays"
    with pytest.raises(StoreFull, match="raise its limit"):
        ShardCache(tmp_path / "cache", size - 1).open(store, manifest.shards[0])
    with pytest.raises(ValueError, match="at least one shard"):
        ShardCache(tmp_path / "cache", 0)


def _read_at_random(folder: Path, seed: int, answers: "multiprocessing.Queue[object]") -> None:
    store = open_store(folder / "data")
    manifest = Manifest.read(store)
    assert manifest is not None
    cache = ShardCache(folder / "cache", 3 * manifest.shards[0].bytes)
    chance = random.Random(seed)
    for _ in range(60):
        number = chance.randrange(6)
        entry = manifest.shards[number]
        shard = cache.open(store, entry)
        row = chance.randrange(10)
        if shard.sample(row, shard.columns(FIELDS)) != list(SAMPLES[10 * number + row][1].values()):
            answers.put(f"wrong bytes in row {row} of {entry.name}")
        shard.close()
    answers.put(None)


def test_many_processes_share_one_cache(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    manifest = make_dataset(store)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_read_at_random, args=(tmp_path, seed, answers)) for seed in range(4)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [None] * 4
    for process in processes:
        process.join()
    cached = list((tmp_path / "cache").glob("*.tar"))
    assert sum(path.stat().st_size for path in cached) <= 3 * manifest.shards[0].bytes
    for path in cached:
        assert describe_shard(open_store(tmp_path / "cache"), path.name)[0].sha256 == path.stem
    assert not list((tmp_path / "cache").glob(".*.part"))
