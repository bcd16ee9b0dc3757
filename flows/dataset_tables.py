"""What preprocessing leaves in the Prefect UI: a table of its stages, one of what was not used."""

from collections.abc import Sequence

from prefect.artifacts import create_table_artifact

from tasks.generation import OK, Generation
from tasks.notices import tell_quarantine
from tasks.reachable import when_reachable

MOST_REFUSED = 500
"""Rows of an artifact; status.parquet has all of them."""


def publish_generations(generations: Sequence[Generation]) -> None:
    """One table of the stages, one of the rows that were not used; and a word where these are many."""
    for one in generations:
        if not one.reused:
            tell_quarantine(one.stage, one.uri, one.manifest.counts)
    _tables(generations)


@when_reachable
def _tables(generations: Sequence[Generation]) -> None:
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
        more = f"; the first {MOST_REFUSED} of {len(refused)}" if len(refused) > MOST_REFUSED else ""
        create_table_artifact(
            key="rows-not-used",
            table=refused[:MOST_REFUSED],
            description=f"Inputs that were not used, with the reason{more}",
        )
