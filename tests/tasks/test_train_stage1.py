"""Stage 1 on small random features: exact resume, what a step sees, ranks, errors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_features import features, random_sample
from training_process import assert_equal, checkpoint

from models.diffusion.hidden_face import face_cells
from storage.checkpoints import CheckpointStore
from storage.errors import ShardCorrupt
from storage.records import committed
from storage.stores import open_store
from tasks.generation import find_generation
from tasks.train_config import TrainConfig
from tasks.train_data import FeatureBatches, FeatureRows
from tasks.train_log import read_log
from tasks.train_loop import train_rank
from tasks.train_networks import networks_for
from tasks.train_stage1 import TrainedModel, describe, job_for, train_stage1
from tasks.train_state import RAW, Place, load_networks

CONFIG = TrainConfig(
    model="debug", steps=4, batch=2, learning_rate=1e-3, checkpoint_every=2, ema_decay=0.9, draws=2, schedule="cosine",
    validation_samples=2,
)  # fmt: skip
ALONE = Place(0, 1, torch.device("cpu"))


def train_here(config: TrainConfig, root: Path, **options: Any) -> tuple[str, list[dict[str, Any]]]:
    """Train in this process, without Ray, on the features below `root`. Returns the run's URI and its log."""
    store = open_store(root)
    job = job_for(config, find_generation(store, "features", None), store)
    describe(job, open_store(job.home))
    rows: list[dict[str, Any]] = []
    train_rank(job, ALONE, report=rows.append, **options)
    return job.home, rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """URI and log of a run that was not disturbed."""
    root = tmp_path_factory.mktemp("finished")
    features(open_store(root), 8, persons=4)
    return train_here(CONFIG, root)


def test_an_interrupted_training_ends_with_the_same_bits(
    finished: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    whole, _ = finished
    features(open_store(tmp_path), 8, persons=4)
    asked = iter([False, False, True])
    cut, rows = train_here(CONFIG, tmp_path, stopping=lambda: next(asked))
    assert rows[-1]["step"] == 3, "it stops after the step that it is in"
    assert open_store(cut).stat("record.json") is None
    again, _ = train_here(CONFIG, tmp_path)
    assert again == cut
    expected = checkpoint(whole)
    kinds = {name.split(".")[0] for name in expected}
    assert kinds == {"model", "optimiser", "ema"}
    assert_equal(expected, checkpoint(cut))
    assert committed(whole).facts["losses"] == committed(cut).facts["losses"]
    assert [row["step"] for row in read_log(open_store(cut))] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_running")
def test_ray_train_runs_it_and_finds_it_finished(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    generation = features(root, 8, persons=4)
    model = train_stage1(CONFIG, generation, root)
    assert (model.step, model.reused) == (4, False)
    assert isinstance(model, TrainedModel)
    assert train_stage1(CONFIG, generation, root).reused


def test_rows_of_a_step_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    generation = features(open_store(tmp_path), 5)
    rows, config = FeatureRows(generation), replace(CONFIG, batch=4)
    networks = networks_for(config, generation)

    def seen(step: int, world: int, accumulate: int) -> list[tuple[int, str]]:
        parts = [
            FeatureBatches(rows, replace(config, accumulate=accumulate), networks, rank=rank, world=world).step(step)
            for rank in range(world)
        ]
        return [row for number in range(accumulate) for part in parts for row in part[number].rows]

    alone = [seen(step, 1, 1) for step in range(5)]
    for world, accumulate in ((2, 1), (2, 2), (4, 1), (1, 4)):
        assert [seen(step, world, accumulate) for step in range(5)] == alone
    keys = [key for step in alone for _, key in step]
    assert sorted(keys) == sorted(list(rows.train) * 4), "every sample once an epoch"


def test_pairs_take_the_identity_of_another_photograph_and_the_rest_of_their_own(tmp_path: Path) -> None:
    generation = features(open_store(tmp_path), 16, persons=4)
    rows = FeatureRows(generation)
    config = replace(CONFIG, pairs=True, pair_share=0.5, batch=12)
    batches = FeatureBatches(rows, config, networks_for(config, generation))
    assert {rows.person[key] for key in rows.train}.isdisjoint({rows.person[key] for key in rows.validation})
    drawn = 0
    for step in range(8):
        micro = batches.step(step)[0]
        for index, row in enumerate(micro.rows):
            partner = batches.partner(row)
            assert rows.person[partner] == rows.person[row[1]]
            drawn += partner != row[1]
            own, other = rows.arrays([row[1]]), rows.arrays([partner])
            for name, tensor in micro.tensors.items():
                expected = other if name in ("face", "semantic") else own
                assert np.array_equal(tensor[index].numpy(), expected[name][0])
    assert 30 < drawn < 66, "half of 96 rows"


def test_augmentation_changes_what_goes_in_and_not_the_target(tmp_path: Path) -> None:
    generation = features(open_store(tmp_path), 4)
    rows = FeatureRows(generation)
    config = replace(CONFIG, batch=4, identity_noise=0.1, semantic_dropout=0.5, maps_noise=0.2)
    networks = networks_for(config, generation)
    plain = FeatureBatches(rows, replace(CONFIG, batch=4), networks).step(0)[0].tensors
    changed, again = (FeatureBatches(rows, config, networks).step(0)[0].tensors for _ in range(2))
    assert torch.equal(changed["moments"], plain["moments"])
    for name in ("conditions", "face", "semantic"):
        assert not torch.equal(changed[name], plain[name])
        assert torch.equal(changed[name], again[name])
    assert 0.15 < float((changed["conditions"] - plain["conditions"]).std()) < 0.25
    assert bool((changed["semantic"] == 0).all(dim=-1).any())


def test_a_hidden_face_leaves_the_rest_of_the_grid(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    samples = [random_sample(numbers) | {"semantic": numbers.normal(size=(17, 24))} for _ in range(4)]
    generation = features(open_store(tmp_path), samples)
    rows, config = FeatureRows(generation), replace(CONFIG, batch=4, face_hidden=0.5)
    networks = replace(networks_for(config, generation), identity_context=True, identity_grid=4)
    hidden = 0
    for step in range(10):
        plain = FeatureBatches(rows, replace(CONFIG, batch=4), networks).step(step)[0].tensors
        changed = FeatureBatches(rows, config, networks).step(step)[0].tensors
        assert all(torch.equal(changed[name], plain[name]) for name in ("moments", "face"))
        for index in range(4):
            own, seen = plain["semantic"][index], changed["semantic"][index]
            zero = (seen == 0).all(dim=-1)
            assert torch.equal(seen[~zero], own[~zero])
            assert zero.tolist() in ([False] * 17, [False, *face_cells(4).flatten().tolist()]), "one of no place, then 4×4"
            same = torch.equal(plain["conditions"][index], changed["conditions"][index])
            assert same != bool(zero.any()), "tokens and maps are hidden together"
            hidden += not same
    assert 10 < hidden < 30, "half of 40 rows"
    with pytest.raises(ValueError, match=r"face_hidden=0\.5, but the semantic tokens of model='debug' lie on no grid"):
        FeatureBatches(rows, config, networks_for(config, generation))


def test_the_model_is_the_average_with_the_weights_beside_it(finished: tuple[str, list[dict[str, Any]]]) -> None:
    home, rows = finished
    record, tensors = committed(home), checkpoint(home)
    state = load_networks(record).state_dict()
    name = "denoiser.conv_in.weight"
    assert torch.equal(state[name], tensors[f"ema.{name}"])
    assert not torch.equal(state[name], tensors[f"model.{name}"])
    assert f"{RAW}unet/diffusion_pytorch_model.safetensors" in record.files
    card = record.read("README.md").decode()
    assert record.facts["features"] in card
    assert "decay 0.9" in card
    best = record.facts["best"]
    validations = {row["step"]: row["validation"] for row in rows if "validation" in row}
    assert best == {"step": min(validations, key=lambda s: validations[s]), "loss": min(validations.values())}
    kept = CheckpointStore(open_store(home).child("best")).load(best["step"])
    assert f"model.{name}" in kept.tensors


def test_options_that_say_how_and_not_what_leave_the_address_alone(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    generation = features(root, 8, persons=4)
    home = job_for(CONFIG, generation, root).home
    how = replace(CONFIG, workers=2, checkpoint_every=3, accumulate=1, threads=1, channels_last=True, compile=True)
    assert job_for(how, generation, root).home == home
    assert job_for(replace(CONFIG, seed=1), generation, root).home != home
    assert set(TrainConfig().decisive) == set()


@pytest.mark.parametrize("choice", [{"conditioning": "concatenation"}, {"identity": "semantic_only"}])
def test_a_baseline_is_a_training_of_its_own(tmp_path: Path, choice: dict[str, Any]) -> None:
    features(open_store(tmp_path), 8, persons=4)
    config = replace(CONFIG, steps=1, **choice)
    home, _ = train_here(config, tmp_path)
    ((name, value),) = choice.items()
    networks = load_networks(committed(home)).config
    assert getattr(networks, name) == value
    store = open_store(tmp_path)
    assert job_for(replace(CONFIG, steps=1), find_generation(store, "features", None), store).home != home


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="conditioning='film': choose None, guidance or concatenation"):
        replace(CONFIG, conditioning="film")  # type: ignore[arg-type]


def test_a_checkpoint_of_another_configuration_is_refused(finished: tuple[str, list[dict[str, Any]]]) -> None:
    root = open_store(finished[0].rpartition("/stage1/")[0])
    job = job_for(CONFIG, find_generation(root, "features", None), root)
    assert job.home == finished[0]
    with pytest.raises(ValueError, match="of another configuration: its decisive has seed=None, this run 5"):
        train_rank(replace(job, config=replace(CONFIG, seed=5)), ALONE)


def test_a_batch_larger_than_the_data_is_refused_unless_rows_may_repeat(tmp_path: Path) -> None:
    generation = features(open_store(tmp_path), 3)
    rows, config = FeatureRows(generation), replace(CONFIG, batch=4)
    networks = networks_for(config, generation)
    with pytest.raises(ValueError, match=r"batch=4 is larger than the data.* 3 rows"):
        FeatureBatches(rows, config, networks)
    assert len(FeatureBatches(rows, replace(config, repeat=True), networks).keys(0)) == 4
    with pytest.raises(ValueError, match="no two training rows"):
        FeatureBatches(rows, replace(CONFIG, pairs=True), networks)


def test_a_truncated_shard_is_refused_before_its_first_sample(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    generation = features(root, 4)
    shard = tmp_path / "features" / generation.uri.rpartition("/")[2] / generation.manifest.shards[0].name
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardCorrupt, match=r"has .* bytes, its manifest says"):
        job_for(CONFIG, generation, root)


def test_an_empty_generation_is_refused(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        job_for(CONFIG, features(root, 0), root)


def test_features_of_another_preset_are_refused(tmp_path: Path) -> None:
    generation = features(open_store(tmp_path), 2)
    with pytest.raises(ValueError, match=r"\(16, 8, 24, 128\) and model='paper' needs \(4, 32, 1024, 512\)"):
        networks_for(replace(CONFIG, model="paper"), generation)


def test_a_number_that_is_none_stops_the_training_and_names_the_sample(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    samples = [random_sample(numbers) for _ in range(4)]
    samples[2]["conditions"][0, 0, 0] = np.nan
    features(open_store(tmp_path / "nan"), samples)
    with pytest.raises(ValueError, match=r"conditions of sample-002 .* NaN"):
        train_here(CONFIG, tmp_path / "nan")
    samples[2]["conditions"][0, 0, 0] = 0
    samples[2]["moments"] = np.full_like(samples[2]["moments"], 1e30, dtype=np.float32)  # finite, but its square is not
    features(open_store(tmp_path / "large"), samples)
    with pytest.raises(FloatingPointError, match=r"for the samples \['sample-002'\]"):
        train_here(CONFIG, tmp_path / "large")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", -1),
        ("batch", 0),
        ("batch", 3),
        ("learning_rate", float("nan")),
        ("precision", "fp8"),
        ("model", "huge"),
        ("pair_share", 1.5),
        ("ema_decay", 1.0),
        ("schedule", "linear"),
        ("sample_every", 5),
        ("validate_every", 0),
        ("clip", 0.0),
        ("maps_noise", -0.1),
    ],
)
def test_a_bad_configuration_is_refused_with_the_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        replace(CONFIG, workers=2, **{field: value})  # type: ignore[arg-type]
