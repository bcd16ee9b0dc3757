"""One rank of a training as a process of its own: what a cluster starts, without a cluster.

python training_process.py <root> <configuration.json> <rank> <world> <meeting file> [kill after step]
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from storage.stores import open_store
from tasks.generation import find_generation
from tasks.train_config import TrainConfig
from tasks.train_loop import train_rank
from tasks.train_stage1 import describe, job_for, terminated
from tasks.train_state import Place


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
    sys.path.remove(str(Path(__file__).parent))
    main()
