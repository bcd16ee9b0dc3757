"""Preprocessing without the pipeline: what people would write first, to be compared with it.

    python benchmarks/preprocess_plain.py PHOTO…      waits for a line on its input, then works; prints the seconds it took

All candidates do the work of all three stages on one photograph after another and keep their models, unless they say
otherwise. They use one thread each, as the pipeline's processes do.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before anything reads it

import cv2
import torch

from flows.presets import debug
from models.face3d.maps import ConditionMaps
from models.images import decode_png
from tasks.aligner import Aligner
from tasks.array_bytes import from_npy
from tasks.featurizer import Featurizer
from tasks.mapper import Mapper

STAGES = ("images", "maps", "features")


class Plain:
    """The work of all stages on one photograph, as a script would do it."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        preset = debug()
        self.aligner, self.mapper = Aligner(preset.shard), Mapper(preset.extract)
        self.featurizer = Featurizer(preset.encode)
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def work(self, path: str) -> bytes:
        """All samples of a photograph, one after another."""
        marks = [time.perf_counter()]
        image = self.aligner.align(Path(path).read_bytes(), path)
        marks.append(time.perf_counter())
        pixels = decode_png(image["image.png"])
        maps = self.mapper.maps(pixels, path, None, from_npy(image["mesh.npy"]))
        marks.append(time.perf_counter())
        mesh = from_npy(maps["landmarks.npy"])
        features = self.featurizer.features(decode_png(image["image.png"]), ConditionMaps.decode(maps), mesh)
        marks.append(time.perf_counter())
        for number, stage in enumerate(STAGES):
            self.seconds[stage] += marks[number + 1] - marks[number]
        return b"".join(data for sample in (image, maps, features) for data in sample.values())


@cache
def plain() -> Plain:
    """One a process."""
    return Plain()


def one(path: str) -> int:
    """Bytes of all samples of a photograph, by the models that the process keeps."""
    return len(plain().work(path))


def one_with_its_own_models(path: str) -> int:
    return len(Plain().work(path))


def works(path: str) -> bool:
    """Some crops leave no usable face; the candidates are compared on those that do."""
    try:
        one(path)
    except ValueError:
        return False
    return True


def single_process(paths: Sequence[str]) -> tuple[float, Mapping[str, float]]:
    """Seconds an image in one process that writes what it made into one file; by stage too."""
    worker = plain()
    worker.work(paths[0])
    worker.seconds = dict.fromkeys(STAGES, 0.0)
    began = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        for path in paths:
            file.write(worker.work(path))
    return (time.perf_counter() - began) / len(paths), {k: v / len(paths) for k, v in worker.seconds.items()}


def processes_side_by_side(paths: Sequence[str], count: int) -> float:
    """Seconds an image of each of `count` copies of the script at once: what the machine itself allows."""
    command = [sys.executable, __file__, *paths]
    copies = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(count)
    ]
    for copy in copies:
        assert copy.stdout is not None
        assert copy.stdout.readline() == "ready\n"
    for copy in copies:
        assert copy.stdin is not None
        copy.stdin.write("go\n")
        copy.stdin.flush()
    return sum(float(copy.communicate()[0]) for copy in copies) / count


def ray_task_an_image(paths: Sequence[str], cores: int) -> float:
    """Core-seconds an image; the worker processes keep their models, which Ray does not promise."""
    import ray

    task: Any = ray.remote(num_cpus=1)(one)
    ray.get([task.remote(path) for path in paths[: 4 * cores]])
    began = time.perf_counter()
    ray.get([task.remote(path) for path in paths])
    return (time.perf_counter() - began) * cores / len(paths)


def ray_task_with_models_an_image(paths: Sequence[str], cores: int) -> float:
    """Core-seconds an image where every task loads the models, as tasks that use a GPU do: Ray ends their processes."""
    import ray

    task: Any = ray.remote(num_cpus=1, max_calls=1)(one_with_its_own_models)
    began = time.perf_counter()
    ray.get([task.remote(path) for path in paths])
    return (time.perf_counter() - began) * cores / len(paths)


def prefect_task_an_image(paths: Sequence[str]) -> float:
    """Seconds an image, tasks one after another in the flow's process; their server is another one."""
    from prefect import flow, task

    work = task(one, name="one", persist_result=False)
    seconds = 0.0

    @flow(name="a-task-an-image")
    def images() -> None:
        nonlocal seconds
        one(paths[0])
        began = time.perf_counter()
        for path in paths:
            work(path)
        seconds = (time.perf_counter() - began) / len(paths)

    images()
    return seconds


def main(paths: Sequence[str]) -> None:
    """A copy of the script among others."""
    one(paths[0])
    print("ready", flush=True)
    sys.stdin.readline()
    print(single_process(paths)[0], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
