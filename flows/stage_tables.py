"""What flows leave in the Prefect UI: tables, pictures and Markdown."""

import base64
from collections.abc import Sequence
from dataclasses import asdict

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.edit_identity import Edits
from tasks.erase_identity import Erased
from tasks.evaluate import MEANINGS, Evaluation
from tasks.finetune_identity import Identity
from tasks.identity_card import shown
from tasks.reachable import when_reachable


@when_reachable
def publish_identity(identity: Identity) -> None:
    """The photograph beside its reconstruction, and the figures."""
    figures = "\n".join(f"| {name} | {shown(value)} |" for name, value in sorted(identity.metrics.items()))
    figures += "".join(f"\n| {name} | {seconds} s |" for name, seconds in identity.phases.items())
    create_markdown_artifact(
        key="identity",
        markdown=f"## {identity.identity_id}\n\n{picture(identity.preview, 'photograph, reconstruction, edits')}\n\n"
        f"`{identity.uri}`\n\n| figure | value |\n|---|---|\n{figures}\n",
        description="Photograph, its reconstruction, and a few edits",
    )


@when_reachable
def publish_edits(results: Sequence[Edits]) -> None:
    """A contact sheet of each identity, and its films."""
    parts = []
    for edits in results:
        parts += [picture(edits.record.read("grid.png"), "edits"), f"`{edits.uri}`"]
        parts += [f"{name}\n\n{picture(edits.record.read(film), name, 'gif')}" for name, film in edits.films.items()]
    create_markdown_artifact(
        key="edits", markdown="## Edits\n\n" + "\n\n".join(parts) + "\n",
        description=f"{sum(len(edits.images) for edits in results)} edits",
    )  # fmt: skip


@when_reachable
def publish_receipt(erased: Erased) -> None:
    rows = [{"what": name.replace("_", " "), "value": str(value)} for name, value in asdict(erased.receipt).items()]
    create_table_artifact(key="erasure", table=rows, description=erased.uri)


@when_reachable
def publish_evaluation(evaluation: Evaluation) -> None:
    table = [
        {"figure": name, "value": "not available" if value is None else value, "meaning": MEANINGS[name]}
        for name, value in evaluation.summary.items()
    ]
    create_table_artifact(key="evaluation", table=table, description=evaluation.uri)


def picture(data: bytes, alternative: str, kind: str = "png") -> str:
    """A picture inside Markdown, so that the UI shows it without reaching for the store."""
    return f"![{alternative}](data:image/{kind};base64,{base64.b64encode(data).decode()})"
