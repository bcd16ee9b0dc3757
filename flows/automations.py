"""What Prefect does by itself when something happens, as code: one function gives all automations of the project."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import (
    ActionTypes,
    ChangeFlowRunState,
    DoNothing,
    PauseWorkQueue,
    RunDeployment,
    SendNotification,
)
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from tasks.notices import DISK_FULL, DISK_LOW, EVALUATION_REGRESSION, QUARANTINE_HIGH

TAG = "instaface"
"""Tag of every deployment whose runs the automations look after."""
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended", "AwaitingRetry")
"""States after which no heartbeat is expected."""
WINDOW = timedelta(seconds=150)
"""Five heartbeats of 30 s: a server that is gone for two minutes blames no run."""
START_WINDOW = timedelta(minutes=15)
"""For pulling an image and importing torch; a submitted run whose worker died before that blocks its slot for ever."""
RERUNS = 2
"""Reruns of a crashed run, and of these, by automation; the next crash stays crashed."""
_NAMES = {
    "lost": "instaface: a run that lost its heartbeat has crashed",
    "stuck": "instaface: a run that does not start has crashed",
    "rerun": "instaface: a crashed run is run again",
    EVALUATION_REGRESSION: "instaface: an evaluation is worse than its baseline",
    QUARANTINE_HIGH: "instaface: a dataset has many rows in quarantine",
    DISK_LOW: "instaface: a disk is filling up",
    DISK_FULL: "instaface: a disk is full, no new runs",
}


def automations(
    *,
    rerun_deployment: UUID,
    working_queues: Sequence[UUID],
    notification_block: UUID | None,
    window: timedelta = WINDOW,
) -> list[AutomationCore]:
    """All automations. Without a notification block what happened is left to the event feed of the UI.

    `working_queues` fill disks and stop when one is full; erasures, which free space, go on.

    Raises:
        ValueError: `window` has no room for two heartbeats of 30 s, the shortest that Prefect sends.
    """
    if window < timedelta(seconds=60):
        raise ValueError(
            f"a heartbeat window of {window.total_seconds():g} s is too short: Prefect beats every 30 s, 60 is the least"
        )
    told = [
        AutomationCore(
            name=_NAMES[event],
            description=f"Event {event}.",
            tags=[TAG],
            trigger=EventTrigger(expect={event}, posture=Posture.Reactive, threshold=1),
            actions=actions,
        )
        for event, actions in (
            (EVALUATION_REGRESSION, [_tell(notification_block)]),
            (QUARANTINE_HIGH, [_tell(notification_block)]),
            (DISK_LOW, [_tell(notification_block)]),
            (
                DISK_FULL,
                [*(PauseWorkQueue(source="selected", work_queue_id=queue) for queue in working_queues), _tell(notification_block)],
            ),
        )
    ]
    return [_lost_heartbeat(window), _never_started(), _rerun(rerun_deployment), *told]


_RUNS = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
_OF_THE_PROJECT = ResourceSpecification({"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"})


def _lost_heartbeat(window: timedelta) -> AutomationCore:
    return AutomationCore(
        name=_NAMES["lost"],
        description=f"No heartbeat for {window.total_seconds():g} s: its process, or the machine with its worker, is gone.",
        tags=[TAG],
        trigger=EventTrigger(
            match=_RUNS,
            match_related=_OF_THE_PROJECT,
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ENDS)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=window,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                force=False,
                message=f"No heartbeat for {window.total_seconds():g} s",
            )
        ],
    )


def _never_started() -> AutomationCore:
    minutes = START_WINDOW.total_seconds() / 60
    return AutomationCore(
        name=_NAMES["stuck"],
        description=f"Submitted {minutes:g} minutes ago and not running: its worker is gone.",
        tags=[TAG],
        trigger=EventTrigger(
            match=_RUNS,
            match_related=_OF_THE_PROJECT,
            after={"prefect.flow-run.Pending", "prefect.flow-run.Submitting"},
            expect={"prefect.flow-run.Running", *(f"prefect.flow-run.{state}" for state in ENDS)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=START_WINDOW,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", force=False, message=f"Not started for {minutes:g} minutes"
            )
        ],
    )


def _rerun(deployment: UUID) -> AutomationCore:
    return AutomationCore(
        name=_NAMES["rerun"],
        description=f"With the same parameters, at most {RERUNS} times in a row; rerun-crashed decides.",
        tags=[TAG],
        trigger=EventTrigger(
            match=_RUNS,
            match_related=_OF_THE_PROJECT,
            expect={"prefect.flow-run.Crashed"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                job_variables=None,
                parameters={
                    "flow_run_id": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"},
                    "at_most": RERUNS,
                },
            )
        ],
    )


def _tell(block: UUID | None) -> ActionTypes:
    if block is None:
        return DoNothing()
    return SendNotification(
        block_document_id=block,
        subject="InstaFace: {{ event.event }}",
        body="{{ event.resource['prefect.resource.name'] }}: {{ event.payload.sentence }}",
    )


def register(client: SyncPrefectClient, wanted: list[AutomationCore]) -> int:
    """Create or update automations by their names; returns how many were new."""
    new = 0
    for automation in wanted:
        there = client.read_automations_by_name(name=automation.name)
        if there:
            client.update_automation(there[0].id, automation)
            for double in there[1:]:
                client.delete_automation(double.id)
        else:
            client.create_automation(automation)
            new += 1
    return new
