"""Learning rate over time, the optimiser, and the moving average of the weights, against closed forms."""

import importlib.util
import itertools
import math

import pytest
import torch
from torch import nn

from models.diffusion.optimisation import MovingAverage, learning_rate_at, make_optimiser


def rates(**options: object) -> list[float]:
    return [learning_rate_at(step, peak=2.0, steps=100, **options) for step in range(100)]  # type: ignore[arg-type]


def test_the_rate_rises_stays_and_falls() -> None:
    assert rates() == [2.0] * 100
    warm = rates(warmup=10)
    assert warm[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert set(warm[10:]) == {2.0}
    late = rates(schedule="cosine", decay_from=0.5)
    assert late[:51] == [2.0] * 51
    assert late[75] == pytest.approx(1.0)
    assert late[99] == pytest.approx(1 + math.cos(math.pi * 49 / 50))
    assert all(a > b for a, b in itertools.pairwise(late[50:]))


def test_fused_adamw_is_the_published_one() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = make_optimiser("adamw", [weight], learning_rate=0.1, weight_decay=0.01)
    weight.grad = torch.tensor([0.5, -3.0])
    optimiser.step()
    # The first step of Adam is the sign of the gradient; decay is taken off first.
    expected = torch.tensor([1.0, -2.0]) * (1 - 0.1 * 0.01) - 0.1 * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_the_8_bit_optimiser_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="bitsandbytes"):
        make_optimiser("adamw8bit", [nn.Parameter(torch.zeros(1))], learning_rate=0.1, weight_decay=0)


@pytest.mark.parametrize(("every", "on_cpu"), [(1, False), (2, True)])
def test_the_average_follows_the_weights(every: int, on_cpu: bool) -> None:
    model = nn.Linear(1, 1, bias=False)
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    average = MovingAverage({"weight": model.weight, "frozen": frozen}, 0.5, every=every, on_cpu=on_cpu)
    assert set(average.tensors) == {"weight"}
    expected = model.weight.item()
    for step in range(1, 7):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(step)
        if step % every == 0:
            decay = min(0.5, (1 + step) / (10 + step)) ** every
            expected = decay * expected + (1 - decay) * step
    assert float(average.tensors["weight"]) == pytest.approx(expected)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 6
    assert float(average.tensors["weight"]) == pytest.approx(expected)
