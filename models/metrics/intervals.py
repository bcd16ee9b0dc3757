"""Confidence intervals: bootstrap (Efron 1979) of a mean over pictures, jackknife of a number that belongs to a set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t


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
    """Expanded percentile interval at 95 % of the mean of `values`; equal input gives equal bounds.

    Percentiles of resampled means are too near for few groups; they are taken where Student's t on n - 1 degrees of freedom
    and the factor √(n/(n-1)) put them (Hesterberg 2015, arXiv:1411.5279). Of n = 2 it is the range: no 95 % can be had.

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
    (means,) = _resampled([data], names, resamples)
    low, high = np.quantile(means, _expanded(len(set(names.tolist()))))
    return Interval(mean=float(data.mean()), low=float(low), high=float(high), count=int(data.size))


def bootstrap_root_difference(
    one: Sequence[float], other: Sequence[float], *, groups: Sequence[str], resamples: int = 2000
) -> Interval:
    """√mean(one²) - √mean(other²) of paired values with its bounds, both resampled alike; groups as in `bootstrap`."""
    squares = [np.square(np.asarray(values, dtype=np.float64)) for values in (one, other)]
    names = np.asarray(groups)
    first, second = (np.sqrt(means) for means in _resampled(squares, names, resamples))
    low, high = np.quantile(first - second, _expanded(len(set(names.tolist()))))
    whole = float(np.sqrt(squares[0].mean()) - np.sqrt(squares[1].mean()))
    return Interval(mean=whole, low=float(low), high=float(high), count=len(names))


def _resampled(
    columns: Sequence[NDArray[np.float64]], names: NDArray[np.generic], resamples: int
) -> list[NDArray[np.float64]]:
    """Means of each column over resamples of whole groups, (resamples,), with equal draws for all columns."""
    _, member = np.unique(names, return_inverse=True)
    sizes = np.bincount(member)
    picks = np.random.default_rng(0).integers(0, len(sizes), size=(resamples, len(sizes)))
    counts = sizes[picks].sum(axis=1)
    return [np.bincount(member, weights=column)[picks].sum(axis=1) / counts for column in columns]


def _expanded(groups: int) -> tuple[float, float]:
    """The quantiles of resampled means between which 95 % are to lie."""
    if groups < 2:
        return 0.0, 1.0
    tail = float(norm.cdf(t.ppf(0.025, groups - 1) * np.sqrt(groups / (groups - 1))))
    return tail, 1 - tail


def jackknife(
    measure: Callable[[NDArray[np.bool_]], float], groups: Sequence[str], *, folds: int = 10
) -> tuple[float, float, float]:
    """A number of a whole set, such as a Fréchet distance, and its 95 % bounds: (value, low, high).

    `measure` is given the pictures to keep, bool (N,). Whole groups are left out, in at most `folds` parts, and the
    standard error is that of the delete-a-group jackknife (Efron and Tibshirani 1993, chapter 11), with the quantile of
    Student's t for so many parts. Resampling with
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
    reach = float(t.ppf(0.975, parts - 1)) * error
    return whole, whole - reach, whole + reach
