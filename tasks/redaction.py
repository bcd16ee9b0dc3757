"""What Prefect's database knows of a person: parameters are blanked, artifacts deleted, log lines counted."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun

BLANK = "[erased]"
_PAGE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Redaction:
    """What was done in Prefect's database."""

    looked: bool = True
    runs: int = 0
    """Flow runs whose parameters named the person."""
    runs_deleted: int = 0
    artifacts_deleted: int = 0
    log_lines_left: int = 0
    """Lines that name the person: Prefect deletes logs only with their run (`delete_runs`)."""


def redact(identity_id: str, originals: Sequence[str], *, delete: bool = False) -> Redaction:
    """Remove every mention of an identity from flow runs and their artifacts.

    A run counts when one of its parameters names the identity, or one of its `originals` (URIs and digests of the
    photographs) in a run of no other identity; its artifacts show the person and are deleted. The run that is under way is
    blanked too, but not deleted.
    """
    from prefect.context import get_run_context
    from prefect.exceptions import MissingContextError

    try:
        context: Any = get_run_context()
        under_way = str(context.task_run.flow_run_id)
    except (MissingContextError, AttributeError):
        under_way = ""
    runs = deleted = artifacts = lines = 0
    with get_client(sync_client=True) as client:
        for run in list(_runs(client)):
            names = _named(run.parameters, identity_id, originals)
            if not names:
                continue
            runs += 1
            artifacts += _delete_artifacts(client, run)
            if delete and str(run.id) != under_way:
                client.delete_flow_run(run.id)
                deleted += 1
                continue
            client.update_flow_run(run.id, parameters=blanked(run.parameters, names), tags=run.tags)
            lines += _lines(client, run, names)
    return Redaction(
        runs=runs, runs_deleted=deleted, artifacts_deleted=artifacts, log_lines_left=lines
    )  # fmt: skip


def _named(parameters: dict[str, Any], identity_id: str, originals: Sequence[str]) -> list[str]:
    """What a run's parameters mention: nothing, or all that has to go from them."""
    texts = list(_texts(parameters))
    by_id = any(mentions(text, identity_id) for text in texts)
    of_nobody_else = parameters.get("identity_id") in (None, identity_id) and not parameters.get("identity_ids")
    by_photograph = of_nobody_else and any(mentions(text, one) for text in texts for one in originals)
    return [identity_id, *originals] if by_id or by_photograph else []


def mentions(text: str, name: str) -> bool:
    """Whether a text has the name as a whole: `ada` is in `s3://b/identities/ada/1`, not in `canada` or `ada-2`."""
    return re.search(rf"(?<![A-Za-z0-9-]){re.escape(name)}(?![A-Za-z0-9-])", text) is not None


def blanked(value: Any, names: Sequence[str]) -> Any:
    """The same JSON with every string that mentions a name replaced."""
    if isinstance(value, str):
        return BLANK if any(mentions(value, name) for name in names) else value
    if isinstance(value, dict):
        return {key: blanked(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [blanked(one, names) for one in value]
    return value


def _runs(client: SyncPrefectClient) -> Iterator[FlowRun]:
    offset = 0
    while page := client.read_flow_runs(limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)


def _delete_artifacts(client: SyncPrefectClient, run: FlowRun) -> int:
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])), limit=_PAGE
    )
    for artifact in found:
        client.delete_artifact(artifact.id)
    return len(found)


def _lines(client: SyncPrefectClient, run: FlowRun, names: Sequence[str]) -> int:
    count = offset = 0
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    while page := client.read_logs(log_filter=mine, limit=_PAGE, offset=offset):
        count += sum(any(mentions(log.message, name) for name in names) for log in page)
        offset += len(page)
    return count


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
