"""What the evaluation of a protocol leaves in the Prefect UI: tables, grids of pictures, curves over time."""

import base64
import re
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.evaluate_protocol import ProtocolEvaluation
from tasks.evaluation_history import Point
from tasks.evaluation_pages import history_png, small
from tasks.evaluation_tables import WHY_NOT_COMPARABLE, all_tables, headline
from tasks.reachable import when_reachable


@when_reachable
def publish_protocol(evaluation: ProtocolEvaluation, points: Sequence[Point]) -> None:
    """A table artifact each table; the grids and the curves as pictures inside Markdown."""
    facts, record = evaluation.facts, evaluation.record
    for table in all_tables(facts):
        create_table_artifact(
            key="evaluation-" + re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-"),
            table=[dict(zip(table.header, row, strict=True)) for row in table.rows],
            description=f"{table.title}. {table.note}",
        )
    parts = [f"## Evaluation: {facts['protocol']}", headline(facts), WHY_NOT_COMPARABLE, f"`{record.uri}`"]
    if evaluation.worse:
        parts.append("**Worse than the last accepted run:** " + "; ".join(str(one) for one in evaluation.worse))
    for name in sorted(record.files):
        if name.startswith("grid-"):
            title = name.removeprefix("grid-").removesuffix(".png")
            parts.append(f"### {title}: best, median and worst\n\n{_picture(small(record.read(name)), title, 'jpeg')}")
    create_markdown_artifact(key="evaluation-pictures", markdown="\n\n".join(parts), description=headline(facts))
    curves = history_png(points)
    if curves:
        create_markdown_artifact(
            key="evaluation-history",
            markdown=f"## {facts['protocol']} over time\n\n{_picture(curves, 'curves', 'png')}",
            description=f"{len(points)} runs of {evaluation.series}",
        )


def _picture(data: bytes, alternative: str, kind: str) -> str:
    return f"![{alternative}](data:image/{kind};base64,{base64.b64encode(data).decode()})"
