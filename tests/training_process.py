"""One rank of a training as a process of its own: what a cluster starts, without a cluster.

python training_process.py <root> <configuration.json> <rank> <world> <meeting file> [kill after step]
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
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


def start(
    config: TrainConfig, root: str, *, rank: int = 0, world: int = 1, meeting: str = "none", kill_at: int | None = None
) -> subprocess.Popen[str]:
    """One rank; with `kill_at` it ends itself by SIGKILL when it has done that many steps."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    command = [sys.executable, __file__, root, json.dumps(values), str(rank), str(world), meeting]
    command += [] if kill_at is None else [str(kill_at)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def train(config: TrainConfig, root: str, meeting: Path, world: int = 1) -> dict[str, Any]:
    """All ranks to the end. Returns what rank 0 said last: home, finished."""
    ranks = [start(config, root, rank=r, world=world, meeting=str(meeting)) for r in range(world)]
    ends = [rank.communicate(timeout=300) for rank in ranks]
    for rank, (_, errors) in zip(ranks, ends, strict=True):
        assert rank.returncode == 0, errors
    last: dict[str, Any] = json.loads(ends[0][0].splitlines()[-1])
    return last


def checkpoint(uri: str, step: int | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a run's checkpoint, the latest by default."""
    return CheckpointStore(open_store(uri).child("checkpoints")).load(step).tensors


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit by bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def main() -> None:
    root, config, rank, world, meeting, *kill = sys.argv[1:]
    torch.set_num_threads(1)
    place = Place(int(rank), int(world), torch.device("cpu"))
    if place.world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=place.rank, world_size=place.world)
    store = open_store(root)
    job = job_for(TrainConfig(**json.loads(config)), find_generation(store, "features", None), store)
    if place.rank == 0:
        describe(job, open_store(job.home))

    def report(row: dict[str, object]) -> None:
        if "loss" in row:
            print(json.dumps({"step": row["step"], "loss": row["loss"]}), flush=True)
            if kill and row["step"] == int(kill[0]):
                os.kill(os.getpid(), signal.SIGKILL)

    with terminated() as stopping:
        finished = train_rank(job, place, report=report, stopping=stopping)
    print(json.dumps({"home": job.home, "finished": finished}), flush=True)
    if place.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
