"""A small disk that fills up: a sentence, nothing half-written, and what was there before still loads."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from storage.cache import ShardCache
from storage.checkpoints import CheckpointStore
from storage.errors import StoreFull
from storage.shards import write_shard
from storage.stores import S3Store, open_store

pytestmark = pytest.mark.faults

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """16 MiB of tmpfs."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_checkpoint_that_does_not_fit(small_disk: Path) -> None:
    with CheckpointStore(open_store(small_disk)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": torch.full((MIB,), float(step))}, {})
        message = rf"the disk of {small_disk}.* is full: 12,582,912 bytes are needed"
        with pytest.raises(StoreFull, match=message):
            checkpoints.save(3, {"w": torch.zeros(3 * MIB)}, {})
        checkpoints.save_in_background(3, {"w": torch.zeros(3 * MIB)}, {})
        with pytest.raises(StoreFull, match=message):
            checkpoints.wait()
        assert checkpoints.latest() == 2
        assert torch.equal(checkpoints.load().tensors["w"], torch.full((MIB,), 2.0))
        assert not list(small_disk.rglob(".staging/*"))
        checkpoints.save(3, {"w": torch.zeros(MIB)}, {})
        assert checkpoints.steps() == [2, 3]


def test_a_shard_that_does_not_fit(small_disk: Path) -> None:
    store = open_store(small_disk)
    first = write_shard(store, "shard-000000.tar", [("a", {"x": bytes(MIB)})], ["x"])
    samples = ((f"k{n}", {"x": os.urandom(MIB)}) for n in range(100))
    with pytest.raises(StoreFull, match=r"is full: the .* bytes that were free did not suffice"):
        write_shard(store, "shard-000001.tar", samples, ["x"])
    assert [info.key for info in store.list()] == ["shard-000000.index.json", "shard-000000.tar"]
    assert not list(small_disk.rglob(".staging/*"))
    assert write_shard(store, "shard-000000.tar", [("a", {"x": bytes(MIB)})], ["x"]) == first


def test_other_objects_that_do_not_fit(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(small_disk)
    with pytest.raises(StoreFull, match="20,971,520 bytes are needed"):
        store.create("x", bytes(20 * MIB))
    (tmp_path / "big").write_bytes(bytes(20 * MIB))
    with pytest.raises(StoreFull, match="20,971,520 bytes are needed"):
        store.create_from_file("x", tmp_path / "big")
    with pytest.raises(StoreFull):
        store.check()
    assert list(store.list()) == []


def test_a_cache_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    entry = write_shard(store, "shard-000000.tar", [("a", {"x": bytes(20 * MIB)})], ["x"])
    with pytest.raises(StoreFull, match="is full"):
        ShardCache(small_disk, 100 * MIB).open(store, entry)
    assert not list(small_disk.glob("*.tar"))
    assert not list(small_disk.glob("*.part"))


def test_a_full_temporary_folder(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards for S3 are put together in the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    samples = ((f"k{n}", {"x": os.urandom(MIB)}) for n in range(100))
    with pytest.raises(
        StoreFull, match=rf"the disk of {small_disk}/.* is full: the .* bytes that were free did not suffice"
    ):
        write_shard(S3Store("bucket", "never/asked"), "shard-000001.tar", samples, ["x"])
    assert not [path for path in small_disk.rglob("*") if path.is_file()]
