"""Does stage 1 learn? On pictures that their maps decide, the loss falls; with the maps of others it cannot."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_features import features

from storage.records import committed
from storage.stores import open_store
from tasks.generation import find_generation
from tasks.train_config import TrainConfig
from tasks.train_log import read_log
from tasks.train_loop import train_rank
from tasks.train_stage1 import job_for
from tasks.train_state import Place

pytestmark = pytest.mark.slow
CONFIG = TrainConfig(
    model="debug", steps=150, batch=8, draws=2, learning_rate=2e-3, learning_rate_warmup=10, schedule="cosine",
    decay_from=0.5, ema_decay=0.98, checkpoint_every=50, validation_samples=12, codec="patch-cosine", sample_every=150,
    attention="math",
)  # fmt: skip


def samples(shuffled: bool) -> Sequence[dict[str, NDArray[np.floating]]]:
    """Latents with a bright spot where the maps have one. `shuffled`: the maps of the rows for training are another's."""
    numbers = np.random.default_rng(0)
    rows = []
    for _ in range(48):
        place = numbers.uniform(1, 6, size=2)
        y, x = np.mgrid[:8, :8]
        spot = np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / 4)
        signs = np.where(np.arange(16) % 2, 1.5, -1.5)[:, None, None]
        rows.append({
            "moments": np.concatenate([signs * spot, np.full((16, 8, 8), -30.0)]),
            "conditions": np.concatenate([spot * factor for factor in np.tile([1.0, -0.7, 0.5, 0.9], 12)[:, None, None]
                                          ]).reshape(48, 8, 8),
            "face": numbers.normal(size=128),
            "semantic": numbers.normal(size=(5, 24)),
        })  # fmt: skip
    if shuffled:
        # Persons 3, 7, … are the validation split, and keep their maps.
        training = [i for i in range(48) if i % 4 != 3]
        maps = [rows[i]["conditions"] for i in training]
        for i, other in zip(training, maps[7:] + maps[:7], strict=True):
            rows[i]["conditions"] = other
    return [{name: array.astype(np.float16) for name, array in row.items()} for row in rows]


def validation(root: Path, *, shuffled: bool) -> list[dict[str, float]]:
    store = open_store(root)
    features(store, samples(shuffled), persons=16)
    config = replace(CONFIG, sample_every=None) if shuffled else CONFIG
    job = job_for(config, find_generation(store, "features", None), store)
    train_rank(job, Place(0, 1, torch.device("cpu")))
    facts = committed(job.home).facts
    if not shuffled:
        assert np.mean(facts["losses"][-20:]) < 0.6 * np.mean(facts["losses"][:20])
        grids = list(open_store(job.home).list("samples/"))
        assert len(grids) == 1
    return [row for row in read_log(open_store(job.home)) if "validation" in row]


def test_the_loss_falls_and_maps_are_what_it_falls_by(tmp_path: Path) -> None:
    sound, broken = (validation(tmp_path / str(shuffled), shuffled=shuffled) for shuffled in (False, True))
    print([(row["step"], row["validation"], row["validation_shuffled"]) for row in sound + broken])
    assert sound[-1]["validation"] < sound[0]["validation"]
    assert sound[-1]["validation_shuffled"] > 1.2 * sound[-1]["validation"], "it looks at its maps"
    assert broken[-1]["validation"] > 1.2 * sound[-1]["validation"], "shuffled maps teach it nothing"
