"""Run a flow in this process, without a Prefect server of one's own."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

FLOWS = (
    "preprocess-ffhq",
    "redrive-quarantine",
    "train-stage1",
    "finetune-identity",
    "edit-identity",
    "erase-identity",
    "evaluate",
)


def run_here(flow_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a flow returns, for the parameters of its deployment.

    Raises:
        ValueError: there is no such flow, or (as pydantic's ValidationError and Prefect's ParameterTypeError) it has no such
            parameters.
    """
    if flow_name not in FLOWS:
        raise ValueError(f"there is no flow {flow_name!r}: choose one of {', '.join(FLOWS)}")
    quiet_services()
    module = flow_name.replace("-", "_")
    flow = getattr(import_module(f"flows.{module}"), module)
    given = _absolute(parameters)
    flow.validate_parameters(dict(given))  # before a server is started for a run that cannot be
    result: dict[str, Any] = flow(**given)
    return result


def _absolute(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in which a photograph is named as an erasure finds it again, from whatever folder that is asked for."""
    from tasks.image_uri import absolute_uri, check_image_uri

    uri = parameters.get("image_uri")
    if not isinstance(uri, str):
        return dict(parameters)
    check_image_uri(uri)  # what is wrong is said of the address as it was given
    return {**parameters, "image_uri": absolute_uri(uri)}


def quiet_services() -> None:
    """Defaults of a local run: Prefect keeps its database in this checkout, and nobody phones home."""
    if "PREFECT_API_URL" not in os.environ:
        home = Path(os.environ.setdefault("PREFECT_HOME", str(Path(".instaface/prefect").resolve())))
        home.mkdir(parents=True, exist_ok=True)
        # Prefect's own 20 s are too few on a busy laptop.
        os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # The terminal has progress bars; Prefect's log lines stay in its database and its UI.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
