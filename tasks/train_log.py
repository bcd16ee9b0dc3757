"""What a run says about itself: a row a step in the store, TensorBoard files, and the live display.

Rows lie in `<run>/log/…jsonl`, one object a flush, since objects are created once. A step that was trained twice, because
its process was killed before the next checkpoint, has two rows: the later one counts.
"""

import json
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.canonical import sha256_of
from storage.stores import Store

FOLDER = "log"
FLUSH_SECONDS = 120.0
BANDS = 5
"""The timesteps in equal bands, from little noise to much."""
Figures = dict[str, float]


class TrainLog:
    """Rank 0's log. `report` gets every step's row; it may drop what it does not need."""

    def __init__(self, home: Store, report: Callable[[dict[str, Any]], None], tensorboard: Path | None) -> None:
        self._home, self._report = home, report
        self._rows: list[Figures] = []
        self._flushed = time.monotonic()
        self._board: Any = None
        if tensorboard is not None:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(tensorboard), flush_secs=30)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of a finished step (or of a validation after it)."""
        row = {"step": step, "time": time.time(), **figures}
        self._rows.append(row)
        self._report(row)
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name.replace("loss.", "loss by timestep/"), value, step)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def picture(self, step: int, png: bytes, image_3HW: Tensor) -> None:
        """Keep a grid of samples, (3, H, W) in [0, 1]."""
        self._home.create(f"samples/step-{step:08d}-{sha256_of(png)[:12]}.png", png)
        self._report({"step": step, "picture": png})
        if self._board is not None:
            self._board.add_image("samples", image_3HW.numpy(), step)

    def flush(self) -> None:
        """Write the rows since the last flush to the store."""
        self._flushed = time.monotonic()
        if not self._rows:
            return
        lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in self._rows).encode()
        first, last = int(self._rows[0]["step"]), int(self._rows[-1]["step"])
        self._home.create(f"{FOLDER}/{first:08d}-{last:08d}-{sha256_of(lines)[:12]}.jsonl", lines)
        self._rows.clear()

    def close(self) -> None:
        self.flush()
        if self._board is not None:
            self._board.close()


def read_log(home: Store) -> list[Figures]:
    """The rows of a run by step, with what validations after a step added to its row."""
    rows: dict[int, Figures] = {}
    found = [json.loads(line) for info in home.list(f"{FOLDER}/") for line in home.read(info.key).splitlines()]
    for row in sorted(found, key=lambda row: float(row["time"])):
        before = rows.get(int(row["step"]), {})
        # A validation's row adds to its step's; a step trained again replaces it.
        rows[int(row["step"])] = row if "loss" in row else before | row
    return [rows[step] for step in sorted(rows)]


def by_band(losses: Tensor, timesteps: Tensor, train_steps: int) -> tuple[Tensor, Tensor]:
    """Sums and counts of row losses (N,) by band of their timesteps: (BANDS,) each, float64."""
    bands = (timesteps * BANDS // train_steps).to(losses.device)
    sums = torch.zeros(BANDS, dtype=torch.float64, device=losses.device)
    return (
        sums.index_add(0, bands, losses.double()),
        torch.zeros_like(sums).index_add(0, bands, torch.ones_like(losses, dtype=torch.float64)),
    )


def memory_gib(device: torch.device) -> float:
    """Peak memory: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
