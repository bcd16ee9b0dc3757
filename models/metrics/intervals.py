"""Confidence intervals: bootstrap (Efron 1979) of a mean over pictures, jackknife of a number that belongs to a set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with the bounds between which 95 % of resampled means lie."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap(values: Sequence[float], *, groups: Sequence[str] | None = None, resamples: int = 2000) -> Interval:
    """Percentile interval at 95 % of the mean of `values`; equal input gives equal bounds.

    With `groups`, one name a value, whole groups are resampled: several edits of one person are not independent, and
    resampling them one by one would make the interval too narrow.

    Raises:
        ValueError: no value, a value that is not finite, or another number of groups.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"an interval needs finite values, got {data.size} of which {np.isfinite(data).sum()} finite")
    if groups is not None and len(groups) != data.size:
        raise ValueError(f"{data.size} values but {len(groups)} group names")
    names = np.asarray(groups if groups is not None else np.arange(data.size))
    _, member = np.unique(names, return_inverse=True)
    sums, sizes = np.bincount(member, weights=data), np.bincount(member)
    picks = np.random.default_rng(0).integers(0, len(sums), size=(resamples, len(sums)))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean=float(data.mean()), low=float(low), high=float(high), count=int(data.size))


def jackknife(
    measure: Callable[[NDArray[np.bool_]], float], groups: Sequence[str], *, folds: int = 10
) -> tuple[float, float, float]:
    """A number of a whole set, such as a Fréchet distance, and its 95 % bounds: (value, low, high).

    `measure` is given the pictures to keep, bool (N,). Whole groups are left out, in at most `folds` parts, and the
    standard error is that of the delete-a-group jackknife (Efron and Tibshirani 1993, chapter 11). Resampling with
    replacement is not used: it repeats pictures, which enlarges such distances.

    Raises:
        ValueError: fewer than two groups.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(f"an interval needs pictures of at least two people, not {len(names)}")
    parts = min(folds, len(names))
    place = {name: number % parts for number, name in enumerate(names)}
    member = np.array([place[name] for name in groups])
    whole = measure(np.ones(len(member), dtype=bool))
    values = np.array([measure(member != part) for part in range(parts)])
    error = float(np.sqrt((parts - 1) / parts * np.square(values - values.mean()).sum()))
    return whole, whole - 1.96 * error, whole + 1.96 * error
