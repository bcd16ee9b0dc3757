"""preprocess-ffhq: photographs → aligned images → 3D condition maps → features, as WebDataset shards."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows import presets
from flows.dataset_tables import publish_generations
from flows.documented import documented
from flows.parameters import PresetName, Root, Source, with_fields
from tasks.dataset_card import card_task
from tasks.encode import encode_task
from tasks.extract import extract_task
from tasks.plan import plan_task
from tasks.preset import Preset
from tasks.shard import shard_task
from tasks.sources import SourceConfig
from tasks.workspace import workspace_on_demand

Layout = Annotated[
    Literal["auto", "ffhq", "aligned", "plain"],
    Field(description="auto knows FFHQ by its folders; ffhq and aligned: aligned already; plain: align everything"),
]
Identity = Annotated[
    Literal["content", "stamp"],
    Field(
        description="What tells a photograph from others: its bytes, or name, size and time (nothing is read to list)"
    ),
]
Flip = Annotated[
    Literal["none", "stored", "encode"],
    Field(description="Mirror images too: stored as maps and features, or as features only, made while encoding"),
]
Workers = Annotated[int | None, Field(description="Ray actors a stage; all CPUs (or GPU shares) by default", ge=1)]
Changes = Annotated[
    dict[str, Any] | None,
    Field(
        description="Fields of the preset's shard configuration to set otherwise, such as near_duplicates or several_faces"
    ),
]
Gpus = Annotated[float, Field(description="Share of a GPU for each actor that can use one; 0.25 is four a GPU", ge=0)]


@flow(name="preprocess-ffhq", log_prints=True)
@documented
def preprocess_ffhq(
    source: Source = "embedded:portrait",
    root: Root = None,
    preset: PresetName = "tiny",
    workers: Workers = None,
    layout: Layout = "auto",
    identity: Identity = "content",
    flip: Flip = "none",
    gpus: Gpus = 0.0,
    changes: Changes = None,
    plan: Annotated[
        bool,
        Field(
            description="Only say what it would take: shards, bytes, time, disk; refuses where the disk is too small"
        ),
    ] = False,
) -> dict[str, Any]:
    """Photographs → feature shards. A rerun with the same photographs and configuration redoes nothing."""
    configuration = configured(preset, flip, changes)
    photographs = SourceConfig(source=source, layout=layout, identity=identity)
    if plan:
        return plan_task(configuration, photographs, root, workers)
    return run_stages(configuration, photographs, root, workers, gpus)


def configured(preset: str, flip: str, changes: dict[str, Any] | None) -> Preset:
    """The preset with what the parameters change of it."""
    base = presets.by_name(preset)
    return replace(
        base,
        shard=with_fields(base.shard, changes or {}),
        extract=replace(base.extract, flip=flip == "stored"),
        encode=replace(base.encode, flip=flip == "encode"),
    )


def run_stages(
    configuration: Preset,
    photographs: SourceConfig,
    root: str | None,
    workers: int | None,
    gpus: float,
    redrive: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The three stages and what is said about them. Ray starts when one of them finds work to do."""
    with workspace_on_demand(root, workers=workers) as (place, plain):
        shared = replace(plain, gpus=gpus)
        images = shard_task(configuration.shard, photographs, place, plain, redrive)
        mapping = shared if configuration.extract.estimator == "deca" else plain
        maps = extract_task(configuration.extract, images, place, mapping, redrive)
        features = encode_task(configuration.encode, images, maps, place, shared, redrive)
    publish_generations([images, maps, features])
    card = card_task(images, maps, features)
    stages: dict[str, Any] = {
        g.stage: {"uri": g.uri, "counts": dict(g.manifest.counts), "reused": g.reused, "seconds": g.seconds}
        for g in (images, maps, features)
    }
    stages["features"]["card"] = card.page_uri
    return stages
