"""One process against two that share the work (gloo): the same samples, the same losses, and the same order after a
change of the number of ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_features import features
from training_process import checkpoint, start, train

from storage.records import committed
from storage.stores import open_store
from tasks.train_config import TrainConfig

pytestmark = pytest.mark.slow
CONFIG = TrainConfig(
    model="debug", steps=4, batch=4, learning_rate=1e-3, checkpoint_every=2, ema_decay=0.9, pairs=True, pair_share=0.5,
    validation_samples=3, weight_decay=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of one rank."""
    folder = tmp_path_factory.mktemp("alone")
    features(open_store(folder), 16, persons=8)
    home: str = train(CONFIG, str(folder))["home"]
    return home


@pytest.mark.parametrize("how", ["ddp", "ddp accumulating", "fsdp"])
def test_two_ranks_are_one(how: str, alone: str, tmp_path: Path) -> None:
    features(open_store(tmp_path), 16, persons=8)
    config = replace(CONFIG, workers=2, parallel=how[:4].strip(), accumulate=2 if "accumulating" in how else 1)
    home = train(config, str(tmp_path), tmp_path / "meeting", world=2)["home"]
    expected, found = committed(alone), committed(home)
    assert found.facts["losses"] == pytest.approx(expected.facts["losses"], abs=1e-5)
    assert found.facts["best"]["loss"] == pytest.approx(expected.facts["best"]["loss"], abs=1e-5)
    one, two = checkpoint(alone), checkpoint(home)
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith(("model.", "ema.")):
            # AdamW turns rounding of a gradient near zero into whole steps; few weights have one.
            distance = (one[name] - two[name]).abs()
            assert float(torch.quantile(distance.flatten()[:1_000_000], 0.9)) < 1e-4, name


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_ranks_goes_on_with_one(parallel: str, alone: str, tmp_path: Path) -> None:
    features(open_store(tmp_path), 16, persons=8)
    pair = replace(CONFIG, workers=2, parallel=parallel)
    ranks = [start(pair, str(tmp_path), rank=rank, world=2, meeting=tmp_path / "m", kill_at=3) for rank in (0, 1)]
    # Rank 0 kills itself after step 3; the other one ends with an error, having lost it.
    assert all(rank.wait() != 0 for rank in ranks)
    home = train(CONFIG, str(tmp_path))["home"]
    assert committed(home).facts["losses"] == pytest.approx(committed(alone).facts["losses"], abs=1e-5)
