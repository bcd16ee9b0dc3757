"""A Ray cluster of this machine alone, that outlives the runs which use it: command line, environment, and a knock."""

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

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
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
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
    }
    return command, environment


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
