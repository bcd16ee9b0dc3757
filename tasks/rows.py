"""The row boundary: whatever goes wrong with one input row becomes that row's status, and costs that row only.

Imported by every process of a stage, so it imports nothing heavy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from models.images import BadImage
from storage.errors import StoreUnavailable

OK = "ok"
DUPLICATES = ("duplicate",)
"""Statuses of rows that gave no sample although nothing is wrong with them; they do not count as failures."""


class RowFailed(ValueError):
    """One row cannot be used: `status` is one machine word, the message a sentence."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One input row of a unit."""

    key: str
    source: str
    """Where a person finds the original."""
    content_key: str
    """Digest of everything the row's output depends on; equal keys mean equal output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one row."""

    status: str
    reason: str = ""
    sample: Mapping[str, bytes] | None = None
    copied: bool = False
    """Taken from an earlier generation."""


class Earlier(Protocol):
    """Rows that were made before."""

    def get(self, content_key: str) -> Mapping[str, bytes] | None:
        """The sample of an unchanged row, None where there is none."""


class RowWorker(Protocol):
    """What a stage runs in its processes: it holds the models and makes rows one by one."""

    @property
    def earlier(self) -> Earlier: ...

    def rows(self, unit: Any) -> Sequence[Row]:
        """The rows of a unit, in the order of its shard; reads what they are made from."""

    def make(self, row: Row) -> Mapping[str, bytes]:
        """The sample of a row of the last unit. Raises RowFailed, BadImage, or anything else."""

    def complete(self, row: Row, sample: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Fills in what costs nothing and may have changed without the row's content key, in copied samples too."""


def attempt(worker: RowWorker, row: Row) -> Outcome:
    """Make one row.

    Raises:
        StoreUnavailable: says nothing about the row; the unit as a whole has to be tried again.
    """
    try:
        copy = worker.earlier.get(row.content_key)
        sample = worker.complete(row, worker.make(row) if copy is None else copy)
        return Outcome(status=OK, sample=sample, copied=copy is not None)
    except RowFailed as error:
        return Outcome(status=error.status, reason=str(error))
    except BadImage as error:
        return Outcome(status="corrupt", reason=str(error))
    except MemoryError:
        return Outcome(status="out_of_memory", reason=f"{row.source}: there was not enough memory to work on it")
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - the row boundary
        return Outcome(status="error", reason=f"{type(error).__name__}: {error}")
