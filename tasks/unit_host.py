"""One unit of work, guarded: the rows are made in a process of their own, and the host survives whatever they do.

A row that hangs is stopped after `row_seconds` (`timeout`), one that takes more than `row_memory` is stopped
(`out_of_memory`), one whose process dies is tried once more in a fresh process and then given up (`crash`). What the
other rows of the unit gave is kept. A host that is killed itself blames no row: Ray starts the unit again.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from storage.canonical import canonical_json, sha256_of
from storage.manifest import StatusRow
from storage.shards import Sample, ShardEntry
from storage.stores import Store, open_store
from storage.units import Unit, decide_unit, read_unit, write_unit_shard
from tasks.rows import OK, Outcome, Row
from tasks.run_log import say

START_SECONDS = 900.0
"""For loading models and reading a shard; nothing but a hanging file system takes so long."""
REPORT_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLimits:
    """What one row may cost. Limits change no good row, so they are part of no digest."""

    row_seconds: float = 60.0
    """Wall-clock time of a row; a photograph takes well below a second."""
    row_memory: int = 4 << 30
    """Bytes that the process may grow by during one row."""
    crashes: int = 2
    """Processes that a row may bring down before it is given up."""

    def __post_init__(self) -> None:
        if self.row_seconds <= 0 or self.row_memory < 1 << 20 or self.crashes < 1:
            raise ValueError(
                f"row_seconds={self.row_seconds}, row_memory={self.row_memory}, crashes={self.crashes}: "
                "a row needs some time, at least 1 MiB, and one try"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedUnit:
    """A unit on its way to its host, which need not import what the unit is made of."""

    index: int
    label: str
    payload: bytes

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSettings:
    stage: str
    home: str
    fields: tuple[str, ...]
    worker: bytes
    """cloudpickle of what builds the RowWorker."""
    limits: RowLimits
    attempt: int = 1


class RowStopped(RuntimeError):
    """The process had to be stopped, or died."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


Report = Callable[[Mapping[str, Any]], None]


class UnitHost:
    """Does units, one after another; holds the process that holds the models."""

    def __init__(self, settings: HostSettings, report: Report | None = None) -> None:
        self.settings = settings
        self.report = report
        self.home = open_store(settings.home)
        self.process_of_rows: RowProcess | None = None

    def process(self, unit: PackedUnit) -> Unit:
        """The decided unit. Raises what the worker raises outside of rows, and RowStopped where it cannot even start."""
        decided = read_unit(self.home, unit.index)
        if decided is not None:
            return decided
        clock = [time.monotonic()]
        rows = self._rows(unit)
        clock.append(time.monotonic())
        outcomes: list[Outcome] = []
        entry = write_unit_shard(self.home, unit.index, self._samples(unit, rows, outcomes), self.settings.fields)
        clock.append(time.monotonic())
        result = decide_rows(self.home, self.settings, unit.index, entry, list(zip(rows, outcomes, strict=True)))
        clock.append(time.monotonic())
        names = ("load", "rows", "commit")
        self._tell(unit, outcomes, {name: clock[n + 1] - clock[n] for n, name in enumerate(names)})
        statuses = Counter(outcome.status for outcome in outcomes)
        seconds = round(clock[-1] - clock[0], 2)
        say(self.settings.stage, "unit finished", shard=unit.index, rows=len(rows), **statuses, seconds=seconds)
        return result

    def _samples(self, unit: PackedUnit, rows: Sequence[Row], outcomes: list[Outcome]) -> Iterator[Sample]:
        """The good rows one after another, so that a unit never lies in memory as a whole; fills `outcomes`."""
        told = time.monotonic()
        for number, row in enumerate(rows):
            outcome = self._outcome(unit, number, row)
            outcomes.append(replace(outcome, sample=None))
            if outcome.sample is not None:
                yield row.key, outcome.sample
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                self._tell(unit, outcomes)

    def _tell(self, unit: PackedUnit, outcomes: Sequence[Outcome], seconds: Mapping[str, float] | None = None) -> None:
        if self.report is not None:
            statuses = dict(Counter(outcome.status for outcome in outcomes))
            self.report({"unit": unit.index, "statuses": statuses, "seconds": seconds})

    def _outcome(self, unit: PackedUnit, number: int, row: Row) -> Outcome:
        reason = ""
        for _ in range(self.settings.limits.crashes):
            if self.process_of_rows is None:
                self._rows(unit)
            assert self.process_of_rows is not None
            try:
                outcome = self.process_of_rows.ask(("row", number), self.settings.limits)
                assert isinstance(outcome, Outcome)
                return outcome
            except RowStopped as error:
                self.process_of_rows = None
                say(self.settings.stage, str(error), shard=unit.index, level=logging.WARNING, row=number)
                if error.status != "crash":
                    return Outcome(status=error.status, reason=f"{row.source}: {error}")
                reason = (
                    f"{row.source}: {error}, {self.settings.limits.crashes} times of {self.settings.limits.crashes}"
                )
        return Outcome(status="crash", reason=reason)

    def _rows(self, unit: PackedUnit) -> Sequence[Row]:
        """The rows of the unit, from a process that is ready to make them."""
        limits = RowLimits(row_seconds=START_SECONDS, row_memory=1 << 50)
        for last in (False, True):
            self.process_of_rows = self.process_of_rows or RowProcess(self.settings.worker)
            try:
                rows: Sequence[Row] = self.process_of_rows.ask(("unit", unit.payload), limits)
                return rows
            except RowStopped:
                self.process_of_rows = None
                if last:
                    raise
        raise AssertionError("unreachable")


class RowProcess:
    """A child process with its models, and the socket to it."""

    def __init__(self, worker: bytes) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "tasks.row_process", str(theirs.fileno())]
        with theirs:
            self._child = subprocess.Popen(command, pass_fds=(theirs.fileno(),), env=environment)
        self._connection = Connection(ours.detach())
        try:
            self._connection.send_bytes(worker)
        except ConnectionError:
            raise self._died() from None

    def ask(self, request: tuple[str, Any], limits: RowLimits) -> Any:
        """The answer. Raises RowStopped (the process is gone then), or what the worker raised."""
        started, memory = time.monotonic(), self._resident()
        try:
            self._connection.send(request)
            while not self._connection.poll(_LOOK_SECONDS):
                if time.monotonic() - started > limits.row_seconds:
                    raise self._stopped("timeout", f"it took more than {limits.row_seconds:g} s and was stopped")
                if self._resident() - memory > limits.row_memory:
                    grown = limits.row_memory / 2**20
                    raise self._stopped("out_of_memory", f"it took more than {grown:.0f} MiB of memory and was stopped")
            kind, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise self._died() from None
        if kind == "raised":
            raise answer
        return answer

    def _stopped(self, status: str, reason: str) -> RowStopped:
        self._child.kill()
        self._died()
        return RowStopped(status, reason)

    def _died(self) -> RowStopped:
        self._connection.close()
        code = self._child.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return RowStopped("crash", f"the process that worked on it ended with {how}")

    def _resident(self) -> int:
        """Bytes of memory that the child holds of its own, mapped files not counted; 0 where the system does not tell."""
        try:
            _, resident, shared = (int(n) for n in Path(f"/proc/{self._child.pid}/statm").read_text().split()[:3])
        except (OSError, ValueError):
            return 0
        return (resident - shared) * _PAGE


def decide_rows(
    home: Store, settings: HostSettings, index: int, entry: ShardEntry | None, made: Sequence[tuple[Row, Outcome]]
) -> Unit:
    """Failed rows become the unit's quarantine, all of them its status."""
    status = [
        StatusRow(
            key=row.key, source=row.source, status=outcome.status, reason=outcome.reason, stage=settings.stage,
            attempt=1 if outcome.copied else settings.attempt, content_key=row.content_key,
        )
        for row, outcome in made
    ]  # fmt: skip
    failed = [row for row in status if row.status != OK]
    if failed:
        lines = b"\n".join(canonical_json(asdict(row)) for row in failed) + b"\n"
        home.create(f"quarantine/{index:06d}-{sha256_of(lines)[:16]}.jsonl", lines)
    return decide_unit(home, index, entry, {row.key for row in status if row.status == OK}, status)
