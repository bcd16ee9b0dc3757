"""What Prefect's database knows of a person: parameters are blanked, artifacts deleted, log lines counted."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun

BLANK = "[erased]"
_PAGE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """How one person is named in Prefect's database. A folder, a preset or a user that happens to have the same name is not."""

    identity_id: str
    uris: frozenset[str] = frozenset()
    """Photographs of the person."""
    digests: frozenset[str] = frozenset()
    """sha256 of those."""

    def by(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a run with these parameters is about the person."""
        ids = [parameters.get("identity_id"), *(parameters.get("identity_ids") or [])]
        if self.identity_id in ids or any(self.linked(text) for text in _texts(parameters)):
            return True
        of_nobody_else = not any(ids) and not parameters.get("identity_uri")
        return of_nobody_else and any(self.photograph(text) for text in _texts(parameters))

    def linked(self, text: str) -> bool:
        """Whether a text has an address below the identity's folder."""
        return re.search(rf"(^|/)identities/{re.escape(self.identity_id)}(?![A-Za-z0-9-])", text) is not None

    def photograph(self, text: str) -> bool:
        """Whether a text is the address of a photograph of the person, or has its digest."""
        return text in self.uris or any(digest in text for digest in self.digests)

    def blanked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The same parameters with every string that names the person replaced."""

        def swept(value: Any) -> Any:
            if isinstance(value, str):
                named = value == self.identity_id or self.linked(value) or self.photograph(value)
                return BLANK if named else value
            if isinstance(value, dict):
                return {key: swept(one) for key, one in value.items()}
            return [swept(one) for one in value] if isinstance(value, list | tuple) else value

        return {
            # Elsewhere the same word may be a preset, or anything.
            key: swept(value) if key in ("identity_id", "identity_ids") or value != self.identity_id else value
            for key, value in parameters.items()
        }

    def mentioned(self, text: str) -> bool:
        """Whether a line of a log has the name as a whole (`ada` is not in `canada` or `ada-2`) or a photograph of theirs."""
        whole = re.search(rf"(?<![A-Za-z0-9-]){re.escape(self.identity_id)}(?![A-Za-z0-9-])", text) is not None
        return whole or any(one in text for one in (*self.uris, *self.digests))


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


def redact(
    identity_id: str, *, uris: Collection[str] = (), digests: Collection[str] = (), delete: bool = False
) -> Redaction:
    """Remove every mention of an identity from flow runs, and every artifact that shows it.

    A run counts when its `identity_id` or `identity_ids` name the identity, when a parameter lies below
    `…/identities/<id>/`, or when one is a photograph of the person (`uris`, sha256 `digests`) and the run is of no other
    identity; its artifacts show the person and are deleted. So are artifacts of other runs that link below
    `…/identities/<id>/`: an edit that was asked for without a name. The run that is under way is blanked too, but not deleted.
    """
    named = Named(identity_id=identity_id, uris=frozenset(uris), digests=frozenset(digests))
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
            if not named.by(run.parameters):
                continue
            runs += 1
            artifacts += _delete_artifacts(client, run)
            if delete and str(run.id) != under_way:
                client.delete_flow_run(run.id)
                deleted += 1
                continue
            client.update_flow_run(run.id, parameters=named.blanked(run.parameters), tags=run.tags)
            lines += _lines(client, run, named)
        artifacts += _delete_linking(client, named)
    return Redaction(
        runs=runs, runs_deleted=deleted, artifacts_deleted=artifacts, log_lines_left=lines
    )  # fmt: skip


def _runs(client: SyncPrefectClient) -> Iterator[FlowRun]:
    offset = 0
    while page := client.read_flow_runs(limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)


def _delete_artifacts(client: SyncPrefectClient, run: FlowRun) -> int:
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
    return _deleted(client, [artifact.id for artifact in _artifacts(client, mine)])


def _delete_linking(client: SyncPrefectClient, named: Named) -> int:
    """Delete the artifacts that link to the identity, whatever run made them."""
    texts = ((one.id, f"{one.description} {one.data}") for one in _artifacts(client, None))
    return _deleted(client, [artifact for artifact, text in texts if named.linked(text)])


def _artifacts(client: SyncPrefectClient, chosen: ArtifactFilter | None) -> Iterator[Artifact]:
    offset = 0
    while page := client.read_artifacts(artifact_filter=chosen, limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)


def _deleted(client: SyncPrefectClient, artifacts: Sequence[UUID]) -> int:
    for artifact in artifacts:
        client.delete_artifact(artifact)
    return len(artifacts)


def _lines(client: SyncPrefectClient, run: FlowRun, named: Named) -> int:
    count = offset = 0
    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    while page := client.read_logs(log_filter=mine, limit=_PAGE, offset=offset):
        count += sum(named.mentioned(log.message) for log in page)
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
