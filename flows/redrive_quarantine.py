"""redrive-quarantine: try again what preprocess-ffhq could not do; every good row is copied, nothing is replaced."""

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows.documented import documented
from flows.parameters import PresetName, Root, Source
from flows.preprocess_ffhq import Changes, Flip, Gpus, Identity, Layout, Workers, configured, run_stages
from tasks.sources import SourceConfig

Status = Literal["timeout", "crash", "out_of_memory", "error", "corrupt", "no_face", "too_small", "profile", "cut"]


@flow(name="redrive-quarantine", log_prints=True)
@documented
def redrive_quarantine(
    source: Source = "embedded:portrait",
    root: Root = None,
    preset: PresetName = "tiny",
    workers: Workers = None,
    layout: Layout = "auto",
    identity: Identity = "content",
    flip: Flip = "none",
    gpus: Gpus = 0.0,
    changes: Changes = None,
    statuses: Annotated[
        tuple[Status, ...],
        Field(description="What is tried again: by default all that may have been the machine's fault"),
    ] = ("timeout", "crash", "out_of_memory", "error"),
) -> dict[str, Any]:
    """The dataset of these parameters once more, with another attempt at its quarantined rows.

    A stage that has rows of these statuses gets a new generation, which later runs of preprocess-ffhq with the same
    parameters find; a stage that was refused for too many bad rows is taken up. Stages without such rows are as before.
    """
    photographs = SourceConfig(source=source, layout=layout, identity=identity)
    return run_stages(configured(preset, flip, changes), photographs, root, workers, gpus, redrive=statuses)
