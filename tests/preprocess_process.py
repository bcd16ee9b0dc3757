"""A preprocessing process for tests to kill: `python preprocess_process.py ROOT SECONDS_A_ROW`, with a Ray of its own."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from storage.canonical import digest_of
from storage.stores import open_store
from tasks.earlier_rows import EarlierRows
from tasks.rows import Row, RowFailed

FIELDS = ("word.txt",)
UNITS, ROWS = 10, 6


@dataclass(frozen=True)
class Numbers:
    index: int


class SlowWriter:
    """Takes its time over every row, so that a kill finds it at work."""

    def __init__(self, seconds: float, earlier: tuple[str, ...]) -> None:
        self.seconds, self.earlier = seconds, EarlierRows(earlier, FIELDS)

    def rows(self, unit: Numbers) -> list[Row]:
        keys = [f"row-{unit.index * ROWS + number:03d}" for number in range(ROWS)]
        return [Row(key=key, source=f"numbers/{key}", content_key=digest_of(key)) for key in keys]

    def make(self, row: Row) -> Mapping[str, bytes]:
        time.sleep(self.seconds)
        if row.key.endswith("7"):
            raise RowFailed("refused", f"{row.key} ends in 7")
        return {"word.txt": row.key.encode() * 100}

    def complete(self, row: Row, sample: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return sample


def main(root: str, seconds: float) -> None:
    """Build the generation and say so."""
    from tasks.generation import Plan, build_generation
    from tasks.ray_pool import PoolConfig, ray_session
    from tests.preprocess_process import Numbers, SlowWriter  # under a name that other processes can import

    plan = Plan(
        stage="numbers", fields=FIELDS, config_digest="c", inputs={}, bad_share_limit=0.2, total=UNITS * ROWS
    )  # fmt: skip

    def make(home: str, earlier: tuple[str, ...]) -> Any:
        return partial(SlowWriter, seconds, earlier)

    with ray_session(2):
        print("started", flush=True)
        units = [Numbers(index) for index in range(UNITS)]
        done = build_generation(open_store(root), plan, units, make, PoolConfig(actors=2, restarts=100))
    print(f"done {done.uri}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
