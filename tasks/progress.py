"""Live progress of a stage: a bar in the terminal, a progress and a table artifact in the Prefect UI."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self
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

console = Console(stderr=True, highlight=False)
# An artifact update is a request to the server; the terminal is redrawn more often.
ARTIFACT_SECONDS = 2.0


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
        self._line = self._bar.add_task(self.stage, total=self.total, note="starting")
        if in_prefect_run():
            identifier = create_progress_artifact(progress=0.0, key=f"progress-{self.stage}", description=self.stage)
            self._artifact = identifier if isinstance(identifier, UUID) else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(force=True)
        self._bar.stop()
        if in_prefect_run() and self.counts:
            create_table_artifact(
                table=[{"status": status, "rows": n} for status, n in sorted(self.counts.items())],
                key=f"rows-{self.stage}",
                description=f"{self.stage}: {self.done} of {self.total} {self.unit}, {self.seconds:.1f} s",
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def advance(self, rows: Iterable[StatusRow]) -> None:
        """Count finished rows by their status."""
        for row in rows:
            self.counts[row.status] += 1
            self.done += 1
        self.note = self._reasons()
        self._show()

    def step(self, done: int, note: str = "") -> None:
        """Set the position of work that has steps instead of rows."""
        self.done, self.note = done, note
        self._show()

    def reused(self, counts: Mapping[str, int]) -> None:
        """Everything was finished before."""
        self.counts.update(counts)
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
            update_progress_artifact(
                self._artifact, progress=share, description=f"{self.stage}: {self.note or self.done}"
            )
