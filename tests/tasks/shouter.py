"""A worker for tests of what surrounds rows: it upper-cases words, and fails in each of the ways a row can fail."""

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.canonical import digest_of
from tasks.earlier_rows import EarlierRows
from tasks.rows import Row, RowFailed

FIELDS = ("word.txt",)


@dataclass(frozen=True)
class Words:
    index: int
    words: tuple[str, ...]


class Shouter:
    """Leaves a trace of every word it computes; words say by their first syllable what goes wrong with them."""

    def __init__(self, trace: str, earlier: tuple[str, ...]) -> None:
        self.trace, self.earlier = Path(trace), EarlierRows(earlier, FIELDS)

    def rows(self, unit: Words) -> list[Row]:
        if unit.index == 1 and self.trace.with_suffix(".fail").exists():
            raise LookupError("the whole unit")
        return [Row(key=word, source=f"list/{word}", content_key=digest_of([word, "v1"])) for word in unit.words]

    def make(self, row: Row) -> Mapping[str, bytes]:
        with self.trace.open("a") as file:
            file.write(f"{row.key}\n")
        if row.key.startswith("bad"):
            raise RowFailed("refused", f"{row.key} cannot be shouted")
        if row.key.startswith("boom"):
            raise ZeroDivisionError("an error nobody foresaw")
        if row.key.startswith("hang"):
            time.sleep(1000)
        if row.key.startswith("segfault"):
            ctypes.string_at(0)
        if row.key.startswith("eat"):
            self.eaten = b"x" * (400 << 20)
            time.sleep(2)
        if row.key.startswith("stumble") and not self.trace.with_suffix(".stumbled").exists():
            self.trace.with_suffix(".stumbled").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if row.key.startswith("later") and not self.trace.with_suffix(".mended").exists():
            raise TimeoutError("not yet")
        return {"word.txt": row.key.upper().encode()}

    def complete(self, row: Row, sample: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return sample
