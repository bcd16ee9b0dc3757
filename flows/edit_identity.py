"""edit-identity: an identity and a list of edits → images."""

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows import presets
from flows.parameters import IdentityId, ImageUri, PresetName, Root
from flows.stage_tables import publish_edits
from tasks.edit_identity import edit_task
from tasks.workspace import workspace


@flow(name="edit-identity", log_prints=True)
def edit_identity(
    identity_id: IdentityId = None,
    identity_uri: Annotated[
        str | None, Field(description="URI of one checkpoint, where an identity has several")
    ] = None,
    edits: Annotated[
        list[dict[str, Any]] | None,
        Field(
            description='FLAME-style edits, for example [{"name": "left", "yaw": -20, "light": "left"}]; a grid by default'
        ),
    ] = None,
    driver_uri: Annotated[
        ImageUri | None, Field(description="Photograph whose pose, expression or light is taken")
    ] = None,
    take: Annotated[
        tuple[Literal["pose", "expression", "light", "shape"], ...],
        Field(description="What to take from the driver photograph"),
    ] = ("pose", "expression"),
    root: Root = None,
    preset: PresetName = "tiny",
) -> dict[str, Any]:
    """Render an identity under new poses, expressions and lights."""
    with workspace(root) as place:
        result = edit_task(
            presets.by_name(preset), identity_id, identity_uri, edits, driver_uri, tuple(take), place.root
        )
    publish_edits(result)
    return {
        "uri": result.uri, "images": [image.name for image in result.images], "reused": result.reused, "seconds": result.seconds,
    }  # fmt: skip
