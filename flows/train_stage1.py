"""train-stage1: Guidance Network, denoiser and projection learn from feature shards, on Ray Train."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import presets
from flows.parameters import PresetName, Root
from tasks.train_stage1 import train_stage1_task
from tasks.workspace import workspace


@flow(name="train-stage1", log_prints=True)
def train_stage1(
    features: Annotated[
        str | None, Field(description="URI of a features generation; the only one below root by default")
    ] = None,
    root: Root = None,
    preset: PresetName = "tiny",
    steps: Annotated[int | None, Field(description="Optimiser steps; the preset's number by default", ge=1)] = None,
) -> dict[str, Any]:
    """Train stage 1. To resume a stopped run, run the same command again."""
    with workspace(root) as place:
        model = train_stage1_task(presets.by_name(preset).train, features, place.root, steps)
    return {"uri": model.uri, "step": model.step, "loss": model.loss, "reused": model.reused, "seconds": model.seconds}
