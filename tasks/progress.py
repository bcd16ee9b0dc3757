"""Live progress of a stage: a bar in the terminal, a progress and a table artifact in the Prefect UI."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from storage.manifest import StatusRow
from tasks.reachable import if_reachable
from tasks.run_log import say

console = Console(stderr=True, highlight=False)
# An artifact update is a request to the server; the terminal is redrawn more often.
ARTIFACT_SECONDS = 2.0
# Every table is a new version of its artifact.
TABLE_SECONDS = 30.0


def in_prefect_run() -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


class StageProgress:
    """Counts rows of one stage and shows them; use as a context manager."""

    def __init__(self, stage: str, *, total: int, unit: str = "rows") -> None:
        self.stage = stage
        self.total = total
        self.unit = unit
        self.counts: Counter[str] = Counter()
        self.done = 0
        self.note = ""
        self.parts: Counter[str] = Counter()
        """Seconds of all actors together, by what they went into."""
        self._settled: Counter[str] = Counter()
        self._underway: dict[int, Counter[str]] = {}
        self._inherited = 0
        self._table_at = time.monotonic()
        self._started = time.monotonic()
        self._artifact: UUID | None = None
        self._artifact_at = 0.0
        self._bar = Progress(
            TextColumn("[bold]{task.description:>9}"), BarColumn(bar_width=28), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
        )  # fmt: skip
        self._line: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        say(self.stage, "started", total=self.total, unit=self.unit)
        self._line = self._bar.add_task(self.stage, total=self.total, note="starting")
        if in_prefect_run():
            identifier = if_reachable(
                create_progress_artifact, progress=0.0, key=f"progress-{self.stage}", description=self.stage
            )
            self._artifact = identifier if isinstance(identifier, UUID) else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(force=True)
        self._bar.stop()
        how = "finished" if kind is None else f"ended by {kind.__name__}"
        say(self.stage, how, done=self.done, seconds=round(self.seconds, 2), note=self.note or None)
        if in_prefect_run() and self.counts.total():
            if_reachable(
                create_table_artifact,
                table=[{"status": status, "rows": n} for status, n in sorted(self.counts.items())],
                key=f"rows-{self.stage}",
                description=f"{self.stage}: {self.done} of {self.total} {self.unit}, {self.seconds:.1f} s",
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def advance(self, rows: Iterable[StatusRow], *, unit: int | None = None) -> None:
        """Count finished rows by their status; rows without a unit were finished by an earlier run."""
        before = self._settled.total()
        self._settled.update(row.status for row in rows)
        if unit is None:
            self._inherited += self._settled.total() - before
        else:
            self._underway.pop(unit, None)
        self._recount()

    def watch(self, report: Mapping[str, Any]) -> None:
        """Take a report of a unit: {"unit", "statuses": rows by status so far, "seconds": by part, at its end}."""
        if report["seconds"] is None:
            self._underway[report["unit"]] = Counter(report["statuses"])
        else:
            self.parts.update(report["seconds"])
        self._recount()

    def _recount(self) -> None:
        self.counts = self._settled + sum(self._underway.values(), Counter())
        self.done = self.counts.total()
        self.note = self._summary()
        self._show()

    def _summary(self) -> str:
        """ "12.3/s, 98.5 % ok, 3 no_face"."""
        done_now = self.done - self._inherited
        parts = [f"{done_now / self.seconds:.1f}/s"] if done_now and self.seconds > 0 else []
        if self.done:
            parts.append(f"{self.counts['ok'] / self.done:.1%} ok")
        return ", ".join([*parts, *filter(None, [self._reasons()])])

    def table(self) -> list[dict[str, Any]]:
        """One line: how far, how fast, how long still, how good."""
        done_now = self.done - self._inherited
        rate = done_now / self.seconds if self.seconds > 0 else 0.0
        return [
            {
                "stage": self.stage,
                "done": self.done,
                "of": self.total,
                f"{self.unit}/s": round(rate, 2),
                "seconds left": round((self.total - self.done) / rate) if rate else None,
                "ok": f"{self.counts['ok'] / max(self.done, 1):.1%}",
                "top reasons": self._reasons(),
            }
        ]

    def step(self, done: int, note: str = "") -> None:
        """Set the position of work that has steps instead of rows."""
        self.done, self.note = done, note
        self._show()

    def reused(self, counts: Mapping[str, int]) -> None:
        """Everything was finished before."""
        self._settled.update(counts)
        self.counts = Counter(counts)
        self.done = self.total
        self.note = "finished before, nothing redone"
        self._show(force=True)

    def _reasons(self) -> str:
        bad = [(n, status) for status, n in self.counts.items() if status != "ok"]
        return ", ".join(f"{n} {status}" for n, status in sorted(bad, reverse=True)[:3])

    def _show(self, *, force: bool = False) -> None:
        if self._line is not None:
            self._bar.update(self._line, completed=self.done, note=self.note)
        now = time.monotonic()
        if self._artifact is not None and (force or now - self._artifact_at >= ARTIFACT_SECONDS):
            self._artifact_at = now
            share = 100.0 * self.done / max(self.total, 1)
            description = f"{self.stage}: {self.note or self.done}"
            if_reachable(update_progress_artifact, self._artifact, progress=share, description=description)
        if self._artifact is not None and now - self._table_at >= TABLE_SECONDS:
            self._table_at = now
            description = f"{self.stage}: so far"
            if_reachable(create_table_artifact, table=self.table(), key=f"live-{self.stage}", description=description)
