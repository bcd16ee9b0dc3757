"""Live reports from a Ray process to the process that shows them."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray

Outcome = TypeVar("Outcome")
POLL_SECONDS = 0.5


class Mailbox:
    """Holds reports until they are fetched."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def put(self, report: dict[str, Any]) -> None:
        self.reports.append(report)

    def take(self) -> list[dict[str, Any]]:
        reports, self.reports = self.reports, []
        return reports


def watch(work: Callable[[Any], Outcome], show: Callable[[dict[str, Any]], None]) -> Outcome:
    """Run `work(mailbox)` in a thread and pass every report it (or a process of its) puts into the mailbox to `show`."""
    actor: Any = ray.remote(num_cpus=0)(Mailbox)
    mailbox = actor.remote()
    try:
        with ThreadPoolExecutor(max_workers=1) as executor:
            outcome = executor.submit(work, mailbox)
            while not outcome.done():
                time.sleep(POLL_SECONDS)
                for report in ray.get(mailbox.take.remote()):
                    show(report)
        for report in ray.get(mailbox.take.remote()):
            show(report)
        return outcome.result()
    finally:
        ray.kill(mailbox)
