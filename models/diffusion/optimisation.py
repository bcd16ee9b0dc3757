"""How weights move: AdamW, its learning rate over time, and the moving average of the weights."""

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.diffusion.config import OptimiserName, Schedule


def learning_rate_at(
    step: int, *, peak: float, steps: int, warmup: int = 0, schedule: Schedule = "constant", decay_from: float = 0.0
) -> float:
    """The rate of step `step` in [0, steps): linear up over `warmup` steps, then constant, or from the share
    `decay_from` of the steps on a half cosine down to zero at the end."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    start = decay_from * steps
    if schedule == "constant" or step < start:
        return peak * rising
    return peak * rising * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, steps - start)))


def make_optimiser(
    name: OptimiserName, parameters: Sequence[nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), fused; or with moments of 8 bits (arXiv:2110.02861).

    Raises ValueError where the 8-bit optimiser's package is not installed.
    """
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "betas": (0.9, 0.999), "eps": 1e-8}
    if name == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ValueError(
            "optimiser='adamw8bit' needs the package bitsandbytes and a CUDA GPU, and it is not installed: "
            "pip install bitsandbytes, or choose optimiser='adamw'"
        ) from error
    optimiser: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, **options)
    return optimiser


class MovingAverage:
    """w̄ ← d w̄ + (1−d) w of all trained weights, with d = min(decay, (1+n)/(10+n)) at step n, so that the first
    average is not of the start."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], decay: float, *, every: int = 1, on_cpu: bool = False
    ) -> None:
        """`every`: steps between updates, whose decay is taken to that power. `on_cpu`: kept in the host's memory."""
        self._parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        self._decay, self._every = decay, every
        self.tensors: dict[str, Tensor] = {
            name: (p.detach().to("cpu", copy=True) if on_cpu else p.detach().clone())
            for name, p in self._parameters.items()
        }
        """Parameter's name → its average."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step`, counted from 1."""
        if step % self._every:
            return
        decay = min(self._decay, (1 + step) / (10 + step)) ** self._every
        averages = list(self.tensors.values())
        weights: list[Tensor] = [self._parameters[name].detach() for name in self.tensors]
        if averages and averages[0].device != weights[0].device:
            weights = [w.to(a.device) for w, a in zip(weights, averages, strict=True)]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.tensors.items():
            weight = self._parameters[name].detach()
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
