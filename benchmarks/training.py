"""What a training step costs: precomputed features against encoders on the fly, waiting for data, one and two processes,
and on a GPU the full-size networks.

    python benchmarks/training.py features     samples/s with features from shards and with the frozen encoders in the loop
    python benchmarks/training.py ranks        samples/s of one and of two processes, one core each
    python benchmarks/training.py paper        full-size networks with random weights: images/s, peak memory, MFU (a GPU)

`--small` tries a part with few steps, `--json FILE` keeps the figures. Ratios are taken side by side, in turns, in one run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.diffusion.config import MAPS
from models.diffusion.editor import draws_for
from models.diffusion.fusion import as_batch, fuse
from models.face3d.landmarks import five_points
from models.face3d.maps import ConditionMaps
from storage.canonical import canonical_json
from storage.manifest import Manifest
from storage.shards import write_shard
from storage.stores import Store, open_store
from tasks.encode import EncodeConfig
from tasks.featurizer import Featurizer
from tasks.generation import Generation, find_generation
from tasks.train_config import TrainConfig
from tasks.train_data import Ahead, FeatureBatches, FeatureRows, MicroBatch
from tasks.train_estimate import cost_of, peak_flops
from tasks.train_networks import networks_for
from tasks.train_plan import preset_networks
from tasks.train_state import Place, Training

FIELDS = ("moments.npy", "conditions.npy", "face.npy", "semantic.npy", "meta.json")
DEBUG_ENCODERS = EncodeConfig(codec="patch-cosine", semantic="efficientnet-lite0", face="dlib")
ROWS = 48


def photographs(count: int) -> list[tuple[np.ndarray, ConditionMaps, np.ndarray]]:
    """Aligned images, maps and mesh points: random pictures, since an encoder's time does not depend on the content."""
    numbers = np.random.default_rng(0)

    def picture() -> np.ndarray:
        return numbers.integers(0, 256, (256, 256, 3), dtype=np.uint8)

    mesh = numbers.uniform(80, 180, size=(468, 2)).astype(np.float32)
    return [
        (picture(), ConditionMaps(albedo=picture(), normal=picture(), render=picture(), mask=picture()[..., 0]), mesh)
        for _ in range(count)
    ]


def feature_shards(root: Store, featurizer: Featurizer, rows: list[Any]) -> Generation:
    """Real features of these photographs."""
    home = root.child("features/benchmark")
    samples = [
        (
            f"sample-{i:04d}",
            {**featurizer.features(*row), "meta.json": canonical_json({"person": None, "split": "train"})},
        )
        for i, row in enumerate(rows)
    ]
    entry = write_shard(home, "shard-000000.tar", samples, FIELDS)
    Manifest(
        stage="features", fields=FIELDS, config_digest="benchmark", code_version="0", inputs={}, shards=(entry,),
        counts={"ok": len(rows)},
    ).commit(home)  # fmt: skip
    return find_generation(root, "features", home.uri)


def one_step(training: Training, micro: MicroBatch, number: int) -> None:
    device = training.place.device
    with training.computing():
        batch = {name: tensor.to(device) for name, tensor in micro.tensors.items()}
        loss = training.wrapped(batch, micro.draws.to(device), rows=True).mean()
        training.scaler.scale(loss).backward()
    training.clip()
    training.step(number)


def features_against_encoders(small: bool) -> dict[str, Any]:
    """The goal: at least 1.8 × with precomputed features; at most 2 % of the time spent waiting for data."""
    config = TrainConfig(
        model="debug", batch=8, steps=10_000, learning_rate=1e-4, precision="bf16", attention="math", threads=1
    )
    torch.set_num_threads(1)
    steps, rounds = (2, 1) if small else (12, 3)
    rows = photographs(8 if small else ROWS)
    with tempfile.TemporaryDirectory() as folder:
        featurizer = Featurizer(DEBUG_ENCODERS)
        features = feature_shards(open_store(folder), featurizer, rows)
        known = FeatureRows(features)
        networks = networks_for(config, features)
        batches = FeatureBatches(known, config, networks)
        training = Training(config, networks, None, Place(0, 1, torch.device("cpu")), None)
        place = {f"sample-{i:04d}": row for i, row in enumerate(rows)}

        def from_encoders(step: int) -> MicroBatch:
            micro = batches.step(step)[0]  # for its rows and draws; a few milliseconds
            chosen = [place[key] for _, key in micro.rows]
            images = (
                torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _, _ in chosen]).float() / 127.5 - 1
            )
            with torch.no_grad():
                maps = {name: as_batch([getattr(m, name) for _, m, _ in chosen]) for name in MAPS}
                tensors = {
                    "moments": featurizer.codec.moments(images), "conditions": fuse(featurizer.codec, maps),
                    "semantic": featurizer.semantic.encode([image for image, _, _ in chosen]),
                    "face": torch.stack([
                        torch.as_tensor(featurizer.face.embed(image, five_points(mesh))) for image, _, mesh in chosen
                    ]),
                }  # fmt: skip
            return replace(micro, tensors={name: tensor.float() for name, tensor in tensors.items()})

        kinds: dict[str, Callable[[int], MicroBatch]] = {
            "features": lambda step: batches.step(step)[0],
            "encoders": from_encoders,
        }
        times: dict[str, list[float]] = {name: [] for name in kinds}
        waits: list[float] = []
        number = 0
        for _ in range(rounds):
            for name, make in kinds.items():
                one_step(training, make(number), number + 1)  # warm
                with Ahead(make, number, number + steps) as ahead:
                    began, ahead.waited = time.perf_counter(), 0.0
                    for _ in range(steps):
                        number += 1
                        one_step(training, ahead.take(), number)
                    seconds = time.perf_counter() - began
                times[name].append(config.batch * steps / seconds)
                if name == "features":
                    waits.append(ahead.waited / seconds)
    figures: dict[str, Any] = {f"samples/s, {name}": spread(values) for name, values in times.items()}
    figures["ratio"] = spread([a / b for a, b in zip(times["features"], times["encoders"], strict=True)])
    figures["data-wait share"] = spread(waits)
    return figures


def ranks(small: bool) -> dict[str, Any]:
    """One and two processes with one core each, in turns: the loop itself, gloo between them."""
    steps, rounds = (3, 1) if small else (20, 3)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        featurizer = Featurizer(DEBUG_ENCODERS)
        features = feature_shards(open_store(folder), featurizer, photographs(16))
        for turn in range(rounds):
            for world in rates:
                meeting = Path(folder) / f"meeting-{turn}-{world}"
                command = [sys.executable, __file__, "rank", features.uri, str(steps), str(meeting), str(world)]
                processes = [
                    subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(world)
                ]
                outputs = [process.communicate()[0] for process in processes]
                if any(process.returncode for process in processes):
                    raise RuntimeError(f"a rank of {world} failed")
                rates[world].append(float(outputs[0].splitlines()[-1]))
    return {
        "samples/s, 1 process": spread(rates[1]),
        "samples/s, 2 processes": spread(rates[2]),
        "ratio": spread([b / a for a, b in zip(rates[1], rates[2], strict=True)]),
    }


def one_rank(uri: str, steps: int, meeting: str, world: int, rank: int) -> None:
    """A process of `ranks`: prints the samples a second of all ranks. 8 photographs a rank, as a user adds devices."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    config = TrainConfig(
        model="debug", batch=8 * world, workers=world, steps=10_000, learning_rate=1e-4, precision="bf16", attention="math",
        threads=1,
    )  # fmt: skip
    store = open_store(uri.rpartition("/features/")[0])
    features = find_generation(store, "features", uri)
    networks = networks_for(config, features)
    batches = FeatureBatches(FeatureRows(features), config, networks, rank=rank, world=world)
    training = Training(config, networks, None, Place(rank, world, torch.device("cpu")), None)
    began = 0.0
    with Ahead(batches.step, 0, steps + 2) as ahead:
        for step in range(steps + 2):
            if step == 2:
                began = time.perf_counter()
            one_step(training, ahead.take()[0], step + 1)
    print(config.batch * steps / (time.perf_counter() - began))
    if world > 1:
        torch.distributed.destroy_process_group()


def paper(small: bool) -> dict[str, Any]:
    """Full-size networks, random weights and features, on one GPU; each lever on top of those before."""
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: the full-size configuration cannot be measured")
    device = torch.device("cuda")
    base = TrainConfig(model="paper", batch=12, gpu=True, learning_rate=1e-5)
    levers: list[tuple[str, dict[str, Any]]] = [
        ("fp32", {}),
        ("bf16", {"precision": "bf16"}),
        ("channels last", {"channels_last": True}),
        ("compile", {"compile": True}),
        ("batch 32", {"batch": 32}),
        ("batch 48", {"batch": 48}),
    ]
    config, figures = base, {}
    for name, changes in levers:
        config = replace(config, **changes)
        figures[name] = paper_run(config, device, steps=3 if small else 20)
        print(name, json.dumps(figures[name]), flush=True)
    return figures


def paper_run(config: TrainConfig, device: torch.device, steps: int) -> dict[str, float]:
    """Images a second, peak GiB and MFU of one configuration."""
    networks = preset_networks(config)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    training = Training(config, networks, None, Place(0, 1, device), None)
    c, side = networks.latent_channels, networks.latent_size
    shapes = {
        "moments": (2 * c, side, side), "conditions": (networks.condition_channels, side, side),
        "semantic": (257, networks.semantic_width), "face": (networks.face_width,),
    }  # fmt: skip
    keys = [str(i) for i in range(config.batch)]
    micro = MicroBatch(
        rows=tuple((0, key) for key in keys),
        tensors={name: torch.randn(config.batch, *shape) for name, shape in shapes.items()},
        draws=draws_for(networks, keys, run_seed=0, epoch=0),
    )
    for warm in range(3):
        one_step(training, micro, warm + 1)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for step in range(steps):
        one_step(training, micro, step + 4)
    torch.cuda.synchronize()
    rate = config.batch * steps / (time.perf_counter() - began)
    peak = peak_flops(device)
    return {
        "images/s": rate, "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
        "MFU": rate * cost_of(networks, 1).flops / peak if peak else float("nan"),
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main() -> None:
    if sys.argv[1:2] == ["rank"]:
        uri, steps, meeting, world, rank = sys.argv[2:]
        return one_rank(uri, int(steps), meeting, int(world), int(rank))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"features": features_against_encoders, "ranks": ranks, "paper": paper}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = parts[options.part](options.small)
    for name, values in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
