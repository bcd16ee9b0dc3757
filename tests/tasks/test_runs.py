"""Runs in a list, their curves, and their beginning repeated."""

import io
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_features import features

from storage.stores import open_store
from tasks.run_plots import smoothed, sparkline
from tasks.runs import curves, find_run, list_runs, replay, report_of
from tasks.train_config import TrainConfig
from tasks.train_log import TrainLog, read_log
from tasks.train_loop import Run, train_rank
from tasks.train_plan import plan_of
from tasks.train_stage1 import describe, job_for
from tasks.train_state import Place

CONFIG = TrainConfig(model="debug", steps=3, batch=2, learning_rate=1e-3, checkpoint_every=3, threads=1)
ALONE = Place(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two runs on the same features: one finished, one that has just done a step."""
    store = open_store(tmp_path_factory.mktemp("runs"))
    generation = features(store, 8, persons=4)
    for config in (CONFIG, replace(CONFIG, seed=1)):
        job = job_for(config, generation, store)
        describe(job, open_store(job.home))
        if config.seed == 0:
            train_rank(job, ALONE)
            continue
        with Run(job, ALONE, lambda row: None) as run:
            run.train(stop=False)
    return store.uri


def test_finished_and_unfinished_runs_are_listed(root: str) -> None:
    runs = {run.finished: run for run in list_runs(root)}
    assert (runs[True].step, runs[True].steps, runs[True].checkpoint) == (3, 3, 3)
    assert (runs[False].step, runs[False].checkpoint) == (1, None)
    assert runs[True].validation is not None
    assert find_run(root, runs[False].name[:6]).uri == runs[False].uri
    with pytest.raises(ValueError, match="no run named nothing; it has"):
        find_run(root, "nothing")


def test_curves_are_a_picture_and_lines(root: str, tmp_path: Path) -> None:
    home = next(run.uri for run in list_runs(root) if run.finished)
    lines = {name: (line, last) for name, line, _, last in curves(open_store(home), tmp_path / "curves.png")}
    assert len(lines["loss"][0]) == 3
    assert lines["data_wait"][1] <= 1
    assert Image.open(tmp_path / "curves.png").width > 800
    report = report_of(home)
    assert report is not None
    assert report.samples is None
    assert {"loss", "loss.0", "gradient_norm", "validation", "samples_per_second"} <= set(report.figures) | {"loss.0"}
    assert Image.open(io.BytesIO(report.curves)).format == "PNG"
    board = list((tmp_path.parent / home.removeprefix("file://")).glob("tensorboard/events*"))
    assert board


@pytest.mark.parametrize("finished", [True, False])
def test_a_replay_has_the_same_losses_to_the_bit(root: str, finished: bool) -> None:
    run = next(run for run in list_runs(root) if run.finished == finished)
    result = replay(root, run.name, 2)
    assert result.steps == (2 if finished else 1)
    assert result.found == result.recorded
    assert result.largest_difference == 0


def test_a_step_trained_again_replaces_its_row_and_keeps_no_old_validation(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for loss in (2.0, 1.0):
        log = TrainLog(store, lambda row: None, None)
        log.step(1, {"loss": loss})
        log.step(1, {"validation": loss / 2})
        log.close()
    (row,) = read_log(store)
    assert (row["loss"], row["validation"]) == (1.0, 0.5)


def test_lines_of_blocks_and_means() -> None:
    assert sparkline([0, 1, 2, 3]) == "▁▃▆█"
    assert sparkline([5.0] * 3) == "▁▁▁"
    assert sparkline([]) == ""
    assert len(sparkline(np.arange(1000.0))) == 60
    np.testing.assert_allclose(smoothed(np.arange(100.0), 0.04)[2:-2], np.arange(100.0)[2:-2])


@pytest.mark.slow
def test_a_dry_run_knows_the_paper_s_networks_and_allocates_nothing() -> None:
    config = TrainConfig(workers=2, gpu=True, precision="fp16", ema_decay=0.999)
    plan = plan_of(config)
    parameters = dict(plan.parameters)
    assert parameters["denoiser"] == 859_520_964
    assert parameters["guidance"] == 859_544_004
    assert parameters["of them trained"] == 1_752_449_928 - 2_455_044
    uses = dict(plan.memory)
    assert uses["optimiser"] == pytest.approx(2 * uses["gradients"])
    assert uses["weights"] == pytest.approx(4 * 1_752_449_928 / 2**30)
    gib = [value for _, value in plan.ladder]
    assert all(later <= before for before, later in itertools.pairwise(gib[1:-1]))
    assert gib[-1] < gib[3], "two ranks share weights, gradients and moments"
    assert any("GFLOP a photograph" in sentence for sentence in plan.sentences)
