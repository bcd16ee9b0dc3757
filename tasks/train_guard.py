"""What all ranks agree on after a pass: the loss, whether to stop, and that every number is one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.train_data import MicroBatch, Row
from tasks.train_log import BANDS, Figures, by_band
from tasks.train_state import Place


def gather(
    micros: Sequence[MicroBatch], losses: Sequence[Tensor], train_steps: int, place: Place, *, stop: bool
) -> tuple[Figures, bool]:
    """Loss and loss by timestep band over all ranks, and whether any rank asks to stop."""
    timesteps = torch.cat([micro.draws.timesteps for micro in micros])
    sums, counts = by_band(torch.cat(list(losses)), timesteps, train_steps)
    everything = torch.cat([sums, counts, torch.tensor([float(stop)], dtype=sums.dtype, device=sums.device)])
    if place.world > 1:
        dist.all_reduce(everything)
    everything = everything.cpu()
    sums, counts = everything[:BANDS], everything[BANDS : 2 * BANDS]
    figures = {"loss": float(sums.sum() / counts.sum())}
    figures |= {f"loss.{i}": float(sums[i] / counts[i]) for i in range(BANDS) if counts[i]}
    return figures, bool(everything[-1] > 0)


def guard_losses(step: int, loss: float, micros: Sequence[MicroBatch], losses: Sequence[Tensor], place: Place) -> None:
    """Raises: FloatingPointError on every rank, naming the samples whose loss is no number."""
    if math.isfinite(loss):
        return
    found = set()
    for micro, rows in zip(micros, losses, strict=True):
        for (_, key), row in zip(micro.rows, rows.unflatten(0, (len(micro.rows), -1)), strict=True):
            if not torch.isfinite(row).all():
                found.add(key)
    everywhere = [found]
    if place.world > 1:
        everywhere = [set() for _ in range(place.world)]
        dist.all_gather_object(everywhere, found)
    raise FloatingPointError(
        f"step {step}: the loss is {loss} for the samples {sorted(set().union(*everywhere))}. Look at their features; if "
        "they are sound, the training has diverged: lower the learning rate. The last checkpoint is from before"
    )


def guard_gradient(step: int, norm: float, rows: Sequence[Row], *, scaled: bool) -> None:
    """Raises: FloatingPointError for a gradient that is no number.

    Under a loss scale (fp16) that is no error: the scale was too high, the step is left out and the scale lowered.
    """
    if not scaled and not math.isfinite(norm):
        raise FloatingPointError(
            f"step {step}: the gradient's norm is {norm} for the samples {sorted({key for _, key in rows})}: the training "
            "has diverged; lower the learning rate. The last checkpoint is from before"
        )


DIVERGED = 1.5
"""Times the best validation loss from which a training counts as diverged; sound ones stay below 1.1 (docs/log.md)."""


def guard_validation(step: int, loss: float, best: Mapping[str, Any] | None) -> None:
    """Raises: FloatingPointError for a validation loss far above the best one: the rest of the run would be wasted."""
    if best is None or loss <= DIVERGED * best["loss"]:
        return
    raise FloatingPointError(
        f"step {step}: the validation loss is {loss:.4g}, and it was {best['loss']:.4g} at step {best['step']}: the training has "
        f"diverged. The weights of step {best['step']} are kept in best/; train again with a lower learning_rate, or one that "
        "falls earlier (decay_from)"
    )
