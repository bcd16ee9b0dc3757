"""preprocess-ffhq: photographs → aligned images → 3D condition maps → features, as WebDataset shards."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import presets
from flows.parameters import PresetName, Root, Source
from flows.stage_tables import publish_generations
from tasks.encode import encode_task
from tasks.extract import extract_task
from tasks.shard import shard_task
from tasks.workspace import workspace


@flow(name="preprocess-ffhq", log_prints=True)
def preprocess_ffhq(
    source: Source = "embedded:portrait",
    root: Root = None,
    preset: PresetName = "tiny",
    workers: Annotated[int | None, Field(description="Ray actors a stage; all CPUs by default", ge=1)] = None,
) -> dict[str, Any]:
    """Photographs → feature shards. A rerun with the same photographs and configuration redoes nothing."""
    configuration = presets.by_name(preset)
    with workspace(root) as place:
        actors = workers or place.workers
        images = shard_task(configuration.shard, source, place.root, actors)
        maps = extract_task(configuration.extract, images, place.root, actors)
        features = encode_task(configuration.encode, images, maps, place.root, actors)
    publish_generations([images, maps, features])
    return {
        g.stage: {"uri": g.uri, "counts": dict(g.manifest.counts), "reused": g.reused, "seconds": g.seconds}
        for g in (images, maps, features)
    }
