"""edit-identity: identities and a list of edits → images."""

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows import presets
from flows.documented import documented
from flows.parameters import AdaptationScale, DriverUri, IdentityId, PresetName, Root
from flows.stage_tables import publish_edits
from tasks.edit_identity import edit_task
from tasks.workspace import workspace

ReferenceScale = Annotated[
    float, Field(description="1: off; 3 follows the edited maps harder, at twice the cost", ge=0, le=20)
]
GuidanceScale = Annotated[
    float, Field(description="Classifier-free guidance, for models trained with condition_dropout; 1: off", ge=0, le=20)
]


@flow(name="edit-identity", log_prints=True)
@documented
def edit_identity(
    identity_id: IdentityId = None,
    identity_ids: Annotated[
        list[str], Field(description="Several identities at once; they share the base model", max_length=100)
    ] = [],  # noqa: B006 - Prefect copies defaults
    identity_uri: Annotated[
        str | None, Field(description="URI of one checkpoint, where an identity has several")
    ] = None,
    edits: Annotated[
        list[dict[str, Any]] | None,
        Field(
            description='FLAME-style edits, for example [{"name": "left", "yaw": -20, "light": "left"}], or films: '
            '[{"name": "turn", "sweep": {"yaw": [-25, 25]}, "frames": 9}]; a grid by default'
        ),
    ] = None,
    driver_uri: DriverUri | None = None,
    take: Annotated[
        tuple[Literal["pose", "expression", "light", "shape"], ...],
        Field(description="What to take from the driver photographs"),
    ] = ("pose", "expression"),
    paste_back: Annotated[
        bool, Field(description="Also put each edit into the original photograph, at its resolution")
    ] = False,
    steps: Annotated[
        int | None, Field(description="Steps of the sampler; the preset's by default", ge=1, le=1000)
    ] = None,
    solver: Annotated[
        Literal["ddim", "unipc", "dpm++"] | None, Field(description="Sampler; ddim as in the paper")
    ] = None,
    seed: Annotated[int | None, Field(description="Seed of the starting noise", ge=0, lt=2**63)] = None,
    reference_scale: ReferenceScale | None = None,
    guidance_scale: GuidanceScale | None = None,
    background_lock: Annotated[
        bool | None,
        Field(description="Keep what neither head covers; of turns that carry detail, what is drawn as in the photograph"),
    ] = None,
    carry_detail: Annotated[
        bool | None, Field(description="Carry the photograph's detail to the edit along the surface of the head")
    ] = None,
    adaptation_scale: AdaptationScale | None = None,
    root: Root = None,
    preset: PresetName = "tiny",
) -> dict[str, Any]:
    """Render identities under new poses, expressions and lights."""
    names = [*([identity_id] if identity_id is not None else []), *identity_ids]
    chosen = presets.with_edit_options(
        presets.by_name(preset), steps=steps, solver=solver, seed=seed, reference_scale=reference_scale,
        guidance_scale=guidance_scale, background_lock=background_lock, carry_detail=carry_detail,
        adaptation_scale=adaptation_scale,
    )  # fmt: skip
    with workspace(root) as place:
        results = edit_task(chosen, names, identity_uri, edits, driver_uri, tuple(take), paste_back, place.root)
    publish_edits(results)
    first = results[0]
    return {
        "uri": first.uri, "images": [image.name for image in first.images], "films": dict(first.films),
        "reused": all(one.reused for one in results), "seconds": sum(one.seconds for one in results),
        "identities": [{"identity_uri": one.identity_uri, "uri": one.uri} for one in results],
    }  # fmt: skip
