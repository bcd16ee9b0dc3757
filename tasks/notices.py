"""Events that automations listen for: what a person should hear of although no run failed."""

import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.events import emit_event

EVALUATION_REGRESSION = "instaface.evaluation.regression"
QUARANTINE_HIGH = "instaface.quarantine.high"
DISK_LOW = "instaface.disk.low"
DISK_FULL = "instaface.disk.full"
QUARANTINE_SHARE = 0.1
"""Share of a stage's rows in quarantine above which somebody should look."""
LOW_BYTES = 5 << 30
"""Free space below which somebody should look; runs are refused below tasks.workspace.MIN_FREE_BYTES."""


def tell(event: str, name: str, sentence: str, **facts: Any) -> None:
    """Emit an event about the resource `name`; `sentence` is what a notification says.

    Without a Prefect server to tell it to, and when the server cannot be reached, nothing happens.
    """
    emit_event(
        event, {"prefect.resource.id": event.rpartition(".")[0] + f".{name}", "prefect.resource.name": name},
        payload={"sentence": sentence, **facts},
    )  # fmt: skip


def tell_quarantine(stage: str, uri: str, counts: Mapping[str, int], *, share: float = QUARANTINE_SHARE) -> bool:
    """Say so where more than `share` of a stage's rows failed; `counts` are rows by status."""
    total, bad = sum(counts.values()), sum(n for status, n in counts.items() if status != "ok")
    if not total or bad / total <= share:
        return False
    reasons = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if status != "ok")
    tell(
        QUARANTINE_HIGH,
        stage,
        f"{bad} of {total} rows of {uri} cannot be used ({reasons})",
        uri=uri,
        counts=dict(counts),
    )
    return True


def tell_disk(folder: Path, *, low: int = LOW_BYTES, full: int, unless: str | None = None) -> str | None:
    """Say so where the disk below `folder` has less than `low` or `full` bytes free; returns the event.

    `unless` is the event that was told last: nobody wants to hear it every minute.
    """
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free >= low:
        return None
    event = DISK_FULL if free < full else DISK_LOW
    if event != unless:
        tell(
            event,
            socket.gethostname(),
            f"{existing} has {free / 2**30:.1f} GiB free",
            folder=str(existing),
            free_bytes=free,
        )
    return event
