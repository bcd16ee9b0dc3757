"""train-stage1: Guidance Network, denoiser and projection learn from feature shards, on Ray Train."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows import presets, stage1_presets
from flows.documented import documented
from flows.parameters import PresetName, Root, with_fields
from flows.training_tables import publish_training
from tasks.train_config import TrainConfig
from tasks.train_stage1 import train_stage1_task
from tasks.workspace import workspace

TrainingName = Annotated[
    Literal["stage1_paper", "stage1_paper_h100", "stage1_tiny", "stage1_debug"],
    Field(description="Configuration of the training, instead of the preset's"),
]


@flow(name="train-stage1", log_prints=True)
@documented
def train_stage1(
    features: Annotated[
        str | None, Field(description="URI of a features generation; the only one below root by default")
    ] = None,
    root: Root = None,
    preset: PresetName = "tiny",
    steps: Annotated[int | None, Field(description="Optimiser steps; the preset's number by default", ge=1)] = None,
    training: TrainingName | None = None,
    workers: Annotated[int | None, Field(description="Ranks; the preset's number by default", ge=1)] = None,
    changes: Annotated[
        dict[str, Any] | None,
        Field(description="Other fields of the training to set otherwise, such as batch, gpu, pairs or identity"),
    ] = None,
) -> dict[str, Any]:
    """Train stage 1. To resume a stopped run, run the same command again, on as many ranks as there are now."""
    config = configuration(preset, training, workers, steps, changes)
    with workspace(root) as place:
        model = train_stage1_task(config, features, place.root)
        publish_training(model)
    return {"uri": model.uri, "step": model.step, "loss": model.loss, "reused": model.reused, "seconds": model.seconds}


def configuration(
    preset: str = "tiny",
    training: str | None = None,
    workers: int | None = None,
    steps: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The training that a run's parameters mean. Raises ValueError for values that cannot be."""
    config = stage1_presets.by_name(training) if training else stage1_presets.training_of(presets.by_name(preset))
    given = {name: value for name, value in (("workers", workers), ("steps", steps)) if value is not None}
    return with_fields(config, {**(changes or {}), **given})
