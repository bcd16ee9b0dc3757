"""finetune-identity: one photograph → an identity checkpoint (stage 2 of the paper)."""

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows import presets
from flows.documented import documented
from flows.first_model import base_model
from flows.parameters import IdentityId, ImageUri, PresetName, Root
from flows.stage_tables import publish_identity
from tasks.finetune_identity import check_consent, check_kept, finetune_task
from tasks.workspace import workspace


@flow(name="finetune-identity", log_prints=True)
@documented
def finetune_identity(
    image_uri: ImageUri,
    identity_id: IdentityId = None,
    root: Root = None,
    preset: PresetName = "tiny",
    method: Annotated[
        Literal["full", "lora", "tokens"] | None,
        Field(description="full: denoiser and projection (paper); lora: rank 16 and tokens; tokens: kilobytes"),
    ] = None,
    base: Annotated[
        str | None,
        Field(
            description="URI of a stage-1 model, or shipped; by default the only one below root, the shipped one where none is"
        ),
    ] = None,
    steps: Annotated[
        int | None, Field(description="Optimiser steps; the preset's number (paper: 50) by default", ge=1, le=100_000)
    ] = None,
    learning_rate: Annotated[
        float | None,
        Field(description="AdamW; the preset's by default, 10 times that for lora and 30 times for tokens", gt=0, lt=1),
    ] = None,
    seed: Annotated[int | None, Field(description="Seed of noise and timesteps", ge=0, lt=2**63)] = None,
    prior_weight: Annotated[
        float | None, Field(description="Weight of other people's cached features (prior preservation)", ge=0, le=100)
    ] = None,
    patience: Annotated[
        int | None, Field(description="Stop after this many looks, five steps apart, without a better loss", ge=1)
    ] = None,
    stratified: Annotated[
        bool | None, Field(description="Spread the copies' timesteps evenly over the noise; the preset's by default")
    ] = None,
    antithetic: Annotated[
        bool | None, Field(description="Each second copy takes the first one's noise negated; the preset's by default")
    ] = None,
    keep_photograph: Annotated[
        bool, Field(description="Store the aligned crop and its latents; false needs a preset that keeps no other copy")
    ] = True,
    consent: Annotated[
        str | None, Field(description="Reference of the person's consent; a deployment may require one", max_length=200)
    ] = None,
) -> dict[str, Any]:
    """Fine-tune denoiser and projection on one photograph; the same photograph and configuration train once."""
    check_consent(consent)
    changes = {
        "method": method, "steps": steps, "learning_rate": learning_rate, "seed": seed,
        "prior_weight": prior_weight, "patience": patience, "stratified": stratified, "antithetic": antithetic,
        "keep_photograph": keep_photograph,
    }  # fmt: skip
    check_kept(presets.by_name(preset), keep_photograph)
    with workspace(root) as place:
        base = base_model(base, preset, place.root)
        identity = finetune_task(presets.by_name(preset), image_uri, identity_id, place.root, base, changes, consent)
    publish_identity(identity)
    return {
        "identity_id": identity.identity_id, "uri": identity.uri, "metrics": dict(identity.metrics),
        "reused": identity.reused, "seconds": identity.seconds,
    }  # fmt: skip
