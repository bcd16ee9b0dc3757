"""rerun-crashed: what the automation starts when a run crashed: the same run again, a bounded number of times."""

from typing import Annotated, Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_run_logger
from pydantic import Field

from flows.documented import documented

RERUN = "rerun:"
"""Tag of a rerun: how many crashed before it."""
ERASED = "[erased]"
"""What erase-identity leaves of a parameter that named a person."""


@flow(name="rerun-crashed", log_prints=True)
@documented
def rerun_crashed(
    flow_run_id: Annotated[UUID, Field(description="The run that crashed")],
    at_most: Annotated[int, Field(description="Reruns in a row; the next crash stays crashed", ge=0, le=20)] = 2,
) -> dict[str, Any]:
    """Run a crashed run again with the same parameters. Finished parts are found finished, so only the rest is done."""
    with get_client(sync_client=True) as client:
        crashed = client.read_flow_run(flow_run_id)
        reason = refusal(crashed, at_most)
        if reason is not None:
            get_run_logger().info("%s is not run again: %s", crashed.name, reason)
            return {"rerun": None, "reason": reason}
        again = run_again(client, crashed)
    get_run_logger().info("%s crashed and runs again as %s", crashed.name, again.name)
    return {"rerun": str(again.id), "reason": "crashed"}


def refusal(crashed: FlowRun, at_most: int) -> str | None:
    """Why a run is not run again; None where it is."""
    if crashed.parent_task_run_id is not None or crashed.deployment_id is None:
        return "it was no run of a deployment"
    if crashed.state is None or not crashed.state.is_crashed():
        return f"it is {crashed.state.name if crashed.state else 'unknown'} by now"
    if reruns(crashed) >= at_most:
        return f"it was the rerun number {reruns(crashed)}, and {at_most} are allowed"
    if ERASED in str(crashed.parameters):
        return "the person in its parameters was erased"
    return None


def reruns(run: FlowRun) -> int:
    """How many runs crashed before this one."""
    return max((int(tag.removeprefix(RERUN)) for tag in run.tags if tag.startswith(RERUN)), default=0)


def run_again(client: SyncPrefectClient, crashed: FlowRun) -> FlowRun:
    """The rerun of a crashed run; asked for twice it is one run."""
    assert crashed.deployment_id is not None
    number = reruns(crashed) + 1
    return client.create_flow_run_from_deployment(
        crashed.deployment_id,
        parameters=crashed.parameters,
        name=f"{crashed.name.partition(' again ')[0]} again {number}",
        tags=[*(tag for tag in crashed.tags if not tag.startswith(RERUN)), f"{RERUN}{number}"],
        idempotency_key=f"rerun of {crashed.id}",
        work_queue_name=crashed.work_queue_name,
        job_variables=crashed.job_variables,
    )
