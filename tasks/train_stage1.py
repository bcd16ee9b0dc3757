"""train-stage1: Guidance Network, denoiser and projection learn from feature shards (paper §4, stage 1), on Ray Train.

VAE, CLIP and face recognition are frozen and not even loaded: their outputs are the features. The loop of a rank is in
`tasks/train_loop.py`.
"""

import signal
import subprocess
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import ray.train
import ray.train.torch
from prefect import task
from prefect.artifacts import create_markdown_artifact
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from models.tiny.shipped import STAGE1, shipped_folder
from storage.canonical import canonical_json, digest_of
from storage.records import Record, committed, read_record
from storage.stores import Store, open_store
from tasks.assets import asset, weights_digest
from tasks.generation import Generation, find_generation
from tasks.live import StopWish, watch
from tasks.progress import StageProgress, in_prefect_run
from tasks.reachable import if_reachable
from tasks.train_config import TrainConfig
from tasks.train_loop import TrainJob, train_rank
from tasks.train_networks import distinctive, networks_for
from tasks.train_state import Place

__all__ = ["TrainConfig", "TrainedModel", "TrainingStopped", "train_stage1", "train_stage1_task", "trained_model"]

VERSION = "2"
DESCRIPTION = "run.json"


class TrainingStopped(Exception):
    """The training was asked to stop, and saved; the same command goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    uri: str
    step: int
    loss: float
    """Mean loss over the last tenth of the steps."""
    losses: tuple[float, ...]
    reused: bool
    seconds: float = 0.0


def train_stage1(config: TrainConfig, features: Generation, root: Store) -> TrainedModel:
    """Train, or go on training, or find training finished; below `<root>/stage1/<digest>/`.

    Raises:
        ValueError: features of another preset or none at all, a batch that does not fit them.
        AssetMissing, DamagedWeights: the weights to start from are not there, or not what was shipped.
        FloatingPointError: the loss is no number.
        TrainingStopped: after a SIGTERM, when the checkpoint is written.
    """
    job = job_for(config, features, root)
    home = open_store(job.home)
    with StageProgress("train", total=config.steps, unit="steps") as progress:
        record = read_record(home)
        if record is not None:
            progress.reused({})
            return trained_model(record, reused=True, seconds=progress.seconds)
        describe(job, home)

        def show(row: Mapping[str, Any]) -> None:
            if "picture" in row and in_prefect_run():
                markdown = f"![step {row['step']}](data:image/png;base64,{b64encode(row['picture']).decode()})"
                if_reachable(
                    create_markdown_artifact,
                    key="samples",
                    markdown=markdown,
                    description=f"Samples at step {row['step']:,}",
                )
            if "loss" in row:
                progress.step(row["step"], f"loss {row['loss']:.3f}, {row['samples_per_second']:.1f} samples/s")

        with terminated() as stopping:
            watch(lambda mailbox: fit(job, mailbox), show, stopping=stopping)
        record = read_record(home)
        if record is None:
            raise TrainingStopped(
                f"the training in {home.uri} was asked to stop at step {progress.done} of {config.steps}, and saved: "
                "run the same command to go on"
            )
    return trained_model(committed(home.uri), reused=False, seconds=progress.seconds)


def job_for(config: TrainConfig, features: Generation, root: Store) -> TrainJob:
    """The run that this configuration and these features name, wherever it stands."""
    base = start_of(config)
    start = "" if base is None else weights_digest(base)
    networks = distinctive(networks_for(config, features))
    home = root.child(f"stage1/{digest_of([VERSION, config.decisive, networks, features.manifest.digest, start])}")
    local = home.local_path("tensorboard")
    return TrainJob(
        config=config,
        home=home.uri,
        features=features,
        base=None if base is None else str(base),
        tensorboard=str(local or Path(".instaface/tensorboard") / home.uri.rpartition("/")[2]),
        lineage={"version": version("instaface"), "commit": code_commit(), "start": start},
    )


def start_of(config: TrainConfig) -> Path | None:
    """Folder or file of the weights that a training starts from; None: random ones.

    Raises:
        AssetMissing, DamagedWeights: they are not there, or not what was shipped.
    """
    if config.start == "random" or config.model == "debug":
        return None
    if config.model == "tiny":
        return shipped_folder(STAGE1)
    return asset("stable-diffusion-v1-5", "Stable Diffusion 1.5")


def describe(job: TrainJob, home: Store) -> None:
    """Leave in the run's folder what it is, for `instaface runs` and for a replay; what the first start said stays."""
    if home.stat(DESCRIPTION) is None:
        facts = {"config": job.config, "features": {"uri": job.features.uri, "digest": job.features.manifest.digest}}
        home.create(DESCRIPTION, canonical_json({**facts, "base": job.base, "lineage": job.lineage}))


def fit(job: TrainJob, mailbox: Any) -> None:
    """All ranks, on Ray Train. A killed rank costs the steps since the last checkpoint: the loop resumes by itself."""
    trainer = TorchTrainer(
        ray_rank,
        train_loop_config={"job": job, "mailbox": mailbox},
        torch_config=TorchConfig(backend="nccl" if job.config.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=job.config.workers, use_gpu=job.config.gpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=2), storage_path=tempfile.gettempdir()),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise next(iter(error.worker_failures.values())) from error


def ray_rank(spec: Mapping[str, Any]) -> None:
    """A Ray Train worker."""
    context, mailbox = ray.train.get_context(), spec["mailbox"]
    place = Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    train_rank(spec["job"], place, report=mailbox.put.remote, stopping=StopWish(mailbox))


@contextmanager
def terminated() -> Iterator[Callable[[], bool]]:
    """Inside the block SIGTERM only sets what is yielded. Elsewhere than in the main thread it cannot be caught."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield event.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def code_commit() -> str:
    """The commit of this checkout; empty where the code is not one."""
    folder = Path(__file__).parent
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return ""
    return found.stdout.strip()


def trained_model(record: Record, *, reused: bool, seconds: float = 0.0) -> TrainedModel:
    """A finished training from its record."""
    losses = tuple(float(v) for v in record.facts["losses"])
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainedModel(
        uri=record.uri, step=len(losses), loss=sum(tail) / len(tail), losses=losses, reused=reused, seconds=seconds
    )


@task(name="train-stage1", persist_result=False)
def train_stage1_task(config: TrainConfig, features: str | None, root: str) -> TrainedModel:
    """Feature shards → stage-1 model."""
    store = open_store(root)
    generation = find_generation(store, "features", features)
    return train_stage1(config, generation, store)
