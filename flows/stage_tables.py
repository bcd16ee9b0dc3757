"""What flows leave in the Prefect UI: tables, pictures and Markdown."""

import base64
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.edit_identity import Edits
from tasks.evaluate import MEANINGS, Evaluation
from tasks.finetune_identity import Identity
from tasks.generation import OK, Generation


def publish_generations(generations: Sequence[Generation]) -> None:
    """One table of the stages, one of the rows that were not used."""
    create_table_artifact(
        key="stages",
        table=[
            {"stage": g.stage, "good": g.manifest.counts.get(OK, 0), "rows": sum(g.manifest.counts.values()),
             "shards": len(g.manifest.shards), "reused": g.reused, "uri": g.uri}
            for g in generations
        ],
        description="Generations of the dataset",
    )  # fmt: skip
    refused = [
        {"stage": g.stage, "source": row.source, "status": row.status, "reason": row.reason}
        for g in generations
        for row in g.status()
        if row.status != OK
    ]
    if refused:
        create_table_artifact(
            key="rows-not-used", table=refused, description="Inputs that were not used, with the reason"
        )


def publish_identity(identity: Identity) -> None:
    """The photograph beside its reconstruction, and the figures."""
    figures = "\n".join(f"| {name} | {value} |" for name, value in sorted(identity.metrics.items()))
    create_markdown_artifact(
        key="identity",
        markdown=f"## {identity.identity_id}\n\n{picture(identity.preview, 'photograph and reconstruction')}\n\n"
        f"`{identity.uri}`\n\n| figure | value |\n|---|---|\n{figures}\n",
        description="Photograph (left) and its reconstruction (right)",
    )


def publish_edits(edits: Edits) -> None:
    create_markdown_artifact(
        key="edits",
        markdown=f"## Edits\n\n{picture(edits.record.read('grid.png'), 'edits')}\n\n`{edits.uri}`\n",
        description=f"{len(edits.images)} edits",
    )


def publish_evaluation(evaluation: Evaluation) -> None:
    table = [
        {"figure": name, "value": "not available" if value is None else value, "meaning": MEANINGS[name]}
        for name, value in evaluation.summary.items()
    ]
    create_table_artifact(key="evaluation", table=table, description=evaluation.uri)


def picture(png: bytes, alternative: str) -> str:
    """A PNG inside Markdown, so that the UI shows it without reaching for the store."""
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"
