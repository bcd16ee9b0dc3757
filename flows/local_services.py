"""Programs that run as long as the command that started them: started in order, watched, restarted, stopped."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

GRACE = 20.0
"""Seconds between SIGTERM and SIGKILL."""
RESTARTS = 5
"""Restarts of a service within RESTART_WINDOW; one that dies more often has a reason that a restart does not cure."""
RESTART_WINDOW = 600.0
PR_SET_PDEATHSIG = 1


class ServiceFailed(ValueError):
    """A service did not start, or died too often."""


@dataclass(kw_only=True, slots=True)
class Service:
    """One program: how it is started, when it counts as ready, and where it writes."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    log: Path
    alone: bool = True
    """Whether what it started must not outlive it; runs outlive their worker and finish."""
    ready_within: float = 300.0
    """Seconds; a busy machine with two cores has needed 60 for Prefect's server."""
    deaths: list[float] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None


class Services:
    """Runs services until the block ends; then stops them in the reverse order of their start."""

    def __init__(self) -> None:
        self.running: list[Service] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in reversed(self.running):
            _stop(service)

    def start(self, service: Service) -> None:
        """Returns when the service is ready.

        Raises:
            ServiceFailed: it ended, or was not ready in time; with the last line of its log.
        """
        _launch(service)
        self.running.append(service)
        end = time.monotonic() + service.ready_within
        while not service.ready():
            assert service.process is not None
            code = service.process.poll()
            if code is not None or time.monotonic() > end:
                how = (
                    f"ended with status {code}" if code is not None else f"was not ready in {service.ready_within:g} s"
                )
                raise ServiceFailed(f"{service.name} {how}; the end of {service.log}: {last_line(service.log)}")
            time.sleep(0.3)

    def look_after(self) -> list[str]:
        """Restart what died; names of what was restarted.

        Raises:
            ServiceFailed: it died too often.
        """
        restarted = []
        for service in self.running:
            if service.process is None or service.process.poll() is None:
                continue
            now = time.monotonic()
            service.deaths = [at for at in service.deaths if now - at < RESTART_WINDOW] + [now]
            if len(service.deaths) > RESTARTS:
                raise ServiceFailed(
                    f"{service.name} died {len(service.deaths)} times within {RESTART_WINDOW / 60:g} minutes; the end of "
                    f"{service.log}: {last_line(service.log)}"
                )
            if service.alone:
                _end_session(service)
            _launch(service)
            restarted.append(service.name)
        return restarted


def last_line(log: Path) -> str:
    """The last line of a log that says something, for an error sentence."""
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    )
    return lines[-1] if lines else "nothing"


def _launch(service: Service) -> None:
    service.log.parent.mkdir(parents=True, exist_ok=True)
    with service.log.open("ab") as log:
        service.process = subprocess.Popen(
            list(service.command), env={**os.environ, **service.environment}, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the command that watches, which then stops them in order
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip


def _stop(service: Service) -> None:
    process = service.process
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _end_session(service)


def _end_session(service: Service) -> None:
    """What a service started and did not stop itself shares its session."""
    assert service.process is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(service.process.pid, signal.SIGKILL)


def _end_with_parent() -> None:
    """Linux: a service is asked to stop when the command that watches it dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
