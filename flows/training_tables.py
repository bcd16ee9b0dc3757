"""What a training leaves in the Prefect UI: its curves, its figures, its last grid of samples."""

import base64

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.reachable import when_reachable
from tasks.runs import report_of
from tasks.train_stage1 import TrainedModel


@when_reachable
def publish_training(model: TrainedModel) -> None:
    """Curves and samples as pictures inside Markdown, the last figures as a table."""
    report = report_of(model.uri)
    if report is None:  # of a run without a log
        return
    parts = [f"## Stage 1: {model.step:,} steps\n\n`{model.uri}`"]
    for title, png in (("Curves", report.curves), ("Samples", report.samples)):
        if png is not None:
            parts.append(f"### {title}\n\n![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
    create_markdown_artifact(key="training", markdown="\n\n".join(parts), description=f"loss {model.loss:.4f}")
    create_table_artifact(
        key="training-figures",
        table=[{"figure": name, "value": value} for name, value in sorted(report.figures.items())],
        description="Figures of the last steps",
    )
