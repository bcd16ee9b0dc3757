"""A Ray cluster of this machine alone, that outlives the runs which use it: command line, environment, and a knock.

`python -m tasks.local_ray start --head …` is `ray start --head …` without what `without_reporter` leaves out.
"""

import functools
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray._private.services

HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 256 << 20
"""Shards travel through the store of the project, not through Ray's."""


def ray_head(port: int, folder: Path, *, dashboard_port: int | None = None) -> tuple[list[str], Mapping[str, str]]:
    """The command that runs a head node in the foreground, and the environment of whoever connects to it.

    A token in `folder` (made once, readable by its owner) keeps other users of the machine out: Ray runs any code it is
    handed, and parts of it listen on all addresses.
    """
    token = folder / "token"
    if not token.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    command = [
        *(sys.executable, "-m", "tasks.local_ray", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--node-ip-address={HOST}", f"--port={port}", f"--num-cpus={max(2, os.cpu_count() or 2)}"),
        # Ports of its workers as the system gives them: Ray's own range is where the S3 server looks for its ports.
        *("--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        f"--include-dashboard={'true' if dashboard_port else 'false'}",
        *((f"--dashboard-host={HOST}", f"--dashboard-port={dashboard_port}") if dashboard_port else ()),
    ]
    environment = {
        "RAY_ADDRESS": f"{HOST}:{port}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token.resolve()),
        "RAY_USAGE_STATS_ENABLED": "0",
        # With a dashboard the reporter is there: it then tells nobody.
        "RAY_USAGE_STATS_REPORT_URL": f"http://{HOST}:9/",
    }
    return command, environment


def without_reporter() -> None:
    """Let Ray, in this process, start no process for usage statistics.

    Where they are switched off, Ray 2.60 still has one, beside every head without a dashboard, which asks the metadata
    services of three clouds where it is, and tells usage-stats.ray.io that there is nothing to tell.
    """
    original = ray._private.services.start_api_server
    if getattr(original, "__wrapped__", None) is not None:
        return

    @functools.wraps(original)
    def start(include_dashboard: bool | None, *arguments: Any, **named: Any) -> tuple[str | None, Any]:
        found: tuple[str | None, Any] = (None, None)
        if include_dashboard:
            found = original(include_dashboard, *arguments, **named)
        return found

    ray._private.services.start_api_server = start


def answers(port: int) -> bool:
    """Whether something on this machine accepts connections at a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def is_free(port: int) -> bool:
    """Whether a server could listen at a port of this machine; one whose last connection still fades counts as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    from ray.scripts.scripts import main

    without_reporter()
    sys.exit(main())
