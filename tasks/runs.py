"""Training runs below a root: what there is, how far each has come, its curves, and whether it can be repeated."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from storage.checkpoints import CheckpointStore
from storage.records import read_record
from storage.stores import Store, open_store
from tasks.generation import Generation, find_generation
from tasks.run_plots import curve, plot_png, sparkline
from tasks.train_config import TrainConfig
from tasks.train_log import Figures, read_log
from tasks.train_loop import Run, TrainJob
from tasks.train_stage1 import DESCRIPTION, code_commit
from tasks.train_state import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    name: str
    uri: str
    model: str
    step: int
    """Steps done, as far as the log or a checkpoint says."""
    steps: int
    finished: bool
    checkpoint: int | None
    """Step of the latest complete checkpoint."""
    loss: float | None
    """Mean of the last 50 steps."""
    validation: float | None
    samples_per_second: float | None
    started_from: str
    """Digest of the features manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    uri: str
    steps: int
    recorded: tuple[float, ...]
    found: tuple[float, ...]
    largest_difference: float
    features: str
    """Digest of the features manifest, equal to that of the run."""
    commit: tuple[str, str]
    """Of the run, and of the code that repeated it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    curves: bytes
    """PNG."""
    samples: bytes | None
    """PNG of the latest grid."""
    figures: Figures
    """The latest value of every figure."""


def report_of(uri: str) -> RunReport | None:
    """Pictures and figures of a run; None where it has no log."""
    home = open_store(uri)
    rows = read_log(home)
    if not rows:
        return None
    figures: Figures = {}
    for row in rows:
        figures |= row
    del figures["time"]
    return RunReport(curves=plot_png(rows, uri), samples=last_samples(home), figures=figures)


def list_runs(root: str) -> list[RunSummary]:
    """The training runs below `<root>/stage1/`, finished or not, by name."""
    home = open_store(root).child("stage1")
    found = (name.strip("/") for name in home.folders())
    return [summary(home.child(name)) for name in sorted(found) if home.child(name).stat(DESCRIPTION) is not None]


def summary(home: Store) -> RunSummary:
    """Where one run stands."""
    description, rows = describe_run(home), read_log(home)
    record, checkpoint = read_record(home), CheckpointStore(home.child("checkpoints")).latest()
    losses, validations = curve(rows, "loss")[1], curve(rows, "validation")[1]
    speeds = curve(rows, "samples_per_second")[1]
    done = int(record.facts["step"]) if record else max(checkpoint or 0, int(rows[-1]["step"]) if rows else 0)
    return RunSummary(
        name=home.uri.rpartition("/")[2],
        uri=home.uri,
        model=description["config"]["model"],
        step=done,
        steps=description["config"]["steps"],
        finished=record is not None,
        checkpoint=checkpoint,
        loss=float(losses[-50:].mean()) if len(losses) else None,
        validation=float(validations[-1]) if len(validations) else None,
        samples_per_second=float(speeds[-50:].mean()) if len(speeds) else None,
        started_from=description["features"]["digest"],
    )


def find_run(root: str, name: str | None) -> Store:
    """A run by its name below a root, by the beginning of it, or the only one.

    Raises: ValueError with the names that there are.
    """
    home = open_store(root).child("stage1")
    names = [run.name for run in list_runs(root)]
    found = [one for one in names if one.startswith(name or "")]
    if len(found) != 1:
        what = "no run" if not found else "more than one run"
        raise ValueError(f"{home.uri} has {what} named {name or 'anything'}; it has {', '.join(names) or 'none'}")
    return home.child(found[0])


def describe_run(home: Store) -> dict[str, Any]:
    """What a run said of itself when it was started first."""
    description: dict[str, Any] = json.loads(home.read(DESCRIPTION))
    return description


def curves(home: Store, out: Path) -> list[tuple[str, str, float, float]]:
    """Write the curves of a run to a PNG; for a terminal, (figure, sparkline, first, last) of each."""
    rows = read_log(home)
    if not rows:
        raise ValueError(f"{home.uri} has no log yet: it is written every two minutes and with the end of a run")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(plot_png(rows, home.uri))
    names = ("loss", "validation", "validation_pairs", "validation_shuffled", "gradient_norm", "learning_rate",
             "samples_per_second", "data_wait", "memory_gib", "mfu")  # fmt: skip
    found = ((name, curve(rows, name)[1]) for name in names)
    return [(name, sparkline(v), float(v[0]), float(v[-1])) for name, v in found if len(v)]


def last_samples(home: Store) -> bytes | None:
    """The newest grid of samples, PNG."""
    found = sorted(info.key for info in home.list("samples/"))
    return home.read(found[-1]) if found else None


def replay(root: str, name: str | None, steps: int) -> Replayed:
    """Run the first steps of a run once more, from what it recorded, in this process and into a folder that is thrown
    away, and compare the losses.

    On one CPU rank, as the run was, they are equal to the bit; other hardware or ranks differ by rounding.

    Raises: ValueError when the features or starting weights are not those of the run any more, or nothing is recorded.
    """
    home = find_run(root, name)
    description = describe_run(home)
    recorded = recorded_losses(home)[:steps]
    if not recorded:
        raise ValueError(f"{home.uri} has recorded no loss yet: nothing can be compared")
    features = find_generation(open_store(root), "features", description["features"]["uri"])
    if features.manifest.digest != description["features"]["digest"]:
        raise ValueError(
            f"{features.uri} is not what {home.uri} was trained on: its manifest is {features.manifest.digest}, the run's "
            f"was {description['features']['digest']}"
        )
    job = replay_job(description, features)
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        job = replace(job, home=open_store(Path(folder)).uri)

        def report(row: Mapping[str, Any]) -> None:
            if "loss" in row:
                found.append(float(row["loss"]))

        with Run(job, Place(0, 1, torch.device("cuda" if job.config.gpu else "cpu")), report) as run:
            for _ in recorded:
                run.train(stop=False)
    differences = [abs(a - b) for a, b in zip(recorded, found, strict=True)]
    return Replayed(
        uri=home.uri, steps=len(found), recorded=tuple(recorded), found=tuple(found),
        largest_difference=max(differences), features=features.manifest.digest,
        commit=(description["lineage"]["commit"], job.lineage["commit"]),
    )  # fmt: skip


def recorded_losses(home: Store) -> list[float]:
    """The losses of a run from its first step on, from its record, its latest checkpoint or its log."""
    record = read_record(home)
    if record is not None:
        return [float(loss) for loss in record.facts["losses"]]
    checkpoints = CheckpointStore(home.child("checkpoints"))
    if checkpoints.latest() is not None:
        state = checkpoints.load(select=lambda name: False).state
        return [float(loss) for loss in state["losses"]]
    steps, losses = curve(read_log(home), "loss")
    return [float(v) for place, v in zip(steps, losses, strict=True) if place <= len(steps)]


def replay_job(description: Mapping[str, Any], features: Generation) -> TrainJob:
    """The job that a run recorded, on one rank, without looks at validation or samples."""
    known = {field.name for field in fields(TrainConfig)}
    recorded = {name: value for name, value in description["config"].items() if name in known}
    config = replace(TrainConfig(**recorded), workers=1, validation_samples=0, sample_every=None)
    lineage = {**description["lineage"], "commit": code_commit()}
    return TrainJob(
        config=config, home="", features=features, base=description["base"], tensorboard=None, lineage=lineage
    )
