"""prefect.yaml against the flows: names, documented parameters, queues. What runs is tested in tests/operations."""

import importlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Crashed
from prefect.utilities.callables import parameter_schema

from flows.automations import RERUNS, automations
from flows.rerun_crashed import ERASED, refusal
from flows.run_here import FLOWS

ROOT = Path(__file__).resolve().parents[2]
DESCRIBED: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
UPKEEP = ("rerun-crashed",)
"""Deployments that automations start and nobody else."""


def test_every_flow_has_a_deployment_of_its_name() -> None:
    assert {one["name"] for one in DESCRIBED["deployments"]} == {*FLOWS, *UPKEEP}
    for one in DESCRIBED["deployments"]:
        module, function = one["entrypoint"].rsplit(".", 1)
        assert one["name"] == function.replace("_", "-") == module.split(".")[1].replace("_", "-")
        assert one["description"].strip()
        assert one["tags"]


@pytest.mark.parametrize("entrypoint", [one["entrypoint"] for one in DESCRIBED["deployments"]])
def test_every_parameter_is_documented_and_typed(entrypoint: str) -> None:
    module, function = entrypoint.rsplit(".", 1)
    flow = getattr(importlib.import_module(module), function)
    for name, schema in parameter_schema(flow.fn).properties.items():
        assert len(schema.get("description", "")) > 10, (
            f"{entrypoint}({name}) has no description for the form in the UI"
        )
        assert {"type", "anyOf", "enum", "$ref", "allOf"} & set(schema), f"{entrypoint}({name}) has no type"


def test_gpu_work_shares_a_queue_and_reruns_wait_for_none_of_it() -> None:
    queues = {one["name"]: one["work_pool"]["work_queue_name"] for one in DESCRIBED["deployments"]}
    assert {name for name, queue in queues.items() if queue == "gpu"} == {
        "train-stage1",
        "finetune-identity",
        "edit-identity",
    }
    assert queues["rerun-crashed"] == queues["erase-identity"] == "upkeep"


def test_there_are_job_variables_for_every_kind_of_pool_and_no_secrets() -> None:
    assert set(DESCRIBED["definitions"]["job_variables"]) == {"process", "docker", "kubernetes"}
    text = (ROOT / "prefect.yaml").read_text().upper()
    assert not [word for word in ("AWS_", "PASSWORD", "API_KEY", "TOKEN") if word in text]


def test_a_heartbeat_window_has_room_for_two_heartbeats() -> None:
    options = {"rerun_deployment": uuid4(), "working_queues": [uuid4()], "notification_block": None}
    assert len({one.name for one in automations(**options)}) == 7
    with pytest.raises(ValueError, match="60 is the least"):
        automations(**options, window=timedelta(seconds=59))


def crashed(**changes: Any) -> FlowRun:
    facts = {"flow_id": uuid4(), "deployment_id": uuid4(), "state": Crashed(), "parameters": {"identity_id": "ada"}}
    return FlowRun.model_validate({**facts, **changes})


def test_a_crashed_run_is_run_again_a_bounded_number_of_times() -> None:
    assert refusal(crashed(), RERUNS) is None
    assert refusal(crashed(tags=["gpu", f"rerun:{RERUNS - 1}"]), RERUNS) is None
    assert "are allowed" in str(refusal(crashed(tags=[f"rerun:{RERUNS}"]), RERUNS))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"deployment_id": None}, "no run of a deployment"),
        ({"parent_task_run_id": uuid4()}, "no run of a deployment"),
        ({"state": Completed()}, "Completed by now"),
        ({"parameters": {"identity_id": ERASED}}, "was erased"),
    ],
)
def test_some_crashed_runs_are_left_alone(changes: dict[str, Any], reason: str) -> None:
    assert reason in str(refusal(crashed(**changes), RERUNS))
