"""Trainings that are killed: at the end, everything is as if nothing had happened."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import s3_server, s3_store  # noqa: F401
from small_features import features
from training_process import assert_equal, checkpoint, start, train

from storage.checkpoints import CheckpointStore
from storage.records import committed
from storage.stores import Store, open_store
from tasks.ray_pool import ray_session
from tasks.train_config import TrainConfig
from tasks.train_stage1 import job_for, train_stage1

pytestmark = [pytest.mark.faults, pytest.mark.slow]
CONFIG = TrainConfig(
    model="debug", steps=20, batch=2, learning_rate=1e-3, checkpoint_every=5, ema_decay=0.9, pairs=True, pair_share=0.5,
    condition_dropout=0.2, schedule="cosine", learning_rate_warmup=3, validation_samples=2, threads=1,
)  # fmt: skip


def prepared(root: Store) -> str:
    """Features below a root, and its URI."""
    features(root, 8, persons=4)
    return root.uri


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty steps at once."""
    folder = tmp_path_factory.mktemp("whole")
    home: str = train(CONFIG, prepared(open_store(folder)))["home"]
    return home


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_twenty_steps_are_ten_a_sigkill_and_the_rest(
    place: str, whole: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTAFACE_CACHE", str(tmp_path / "cache"))
    root = prepared(open_store(tmp_path / "root") if place == "folder" else request.getfixturevalue("s3_store"))
    killed = start(CONFIG, root, kill_at=12)
    assert killed.wait() == -signal.SIGKILL
    end = train(CONFIG, root)
    assert end["first"] in (6, 11), "it went on from a checkpoint: that of step 10 may still have been on its way"
    expected = checkpoint(whole)
    assert {name.split(".")[0] for name in expected} == {"model", "ema", "optimiser"}
    assert any(name.endswith(".exp_avg_sq") for name in expected)
    assert_equal(expected, checkpoint(end["home"]))
    assert committed(end["home"]).facts["losses"] == committed(whole).facts["losses"]
    assert committed(end["home"]).facts["best"] == committed(whole).facts["best"]


def test_sigterm_saves_and_ends_well_and_the_same_command_goes_on(whole: str, tmp_path: Path) -> None:
    root = prepared(open_store(tmp_path))
    config = replace(CONFIG, checkpoint_every=1000)
    rank = start(config, root)
    while not any(row.get("step") == 7 for row in rank.said()):
        time.sleep(0.05)
    began = time.monotonic()
    os.kill(rank.process.pid or 0, signal.SIGTERM)
    assert rank.wait() == 0
    assert time.monotonic() - began < 30
    last = rank.said()[-1]
    assert last["finished"] is False
    saved = CheckpointStore(open_store(last["home"]).child("checkpoints")).latest()
    assert saved is not None
    assert 7 <= saved < 20
    assert committed_losses(train(config, root)["home"]) == committed_losses(whole)


def committed_losses(home: str) -> list[float]:
    return list(committed(home).facts["losses"])


def test_ray_train_starts_a_killed_worker_again_and_ends_with_the_same_weights(whole: str, tmp_path: Path) -> None:
    root = open_store(tmp_path)
    generation = features(root, 8, persons=4)
    checkpoints = CheckpointStore(open_store(job_for(CONFIG, generation, root).home).child("checkpoints"))
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.2)
            if checkpoints.latest() is not None:
                killed.extend(training_workers())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

    with ray_session(2):
        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        model = train_stage1(CONFIG, generation, root)
        thread.join(timeout=5)
    assert killed
    assert_equal(checkpoint(whole), checkpoint(model.uri))


def training_workers() -> list[int]:
    """Ray Train's workers that are descendants of this process."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    parents: dict[int, tuple[int, str]] = {}
    for line in listed.splitlines()[1:]:
        pid, parent, arguments = line.split(None, 2)
        parents[int(pid)] = int(parent), arguments

    def ours(pid: int) -> bool:
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid][0]
        return False

    return [pid for pid, (_, arguments) in parents.items() if "RayTrainWorker" in arguments and ours(pid)]
