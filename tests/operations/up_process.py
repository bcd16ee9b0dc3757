"""`instaface up` as a user starts it, in a folder of its own, with what a test needs to look at and to break."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

OUTSIDE = Path(__file__).with_name("outside")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = float(os.environ.get("INSTAFACE_TEST_PATIENCE", "1"))
"""Factor on every time limit, for a machine that does something else as well."""
WINDOW = 60
"""Seconds without a heartbeat: the least that `up` takes."""
TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_low_port() -> int:
    """Below the ports that the kernel lends, so that none of them is lent before the server listens."""
    for port in range(7000 + os.getpid() % 1000, 10000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Up:
    """A running `instaface up`."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self.port, self.ray_port = home, free_low_port(), free_port()
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "AWS_", "INSTAFACE_", "RAY_"))
        }
        self.environment = {
            **inherited, "COLUMNS": "200", "INSTAFACE_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{OUTSIDE}{os.pathsep}{ROOT}", "INSTAFACE_OUTSIDE_LOG": str(home / "outside.log"), **environment,
        }  # fmt: skip
        (home / "outside").touch()  # older than everything that it starts
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def said(self) -> str:
        return (self.home / "up.log").read_text()

    def start(self, window: int = WINDOW) -> None:
        command = [
            *(sys.executable, "-m", "flows.cli", "up", "--port", str(self.port), "--ray-port", str(self.ray_port)),
            *("--heartbeat-window", str(window)),
        ]
        with (self.home / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.home, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.until(lambda: "Ctrl-C stops everything" in self.said, 300)

    def stop(self) -> int:
        """Ctrl-C's sibling; returns the exit status when everything has gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(180 * PATIENCE)

    def kill(self) -> None:
        """For a test that failed."""
        if self.process is not None and self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for child in children:
                if child.is_running():
                    child.kill()

    def until(self, true: Callable[[], Any], within: float) -> Any:
        """The first true value."""
        end = time.monotonic() + within * PATIENCE
        while True:
            assert self.process is None or self.process.poll() is None, self.said
            if value := true():
                return value
            assert time.monotonic() < end, f"not within {within} s; {self.said[-2000:]}\n{self.log('worker')[-3000:]}"
            time.sleep(0.5)

    def log(self, name: str) -> str:
        file = self.home / ".instaface" / "logs" / f"{name}.log"
        return file.read_text() if file.exists() else ""

    def command(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of a user who was told about the server."""
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=self.home, capture_output=True, text=True, timeout=400 * PATIENCE, check=False,
            env={**self.environment, "PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.home / "client"), **environment},
        )  # fmt: skip

    def ask(self, path: str, body: Any = None) -> Any:
        """One request to Prefect's API; where its database is busy (503), again, as Prefect's own client does."""
        request = urllib.request.Request(
            f"{self.api}{path}", data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        for _ in range(5):
            try:
                with urllib.request.urlopen(request, timeout=60 * PATIENCE) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                time.sleep(2)
        raise AssertionError(f"{path}: the server was not available five times")

    def submit(self, flow: str, **parameters: Any) -> str:
        deployment = self.ask(f"/deployments/name/{flow}/{flow}")["id"]
        body = {
            "parameters": {"preset": "debug", **parameters}, "state": {"type": "SCHEDULED"},
            "idempotency_key": str(uuid.uuid4()),  # asked again, it is still one run
        }  # fmt: skip
        return str(self.ask(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/flow_runs/{run}")
        return found

    def state(self, run: str) -> str:
        return str(self.run(run)["state_type"])

    def ended(self, run: str, within: float = 240) -> str:
        """The state in which a run ended."""
        return str(self.until(lambda: state if (state := self.state(run)) in TERMINAL else None, within))

    def reruns_of(self, run: str) -> list[dict[str, Any]]:
        name = f"{self.run(run)['name']} again 1"
        found: list[dict[str, Any]] = self.ask("/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return found

    def at_work(self, run: str, task: str, within: float = 240) -> None:
        """Returns when a task of a run is running."""
        query = {"flow_runs": {"id": {"any_": [run]}}}

        def running() -> bool:
            assert self.state(run) not in TERMINAL, self.log("worker")[-3000:]
            tasks = self.ask("/task_runs/filter", query)
            return any(one["name"].startswith(task) and one["state_type"] == "RUNNING" for one in tasks)

        self.until(running, within)

    def processes(self) -> Iterator[psutil.Process]:
        """Every process that works for this `up`, wherever its parent is."""
        mark = str(self.home / "outside.log")
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("INSTAFACE_OUTSIDE_LOG") == mark:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue

    def find(self, *words: str, run: str | None = None) -> list[psutil.Process]:
        """Processes whose command line has all words; with `run` that of one flow run."""
        found = []
        for process in self.processes():
            try:
                line = " ".join(process.cmdline())
                mine = run is None or process.environ().get("PREFECT__FLOW_RUN_ID") == run
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            if mine and all(word in line for word in words):
                found.append(process)
        return found


def kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL, and wait until they are gone."""
    assert processes
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=20)
