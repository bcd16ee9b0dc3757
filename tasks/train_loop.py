"""One rank's whole run of stage 1, from top to bottom. To resume, run the same command again.

Nothing here knows of Ray: `train_rank` runs in a Ray Train worker, in a torchrun process or in this one.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from models.diffusion.optimisation import learning_rate_at
from models.encoders.codec import LatentCodec
from storage.checkpoints import CheckpointStore
from storage.records import commit_record
from storage.stores import open_store
from tasks.generation import Generation
from tasks.model_card import model_card
from tasks.pictures import picture_bytes
from tasks.run_log import say
from tasks.train_config import TrainConfig
from tasks.train_data import Ahead, FeatureBatches, FeatureRows
from tasks.train_estimate import cost_of, peak_flops
from tasks.train_guard import gather, guard_gradient, guard_losses, guard_validation
from tasks.train_log import Figures, TrainLog, memory_gib
from tasks.train_networks import distinctive, networks_for
from tasks.train_state import Place, Training, check_same_run, export
from tasks.train_validation import Validation


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """What every rank gets."""

    config: TrainConfig
    home: str
    features: Generation
    base: str | None
    """Folder of Stable Diffusion weights to start from; None: random."""
    tensorboard: str | None
    """Local folder for TensorBoard's files."""
    lineage: dict[str, str]
    """Version and commit of the code, digest of the weights it starts from."""


def train_rank(
    job: TrainJob,
    place: Place,
    *,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Train to the end and export. Returns False when it was stopped before (by rank 0's `stopping`), and saved.

    Raises:
        ValueError: no usable rows, features of another preset, a batch that does not fit, a checkpoint of another run.
        FloatingPointError: the loss is no number, with the keys of the samples.
    """
    run = Run(job, place, report if place.rank == 0 else lambda row: None)
    with run:
        while run.step < job.config.steps:
            asked = run.train(stop=place.rank == 0 and stopping())
            if not asked:
                run.look()
            if asked or run.due(job.config.checkpoint_every):
                run.save()
            if asked and run.step < job.config.steps:
                return False
    run.export()
    return True


class Run:
    """The state of a run between steps: `step` optimiser steps are done."""

    def __init__(self, job: TrainJob, place: Place, report: Callable[[dict[str, Any]], None]) -> None:
        config = job.config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.job, self.config, self.place, self.report = job, config, place, report

        # Set up.
        rows = FeatureRows(job.features)
        self.networks = networks_for(config, job.features)
        self.batches = FeatureBatches(rows, config, self.networks, rank=place.rank, world=place.world)
        self.validation = Validation(rows, config, self.networks, place)
        self.codec = codec_of(config)
        self.home = open_store(job.home)
        self.checkpoints = CheckpointStore(self.home.child("checkpoints"))
        self.best_kept = CheckpointStore(self.home.child("best"))

        # Resume.
        self.identity = {
            "decisive": config.decisive, "networks": distinctive(self.networks), "features": job.features.manifest.digest
        }  # fmt: skip
        self.step, self.losses = 0, list[float]()
        self.best: dict[str, Any] | None = None
        checkpoint = self.checkpoints.load() if self.checkpoints.latest() is not None else None
        if checkpoint is not None:
            check_same_run(checkpoint, self.identity, job.home)
            self.step, self.losses = checkpoint.step, list(checkpoint.state["losses"])
            self.best = checkpoint.state["best"]
        self.training = Training(config, self.networks, job.base, place, checkpoint)
        say("train", "rank ready", rank=place.rank, world=place.world, step=self.step, steps=config.steps)

    def __enter__(self) -> "Run":
        self._stack = contextlib.ExitStack()
        if self.place.rank == 0:
            folder = self.job.tensorboard
            self.log = TrainLog(self.home, self.report, Path(folder) if folder else None)
            self._stack.callback(self.log.close)
        self._stack.callback(self.checkpoints.close)
        self._stack.callback(self.best_kept.close)
        self.ahead = self._stack.enter_context(Ahead(self.batches.step, self.step, self.config.steps))
        self._began, self._waited = time.perf_counter(), 0.0
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def due(self, every: int | None) -> bool:
        """Every so many steps, and at the end."""
        return every is not None and (self.step % every == 0 or self.step == self.config.steps)

    def train(self, *, stop: bool) -> bool:
        """One optimiser step. Returns whether a rank asked to stop."""
        config, training = self.config, self.training
        rate = learning_rate_at(
            self.step, peak=config.learning_rate, steps=config.steps, warmup=config.learning_rate_warmup,
            schedule=config.schedule, decay_from=config.decay_from,
        )  # fmt: skip
        training.set_learning_rate(rate)
        micros = self.ahead.take()
        losses = []
        for number, micro in enumerate(micros):
            with training.computing(), training.part_of_step(last=number == len(micros) - 1):
                batch = {name: tensor.to(self.place.device) for name, tensor in micro.tensors.items()}
                rows = training.wrapped(batch, micro.draws.to(self.place.device), rows=True)
                training.scaler.scale(rows.mean() / len(micros)).backward()
            losses.append(rows.detach().float())
        figures, asked = gather(micros, losses, self.networks.train_steps, self.place, stop=stop)
        guard_losses(self.step, figures["loss"], micros, losses, self.place)
        norm = training.clip()
        guard_gradient(self.step, norm, self.batches.keys(self.step), scaled=training.scaler.is_enabled())
        training.step(self.step + 1)
        self.step += 1
        self.losses.append(figures["loss"])
        if self.place.rank == 0:
            self.log.step(self.step, figures | {"gradient_norm": norm, "learning_rate": rate} | self.pace())
        return asked

    def pace(self) -> Figures:
        """Time since the last step and what it was used for."""
        now, waited = time.perf_counter(), self.ahead.waited
        seconds = now - self._began
        figures = {
            "seconds": seconds, "samples_per_second": self.config.batch / seconds,
            "data_wait": (waited - self._waited) / seconds, "memory_gib": memory_gib(self.place.device),
        }  # fmt: skip
        if (peak := peak_flops(self.place.device)) is not None:
            work = self.config.batch * cost_of(self.networks, self.config.draws).flops
            figures["mfu"] = work / (seconds * self.place.world * peak)
        self._began, self._waited = now, waited
        return figures

    def look(self) -> None:
        """Validation and sample grid where they are due, of the averaged weights where there is an average."""
        validating = bool(self.validation.keys) and self.due(self.config.validate_every or self.config.checkpoint_every)
        sampling = self.codec is not None and self.due(self.config.sample_every)
        if not validating and not sampling:
            return
        average = self.training.average
        with average.applied() if average else contextlib.nullcontext():
            if validating:
                figures = self.validation.figures(self.training)
                if self.place.rank == 0:
                    self.log.step(self.step, figures)
                guard_validation(self.step, figures[self.validation.measure], self.best)
                self._keep_best(figures[self.validation.measure])
            if sampling and self.codec is not None:
                grid = self.validation.grid(self.training, self.codec)
                if self.place.rank == 0:
                    self.log.picture(self.step, picture_bytes(grid), grid)
        self._began, self._waited = time.perf_counter(), self.ahead.waited

    def _keep_best(self, loss: float) -> None:
        if self.best is not None and loss >= self.best["loss"]:
            return
        self.best = {"step": self.step, "loss": loss}
        weights = self.training.weights()
        # A killed attempt may have kept this step's already.
        if self.place.rank == 0 and self.step not in self.best_kept.steps():
            self.best_kept.save_in_background(self.step, weights, {**self.identity, **self.best})

    def save(self) -> None:
        """A checkpoint, in the background."""
        tensors = self.training.tensors()
        state = {"losses": self.losses, "best": self.best, "scaler": self.training.scaler.state_dict(), **self.identity}
        if self.place.rank == 0:
            self.checkpoints.save_in_background(self.step, tensors, state)
            say("train", "checkpoint", step=self.step, loss=round(self.losses[-1], 5))

    def export(self) -> None:
        """The finished model: record.json, the folders of `InstaFace.save_pretrained`, a model card."""
        tensors = self.training.tensors()
        if self.place.rank != 0:
            return
        facts = {
            "step": self.step, "losses": self.losses, "best": self.best, "config": asdict(self.config),
            "lineage": self.job.lineage, **self.identity,
        }  # fmt: skip
        parameters = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("model."))
        files = export(self.networks, tensors, {"features": self.job.features.manifest.config_digest})
        files["README.md"] = model_card(facts, self.networks, parameters).encode()
        commit_record(self.home, files, facts)


def codec_of(config: TrainConfig) -> LatentCodec | None:
    """What sample grids are decoded with; the one frozen network that a training may load, and only for them."""
    if config.codec is None or config.sample_every is None:
        return None
    from tasks.frozen import load_codec

    return load_codec(config.codec)
