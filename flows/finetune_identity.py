"""finetune-identity: one photograph → an identity checkpoint (stage 2 of the paper)."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import presets
from flows.parameters import IdentityId, ImageUri, PresetName, Root
from flows.stage_tables import publish_identity
from tasks.finetune_identity import finetune_task
from tasks.workspace import workspace


@flow(name="finetune-identity", log_prints=True)
def finetune_identity(
    image_uri: ImageUri,
    identity_id: IdentityId = None,
    root: Root = None,
    preset: PresetName = "tiny",
    base: Annotated[str | None, Field(description="URI of a stage-1 model; the only one below root by default")] = None,
    steps: Annotated[
        int | None, Field(description="Optimiser steps; the preset's number (paper: 50) by default", ge=1)
    ] = None,
) -> dict[str, Any]:
    """Fine-tune denoiser and projection on one photograph; the same photograph and configuration train once."""
    with workspace(root) as place:
        identity = finetune_task(presets.by_name(preset), image_uri, identity_id, place.root, base, steps)
    publish_identity(identity)
    return {
        "identity_id": identity.identity_id, "uri": identity.uri, "metrics": dict(identity.metrics),
        "reused": identity.reused, "seconds": identity.seconds,
    }  # fmt: skip
