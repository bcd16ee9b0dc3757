"""400 cuts and 400 flipped bytes in a committed shard: each is found before a sample of that shard leaves."""
# ruff: noqa: F811 - fixtures are imported, and named again as parameters

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import s3_server, s3_store  # noqa: F401

from storage.errors import ShardCorrupt
from storage.manifest import Manifest
from storage.reader import SampleReader
from storage.s3 import S3Store
from storage.shards import ShardEntry, index_name, stream_shard, write_shard
from storage.stores import open_store

FIELDS = ("image.png", "maps.npy", "meta.json")
NAME = "shard-000000.tar"


def _samples() -> list[tuple[str, dict[str, bytes]]]:
    chance = random.Random(0)
    return [(f"k{n}", {field: chance.randbytes(chance.randrange(3000)) for field in FIELDS}) for n in range(10)]


def _cuts(data: bytes, chance: random.Random) -> Iterator[bytes]:
    for _ in range(400):
        yield data[: chance.randrange(len(data))]


def _flips(data: bytes, chance: random.Random) -> Iterator[bytes]:
    for _ in range(400):
        at = chance.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [_cuts, _flips])
@pytest.mark.parametrize("indexed", [True, False])
def test_every_damage_is_found(
    tmp_path: Path, damage: Callable[[bytes, random.Random], Iterator[bytes]], indexed: bool
) -> None:
    store = open_store(tmp_path)
    entry = write_shard(store, NAME, _samples(), FIELDS)
    manifest = Manifest(stage="s", fields=FIELDS, config_digest="", code_version="", inputs={}, shards=(entry,))
    if not indexed:
        store.delete(index_name(NAME))
    assert list(stream_shard(store, entry, FIELDS)) == list(SampleReader(store, manifest, FIELDS)) == _samples()
    original = (tmp_path / NAME).read_bytes()
    found = 0
    for damaged in damage(original, random.Random(1)):
        (tmp_path / NAME).write_bytes(damaged)
        leaving: list[object] = []
        with pytest.raises(ShardCorrupt):
            leaving.extend(stream_shard(store, entry, ["image.png"]))
        reader = SampleReader(store, manifest, ["image.png"])
        with pytest.raises(ShardCorrupt):
            leaving.append(reader[found % 10])
        assert leaving == []
        found += 1
    assert found == 400


def test_a_shard_that_s3_keeps_damaged_is_found(s3_store: S3Store, tmp_path: Path) -> None:
    entry: ShardEntry = write_shard(s3_store, NAME, _samples(), FIELDS)
    original = s3_store.read(NAME)
    client = s3_store._requests._client
    chance = random.Random(2)
    patient = S3Store(s3_store.bucket, s3_store.prefix, type(s3_store.config)(attempts=1))
    for damaged in [next(kind(original, chance)) for kind in (_cuts, _flips) for _ in range(10)]:
        for sha256 in (entry.sha256, "unknown"):
            metadata = {"sha256": sha256} if sha256 != "unknown" else {}
            where = {"Bucket": s3_store.bucket, "Key": f"{s3_store.prefix}/{NAME}"}
            client.put_object(**where, Body=damaged, Metadata=metadata)
            leaving: list[object] = []
            with pytest.raises(ShardCorrupt):
                leaving.extend(stream_shard(patient, entry, FIELDS))
            assert leaving == []
