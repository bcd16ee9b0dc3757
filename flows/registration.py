"""Make a Prefect server know the project: work pool, queues with their limits, deployments, automations."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    BlockDocumentCreate,
    BlockDocumentUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from flows.automations import WINDOW, automations
from flows.automations import register as register_automations

POOL = "instaface"
POOL_TYPES = ("process", "docker", "kubernetes")
NOTIFY_VARIABLE = "INSTAFACE_NOTIFY_URL"
NOTIFY_BLOCK = "instaface-notify"
RERUN = "rerun-crashed/rerun-crashed"
UPKEEP_SLOTS = 4


class NotRegistered(ValueError):
    """Something could not be registered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    deployments: tuple[str, ...]
    automations: int
    notifies: bool


def register(
    *,
    pool_type: str = "process",
    gpu_slots: int = 1,
    cpu_slots: int = 1,
    window: timedelta = WINDOW,
    working_dir: Path | None = None,
    file: Path | None = None,
) -> Registered:
    """Register everything with the server at PREFECT_API_URL; what is there already is brought up to date.

    `working_dir` is where runs of a process pool work, so that relative paths mean the same in every run.

    Raises:
        NotRegistered: no prefect.yaml, or Prefect refused it, with its words.
    """
    file = file or prefect_yaml()
    described = yaml.safe_load(file.read_text())
    with get_client(sync_client=True) as client:
        _work_pool(client, pool_type, working_dir)
        # rerun-crashed must not wait behind the runs it is there for, nor an erasure behind a night of preprocessing.
        slots = {"default": cpu_slots, "gpu": gpu_slots, "upkeep": UPKEEP_SLOTS}
        queues = {queue: _queue(client, queue, limit) for queue, limit in slots.items()}
        names = _deploy(described, pool_type, file.parent)
        rerun = client.read_deployment_by_name(RERUN)
        block = _notification_block(client)
        wanted = automations(
            rerun_deployment=rerun.id, working_queues=[queues["default"], queues["gpu"]], notification_block=block,
            window=window,
        )  # fmt: skip
        register_automations(client, wanted)
    return Registered(deployments=names, automations=len(wanted), notifies=block is not None)


def give_up_orphans() -> int:
    """Runs that a worker left behind have crashed, so that they free their slots and are run again; how many.

    Only right where no worker is: what is under way in another one would be taken for an orphan.
    """
    under_way = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
        ),
    )
    with get_client(sync_client=True) as client:
        found = [run for run in client.read_flow_runs(flow_run_filter=under_way) if run.deployment_id is not None]
        for run in found:
            cancelling = run.state is not None and run.state.type == StateType.CANCELLING
            message = "its worker was stopped"
            client.set_flow_run_state(run.id, Cancelled(message=message) if cancelling else Crashed(message=message))
    return len(found)


def prefect_yaml() -> Path:
    """The project's description of its deployments: in the working directory, else beside the code.

    Raises:
        NotRegistered: it is in neither.
    """
    for folder in (Path.cwd(), Path(__file__).resolve().parents[1]):
        if (folder / "prefect.yaml").exists():
            return folder / "prefect.yaml"
    raise NotRegistered("there is no prefect.yaml here: run this in a checkout of the project")


def _work_pool(client: SyncPrefectClient, pool_type: str, working_dir: Path | None) -> None:
    if pool_type not in POOL_TYPES:
        raise NotRegistered(f"pool type {pool_type!r}: choose one of {', '.join(POOL_TYPES)}")
    template = asyncio.run(get_default_base_job_template_for_infrastructure_type(pool_type))
    if template is None:
        raise NotRegistered(f"the server at {client.api_url} knows no work pools of type {pool_type!r}")
    if pool_type == "process":
        template["variables"]["properties"]["working_dir"]["default"] = str(working_dir or Path.cwd())
    try:
        there = client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type=pool_type, base_job_template=template))
        return
    if there.type != pool_type:
        raise NotRegistered(
            f"the work pool {POOL!r} at {client.api_url} is of type {there.type!r} already: delete it first "
            f"(prefect work-pool delete {POOL}), or register with --pool-type {there.type}"
        )
    client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))


def _queue(client: SyncPrefectClient, name: str, limit: int) -> UUID:
    address = f"/work_pools/{POOL}/queues"
    there = {queue["name"]: queue["id"] for queue in client._client.post(f"{address}/filter", json={}).json()}
    if name in there:
        client._client.patch(f"{address}/{name}", json={"concurrency_limit": limit}).raise_for_status()
        return UUID(there[name])
    made = client._client.post(f"{address}/", json={"name": name, "concurrency_limit": limit}).raise_for_status()
    return UUID(made.json()["id"])


def _deploy(described: Mapping[str, Any], pool_type: str, folder: Path) -> tuple[str, ...]:
    """`prefect deploy --all`, with the job variables of the pool's type."""
    variables = described["definitions"]["job_variables"][pool_type]
    deployments = [
        {**one, "work_pool": {**one["work_pool"], "job_variables": variables}} for one in described["deployments"]
    ]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "prefect.yaml"
        file.write_text(yaml.safe_dump({**described, "deployments": deployments}, sort_keys=False))
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
            cwd=folder, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise NotRegistered(f"prefect deploy failed: {' '.join((done.stderr or done.stdout).split()[-60:])}")
    return tuple(one["name"] for one in deployments)


def _notification_block(client: SyncPrefectClient) -> UUID | None:
    """The block that notifications go through: the one that is there, made or changed where INSTAFACE_NOTIFY_URL is set."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    url = os.environ.get(NOTIFY_VARIABLE)
    slug = CustomWebhookNotificationBlock.get_block_type_slug()
    try:
        there = client.read_block_document_by_name(NOTIFY_BLOCK, slug)
    except ObjectNotFound:
        there = None
    if not url:
        return None if there is None else there.id
    CustomWebhookNotificationBlock.register_type_and_schema()
    block_type = client.read_block_type_by_slug(slug)
    schema = client.read_block_schema_by_checksum(CustomWebhookNotificationBlock._calculate_schema_checksum())
    # The address often carries a token: it is kept among the secrets, which Prefect encrypts.
    data = {
        "name": NOTIFY_BLOCK, "url": "{{url}}", "method": "POST", "secrets": {"url": url},
        "json_data": {"text": "{{subject}}\n{{body}}"},
    }  # fmt: skip
    if there is not None:
        client.update_block_document(there.id, BlockDocumentUpdate(block_schema_id=schema.id, data=data))
        return there.id
    made = client.create_block_document(
        BlockDocumentCreate(name=NOTIFY_BLOCK, block_type_id=block_type.id, block_schema_id=schema.id, data=data)
    )
    return made.id
