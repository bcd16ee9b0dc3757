"""The whole chain once, in small: store, shard, manifest, reader, checkpoint."""

from pathlib import Path

import pytest
import torch

from storage.checkpoints import CheckpointStore
from storage.errors import Conflict
from storage.manifest import Manifest, StatusRow, read_status, write_status
from storage.reader import SampleReader
from storage.shards import stream_shard, write_shard
from storage.stores import open_store

FIELDS = ("image.png", "meta.json")


def test_a_dataset_is_written_and_read(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data").child("images/abc")
    samples = [(f"k{i}", {"image.png": bytes([i]) * i, "meta.json": b"{}"}) for i in range(10)]
    entries = tuple(write_shard(store, f"shard-{n:06d}.tar", samples[n * 5 : n * 5 + 5], FIELDS) for n in range(2))
    rows = [StatusRow(key=key, source=f"{key}.jpg", status="good", stage="images") for key, _ in samples]
    write_status(store, rows)
    manifest = Manifest(
        stage="images",
        fields=FIELDS,
        config_digest="c",
        code_version="v",
        inputs={"photos": "d"},
        shards=entries,
    )
    assert Manifest.read(store) is None
    manifest.commit(store)
    manifest.commit(store)
    assert Manifest.read(store) == manifest
    assert read_status(store) == rows
    assert [sample for entry in entries for sample in stream_shard(store, entry, FIELDS)] == samples
    reader = SampleReader(store, manifest, ["meta.json", "image.png"])
    assert len(reader) == 10
    assert reader[7] == samples[7]
    assert reader.by_key("k3") == samples[3]
    assert reader.keys == [key for key, _ in samples]
    with pytest.raises(Conflict):
        write_shard(store, "shard-000000.tar", samples[:4], FIELDS)


def test_a_checkpoint_is_saved_and_loaded(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(open_store(tmp_path))
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"a": torch.full((2, 3), float(step)), "n": torch.tensor(step)}, {"epoch": step})
    assert checkpoints.steps() == [2, 3]
    loaded = checkpoints.load()
    assert loaded.step == 3
    assert torch.equal(loaded.tensors["a"], torch.full((2, 3), 3.0))
    assert loaded.state == {"epoch": 3}
