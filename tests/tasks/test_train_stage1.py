"""Stage 1 on small random features: resume, errors, what a step sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.checkpoints import CheckpointStore
from storage.manifest import Manifest
from storage.shards import write_shard
from storage.stores import Store, open_store
from tasks.array_bytes import npy_bytes
from tasks.generation import Generation
from tasks.train_data import FeatureBatches
from tasks.train_stage1 import TrainConfig, train_stage1

FIELDS = ("moments.npy", "conditions.npy", "face.npy", "semantic.npy")
CONFIG = TrainConfig(model="tiny", steps=4, batch=2, learning_rate=1e-3, checkpoint_every=2)


def features(root: Store, count: int = 3, size: int = 8) -> Generation:
    numbers = np.random.default_rng(0)

    def sample() -> dict[str, bytes]:
        latent = (size, size)
        shapes = {"moments": (32, *latent), "conditions": (48, *latent), "face": (128,), "semantic": (50, 320)}
        arrays = {name: numbers.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
        arrays["moments"][16:] = -30
        return {f"{name}.npy": npy_bytes(array) for name, array in arrays.items()}

    home = root.child("features/0123456789abcdef")
    entry = write_shard(home, "shard-000000.tar", [(f"sample-{i}", sample()) for i in range(count)], FIELDS)
    manifest = Manifest(
        stage="features",
        fields=FIELDS,
        config_digest="c",
        code_version="0",
        inputs={},
        shards=(entry,),
        counts={"ok": count},
    )
    manifest.commit(home)
    return Generation(stage="features", uri=home.uri, manifest=manifest, reused=False)


def weights(uri: str) -> dict[str, torch.Tensor]:
    checkpoint = CheckpointStore(open_store(uri).child("checkpoints")).load()
    assert checkpoint.step == CONFIG.steps
    return checkpoint.tensors


@pytest.mark.usefixtures("ray_running")
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, cut = (open_store(tmp_path / name) for name in ("whole", "cut"))
    at_once = train_stage1(CONFIG, features(whole), whole)
    assert at_once.step == CONFIG.steps

    # What a kill between the checkpoints of step 2 and step 4 leaves: the first, and nothing of the second.
    first = train_stage1(CONFIG, features(cut), cut)
    home = open_store(first.uri)
    for prefix in ("record.json", "checkpoints/step-00000004/"):
        home.delete_prefix(prefix)
    again = train_stage1(CONFIG, features(cut), cut)
    assert not again.reused
    assert again.losses == at_once.losses
    expected, found = weights(at_once.uri), weights(again.uri)
    assert expected.keys() == found.keys()
    assert any(name.startswith("optimiser.") for name in expected)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name

    assert train_stage1(CONFIG, features(cut), cut).reused


def test_rows_of_a_step_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    reader = features(open_store(tmp_path), count=5).reader()
    alone = FeatureBatches(reader, seed=3, batch=4, rank=0, world=1)
    pair = [FeatureBatches(reader, seed=3, batch=2, rank=rank, world=2) for rank in (0, 1)]
    for step in range(6):
        assert alone.keys(step) == [row for one in pair for row in one.keys(step)]
    seen = [key for step in range(5) for _, key in alone.keys(step)]
    assert sorted(seen) == sorted(list(reader.keys) * 4), "every sample once an epoch"


def test_an_empty_generation_is_refused(tmp_path: Path) -> None:
    home = open_store(tmp_path).child("features/0")
    manifest = Manifest(stage="features", fields=FIELDS, config_digest="c", code_version="0", inputs={}, shards=())
    manifest.commit(home)
    empty = Generation(stage="features", uri=home.uri, manifest=manifest, reused=False)
    with pytest.raises(ValueError, match="empty"):
        FeatureBatches(empty.reader(), seed=0, batch=1, rank=0, world=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", -1),
        ("batch", 0),
        ("learning_rate", float("nan")),
        ("precision", "fp8"),
        ("model", "huge"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        replace(CONFIG, **{field: value})  # type: ignore[arg-type]
