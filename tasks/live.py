"""Live reports from a Ray process to the process that shows them."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray

Outcome = TypeVar("Outcome")
POLL_SECONDS = 0.5


class Mailbox:
    """Holds reports until they are fetched, and the wish to stop until it is asked for."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def stopping(self) -> bool:
        return self.stopped

    def put(self, report: dict[str, Any]) -> None:
        self.reports.append(report)

    def take(self) -> list[dict[str, Any]]:
        reports, self.reports = self.reports, []
        return reports


class StopWish:
    """Whether the mailbox's `stop` was called, without waiting for the answer: asked anew as soon as one arrives."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._answer = mailbox.stopping.remote()

    def __call__(self) -> bool:
        ready, _ = ray.wait([self._answer], timeout=0)
        if not ready:
            return False
        stopped = bool(ray.get(self._answer))
        self._answer = self._mailbox.stopping.remote()
        return stopped


def watch(
    work: Callable[[Any], Outcome],
    show: Callable[[dict[str, Any]], None],
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run `work(mailbox)` in a thread and pass every report it (or a process of its) puts into the mailbox to `show`.

    Once `stopping()` is true, the mailbox says so to whoever asks it.
    """
    actor: Any = ray.remote(num_cpus=0)(Mailbox)
    mailbox = actor.remote()
    try:
        with ThreadPoolExecutor(max_workers=1) as executor:
            outcome = executor.submit(work, mailbox)
            while not outcome.done():
                time.sleep(POLL_SECONDS)
                if stopping():
                    mailbox.stop.remote()
                for report in ray.get(mailbox.take.remote()):
                    show(report)
        for report in ray.get(mailbox.take.remote()):
            show(report)
        return outcome.result()
    finally:
        ray.kill(mailbox)
