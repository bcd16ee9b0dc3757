"""evaluate: how well edits keep the person and follow the request."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import presets
from flows.parameters import IdentityId, PresetName, Root
from flows.stage_tables import publish_evaluation
from tasks.evaluate import evaluate_task
from tasks.workspace import workspace


@flow(name="evaluate", log_prints=True)
def evaluate(
    identity_id: IdentityId = None,
    edits_uri: Annotated[
        str | None, Field(description="URI of a result of edit-identity; the only one of the identity by default")
    ] = None,
    root: Root = None,
    preset: PresetName = "tiny",
) -> dict[str, Any]:
    """Measure the edits of an identity: similarity to the source, Re-ID, re-inferred pose; a missing face is counted."""
    with workspace(root) as place:
        evaluation = evaluate_task(presets.by_name(preset), identity_id, edits_uri, place.root)
    publish_evaluation(evaluation)
    return {
        "uri": evaluation.uri, "summary": dict(evaluation.summary), "reused": evaluation.reused, "seconds": evaluation.seconds,
    }  # fmt: skip
