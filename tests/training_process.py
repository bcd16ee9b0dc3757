"""Ranks of a training as processes of their own: what a cluster starts, without a cluster.

They are forked from a server that has the libraries loaded, which takes longer than the small trainings themselves.
"""

import json
import multiprocessing
import os
import signal
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from storage.checkpoints import CheckpointStore
from storage.stores import open_store
from tasks.generation import find_generation
from tasks.train_config import TrainConfig
from tasks.train_loop import train_rank
from tasks.train_stage1 import describe, job_for, terminated
from tasks.train_state import Place

LIMIT = 600
"""Seconds that a training may take."""


class Rank:
    """A running rank."""

    def __init__(self, process: ForkServerProcess, said: Path) -> None:
        self.process, self._said = process, said

    def said(self) -> list[dict[str, Any]]:
        """What it said so far: step and loss of each step; at the end home, finished, and the first step it did."""
        return [json.loads(line) for line in self._said.read_text().splitlines()] if self._said.exists() else []

    def wait(self) -> int | None:
        """Its exit status; negative for a signal."""
        self.process.join(LIMIT)
        assert self.process.exitcode is not None, f"still running after {LIMIT} s"
        return self.process.exitcode


def start(
    config: TrainConfig, root: str, *, rank: int = 0, world: int = 1, meeting: Path | None = None,
    kill_at: int | None = None,
) -> Rank:  # fmt: skip
    """One rank; with `kill_at` it ends itself by SIGKILL when it has done that many steps."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.train_stage1", "training_process"])
    said = Path(tempfile.mkdtemp()) / f"rank-{rank}.jsonl"
    environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "INSTAFACE_"))}
    process = context.Process(target=main, args=(config, root, rank, world, meeting, kill_at, said, environment))
    process.start()
    return Rank(process, said)


def train(config: TrainConfig, root: str, meeting: Path | None = None, world: int = 1) -> dict[str, Any]:
    """All ranks to the end. Returns what rank 0 said last: home, finished, and the first step it did."""
    ranks = [start(config, root, rank=rank, world=world, meeting=meeting) for rank in range(world)]
    assert [rank.wait() for rank in ranks] == [0] * world
    return ranks[0].said()[-1]


def checkpoint(uri: str, step: int | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a run's checkpoint, the latest by default."""
    return CheckpointStore(open_store(uri).child("checkpoints")).load(step).tensors


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit by bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def main(
    config: TrainConfig, root: str, rank: int, world: int, meeting: Path | None, kill_at: int | None, said: Path,
    environment: dict[str, str],
) -> None:  # fmt: skip
    """What the process of a rank does."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    place = Place(rank, world, torch.device("cpu"))
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    store = open_store(root)
    job = job_for(config, find_generation(store, "features", None), store)
    if rank == 0:
        describe(job, open_store(job.home))
    steps: list[int] = []

    def say(**facts: object) -> None:
        with said.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    def report(row: dict[str, Any]) -> None:
        if "loss" in row:
            steps.append(row["step"])
            say(step=row["step"], loss=row["loss"])
            if row["step"] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    with terminated() as stopping:
        finished = train_rank(job, place, report=report, stopping=stopping)
    say(home=job.home, finished=finished, first=steps[0] if steps else None)
    if world > 1:
        dist.destroy_process_group()
