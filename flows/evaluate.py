"""evaluate: how well edits keep the person and follow the request; one set of edits, or a protocol with its baselines."""

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows import presets
from flows.documented import documented
from flows.evaluation_tables import publish_protocol
from flows.parameters import IdentityId, PresetName, Root
from flows.stage_tables import publish_evaluation
from tasks.evaluate import evaluate_task
from tasks.evaluate_protocol import EvaluationRequest, evaluate_protocol_task, refuse_worse
from tasks.evaluation_lookup import history_points
from tasks.workspace import workspace

ProtocolName = Annotated[
    Literal["smoke", "table1", "table2", "table3"],
    Field(
        description="smoke: 12 pictures; table1: quality, 400 each of pose, expression, light; table2: re-inference error over "
        "1,200; table3: ablations over 600"
    ),
]


EvaluationSource = Annotated[
    str | None,
    Field(description="portraits:100x1@1000 (with ground truth), or a folder of photographs; the former by default"),
]
Model = Annotated[
    str | None,
    Field(description="Stage-1 model: a URI, a folder, shipped, or untrained (preset debug); the only one by default"),
]
OtherImages = Annotated[
    dict[str, str], Field(description='Other systems: {"name": "folder of pictures named as in the manifest"}')
]
OtherModels = Annotated[
    dict[str, str], Field(description='Other stage-1 models: {"name": "URI"}, fine-tuned and sampled as ours')
]
Methods = Annotated[
    list[str], Field(description="Methods instead of the protocol's, such as copy, paste, truth, zero-shot, ours")
]
Parameters = Annotated[
    Literal["true", "estimated"],
    Field(description="Parameters of synthetic sources: known, or estimated from the picture"),
]
Edits = Annotated[
    str | None, Field(description="URI of a result of edit-identity; the only one of the identity by default")
]


@flow(name="evaluate", log_prints=True)
@documented
def evaluate(
    identity_id: IdentityId = None,
    edits_uri: Edits = None,
    root: Root = None,
    preset: PresetName = "tiny",
    protocol: ProtocolName | None = None,
    source: EvaluationSource = None,
    model: Model = None,
    images: OtherImages = {},  # noqa: B006 - Prefect copies defaults
    models: OtherModels = {},  # noqa: B006
    methods: Methods = [],  # noqa: B006
    manifest: Annotated[str | None, Field(description="Path or URI of a manifest to use as it is")] = None,
    people: Annotated[int | None, Field(description="People, instead of the protocol's number", ge=1)] = None,
    each: Annotated[int | None, Field(description="Pictures of a person and mode, likewise", ge=1)] = None,
    parameters: Parameters = "true",
    workers: Annotated[int | None, Field(description="Processes; as many as cores by default", ge=1)] = None,
) -> dict[str, Any]:
    """Measure the edits of an identity; with `protocol`, a model and its baselines on many people, going on where an earlier
    run was interrupted. A model worse than the last accepted one fails the run and emits an event."""
    if protocol is None:
        return _one_set(identity_id, edits_uri, root, preset)
    if identity_id is not None or edits_uri is not None:
        raise ValueError("a protocol makes its own edits: leave identity_id and edits_uri out, or protocol")
    request = EvaluationRequest(
        protocol=protocol, source=source, manifest=manifest, people=people, each=each, parameters=parameters, model=model,
        models=models, images=images, only=tuple(methods),
    )  # fmt: skip
    with workspace(root) as place:
        result = evaluate_protocol_task(presets.by_name(preset), request, place.root, workers)
        publish_protocol(result, history_points(result.record.uri))
    refuse_worse(result)
    facts = result.facts
    return {
        "uri": result.record.uri, "summary": facts["summary"].get(facts["subject"], {}), "counts": facts["counts"],
        "not_available": facts["not_available"], "made": result.made, "reused": result.reused,
        "seconds": result.seconds,
    }  # fmt: skip


def _one_set(identity_id: str | None, edits_uri: str | None, root: str | None, preset: str) -> dict[str, Any]:
    """The edits of one identity."""
    with workspace(root) as place:
        evaluation = evaluate_task(presets.by_name(preset), identity_id, edits_uri, place.root)
    publish_evaluation(evaluation)
    return {
        "uri": evaluation.uri, "summary": dict(evaluation.summary), "reused": evaluation.reused,
        "seconds": evaluation.seconds,
    }  # fmt: skip
