"""train-stage1: Guidance Network, denoiser and projection learn from feature shards (paper §4, stage 1).

VAE, CLIP and face recognition are frozen and not even loaded: their outputs are the features. Order, noise, timestep and
posterior draw of a sample derive from (seed, epoch, key), so a resumed run sees what an uninterrupted one would.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray.train.torch
import torch
from prefect import task
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from torch.nn.parallel import DistributedDataParallel

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import draws_for
from models.diffusion.presets import open_config, paper_config, tiny_config
from storage.canonical import digest_of
from storage.checkpoints import CheckpointStore
from storage.records import Record, commit_record, committed, read_record
from storage.stores import Store, open_store
from tasks.array_bytes import from_npy
from tasks.assets import asset, weights_digest
from tasks.generation import Generation, find_generation
from tasks.live import watch
from tasks.progress import StageProgress
from tasks.train_data import FEATURES, FeatureBatches, join
from tasks.train_state import PRECISIONS, build_networks, export, restore, tensors_of

VERSION = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    model: str = "paper"
    """Networks: `tiny`, `open` or `paper`."""
    steps: int = 55_000
    """Optimiser steps (paper: 55,000)."""
    batch: int = 6
    """Samples a step on each rank (paper: 6)."""
    workers: int = 1
    """Ranks (paper: 2)."""
    gpu: bool = False
    """One GPU a rank."""
    learning_rate: float = 1e-5
    """AdamW (paper: 1e-5)."""
    learning_rate_warmup: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 1e-2
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "fp32"
    """`fp32`, or autocast to `bf16` or `fp16`."""
    seed: int = 0
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step is always saved."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "workers", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed")
        if self.model not in ("tiny", "open", "paper"):
            raise ValueError(f"model={self.model!r}: choose tiny, open or paper")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision={self.precision!r}: choose fp32, bf16 or fp16")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate}: choose one between 0 and 1, for example 1e-5")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    uri: str
    step: int
    loss: float
    """Mean loss over the last tenth of the steps."""
    losses: tuple[float, ...]
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """What every rank gets."""

    config: TrainConfig
    home: str
    features: Generation
    base: str | None
    """Folder of Stable Diffusion weights to start from; None: random."""


def networks_for(config: TrainConfig, features: Generation) -> InstaFaceConfig:
    """The networks' configuration, with the sizes that the features have."""
    sample = features.reader()[0][1]
    moments, face, semantic = (from_npy(sample[f"{name}.npy"]) for name in ("moments", "face", "semantic"))
    if config.model == "tiny":
        return tiny_config(latent_size=moments.shape[1], semantic_width=semantic.shape[1], face_width=face.shape[0])
    networks = open_config() if config.model == "open" else paper_config()
    found = (moments.shape[0] // 2, semantic.shape[1], face.shape[0])
    wanted = (networks.latent_channels, networks.semantic_width, networks.face_width)
    if found != wanted:
        raise ValueError(
            f"the features have (latent channels, semantic width, face width) = {found} and model={config.model!r} "
            f"needs {wanted}: preprocess with the same preset"
        )
    return networks


def train_rank(spec: Mapping[str, Any]) -> None:
    """One rank's whole run: set up, resume, loop, export. To resume, run the same command again."""
    job: TrainJob = spec["job"]
    config, context = job.config, ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()

    # Set up.
    reader = job.features.reader([f"{name}.npy" for name in FEATURES])
    batches = FeatureBatches(reader, seed=config.seed, batch=config.batch, rank=rank, world=world)
    model = build_networks(networks_for(config, job.features), job.base, config.seed).to(device).train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    store = open_store(job.home)
    checkpoints = CheckpointStore(store.child("checkpoints"))

    # Resume.
    step, losses = 0, []
    if checkpoints.latest() is not None:
        checkpoint = checkpoints.load()
        step, losses = checkpoint.step, list(checkpoint.state["losses"])
        restore(model, optimiser, checkpoint.tensors)
        scaler.load_state_dict(checkpoint.state["scaler"])
    wrapped = DistributedDataParallel(model) if world > 1 else model
    autocast = torch.autocast(device.type, dtype=PRECISIONS[config.precision], enabled=config.precision != "fp32")

    # Loop.
    while step < config.steps:
        rows = batches.keys(step)
        batch = {name: tensor.to(device) for name, tensor in batches.load(rows).items()}
        draws = join([draws_for(model.config, [key], run_seed=config.seed, epoch=epoch) for epoch, key in rows])
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.learning_rate_warmup))
        with autocast:
            loss = wrapped(batch, draws.to(device))
        value = float(loss.detach())
        if not np.isfinite(value):
            raise FloatingPointError(f"step {step}: the loss is {value} for the samples {[key for _, key in rows]}")
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(trainable, config.clip)
        scaler.step(optimiser)
        scaler.update()
        step += 1
        losses.append(value)
        if rank == 0:
            spec["mailbox"].put.remote({"step": step, "loss": value})
            if step % config.checkpoint_every == 0 or step == config.steps:
                checkpoints.save_in_background(
                    step, tensors_of(model, optimiser), {"losses": losses, "scaler": scaler.state_dict()}
                )
    checkpoints.close()

    # Export.
    if rank == 0:
        facts = {"step": step, "losses": losses, "config": asdict(config), "features": job.features.manifest.digest}
        commit_record(store, export(model), facts)


def train_stage1(config: TrainConfig, features: Generation, root: Store) -> TrainedModel:
    """Train, or go on training, or find training finished; below `<root>/stage1/<digest>/`.

    Raises:
        ValueError: features of another preset, or none at all.
        AssetMissing: Stable Diffusion's weights are not there.
    """
    base = None if config.model == "tiny" else asset("stable-diffusion-v1-5", "Stable Diffusion 1.5")
    start = "" if base is None else weights_digest(base)
    home = root.child(f"stage1/{digest_of([VERSION, config, features.manifest.digest, start])}")
    with StageProgress("train", total=config.steps, unit="steps") as progress:
        record = read_record(home)
        if record is not None:
            progress.reused({})
            return trained_model(record, reused=True, seconds=progress.seconds)
        job = TrainJob(config=config, home=home.uri, features=features, base=None if base is None else str(base))

        def fit(mailbox: Any) -> None:
            trainer = TorchTrainer(
                train_rank,
                train_loop_config={"job": job, "mailbox": mailbox},
                torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
                scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=config.gpu),
                # A killed rank costs the steps since the last checkpoint: the loop resumes by itself.
                run_config=RunConfig(failure_config=FailureConfig(max_failures=2), storage_path=tempfile.gettempdir()),
            )
            try:
                trainer.fit()
            except WorkerGroupError as error:
                raise next(iter(error.worker_failures.values())) from error

        watch(fit, lambda report: progress.step(report["step"], f"loss {report['loss']:.3f}"))
    return trained_model(committed(home.uri), reused=False, seconds=progress.seconds)


def trained_model(record: Record, *, reused: bool, seconds: float = 0.0) -> TrainedModel:
    """A finished training from its record."""
    losses = tuple(float(v) for v in record.facts["losses"])
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainedModel(
        uri=record.uri, step=len(losses), loss=sum(tail) / len(tail), losses=losses, reused=reused, seconds=seconds
    )


@task(name="train-stage1", persist_result=False)
def train_stage1_task(config: TrainConfig, features: str | None, root: str, steps: int | None) -> TrainedModel:
    """Feature shards → stage-1 model."""
    store = open_store(root)
    generation = find_generation(store, "features", features)
    return train_stage1(config if steps is None else replace(config, steps=steps), generation, store)
