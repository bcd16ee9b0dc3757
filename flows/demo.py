"""demo: the whole DAG on one machine with embedded defaults, and a page of pictures at the end."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import presets
from flows.documented import documented
from flows.edit_identity import edit_identity
from flows.evaluate import evaluate
from flows.finetune_identity import finetune_identity
from flows.parameters import PresetName, Root, Source
from flows.preprocess_ffhq import preprocess_ffhq
from flows.train_stage1 import train_stage1
from tasks.demo_choice import choose_task
from tasks.report import report_task
from tasks.workspace import workspace


@flow(name="demo", log_prints=True)
@documented
def demo(
    source: Source = "portraits:4x1@1000",
    root: Root = None,
    out: Annotated[str, Field(description="Folder of the report")] = ".instaface/demo",
    preset: PresetName = "tiny",
) -> dict[str, Any]:
    """Photographs in, edits out: preprocess, train a few steps, fine-tune one identity, edit, evaluate, report."""
    with workspace(root) as place:
        stages = preprocess_ffhq(source=source, root=place.root, preset=preset)
        chosen = choose_task(stages["images"]["uri"], place.root)
        model = train_stage1(features=stages["features"]["uri"], root=place.root, preset=preset)
        identity = finetune_identity(image_uri=chosen.subject, root=place.root, preset=preset, base=model["uri"])
        edits = edit_identity(
            identity_uri=identity["uri"], driver_uri=chosen.driver, take=("pose", "expression", "light"),
            root=place.root, preset=preset,
        )  # fmt: skip
        evaluation = evaluate(edits_uri=edits["uri"], root=place.root, preset=preset)
        parts = {**stages, "model": model, "identity": identity, "edits": edits, "evaluation": evaluation}
        page = report_task(presets.by_name(preset), place.root, parts, out)
    return {"report": str(page), "root": place.root, "parts": parts}
