"""Curves of a training run, as a picture and for a terminal."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.train_log import BANDS, Figures

_BLOCKS = "▁▂▃▄▅▆▇█"


def curve(rows: Sequence[Figures], name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps and values of a figure, where rows have it."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    return np.array([s for s, _ in found], dtype=np.int64), np.array([v for _, v in found], dtype=np.float64)


def smoothed(values: NDArray[np.float64], share: float = 0.02) -> NDArray[np.float64]:
    """Means over a centred window of `share` of the values, narrower at the ends."""
    reach = int(len(values) * share / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


def plot_png(rows: Sequence[Figures], title: str) -> bytes:
    """Loss, validation, loss by timestep band, learning rate and gradient norm, speed: a PNG."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (loss, bands, rates), (validation, gradient, speed) = figure.subplots(2, 3)
    _lines(loss, rows, {"loss": "loss"}, "training loss")
    names = {f"loss.{i}": f"t in band {i + 1} of {BANDS}" for i in range(BANDS)}
    _lines(bands, rows, names, "loss by timestep (1: least noise)")
    _lines(rates, rows, {"learning_rate": "rate"}, "learning rate", raw=True)
    kinds = {
        "validation": "own photograph", "validation_pairs": "another of the person", "validation_shuffled": "wrong maps"
    }  # fmt: skip
    _lines(validation, rows, kinds, "validation loss", raw=True)
    _lines(gradient, rows, {"gradient_norm": "norm"}, "gradient norm")
    _lines(speed, rows, {"samples_per_second": "samples/s"}, "samples a second")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _lines(axes: Axes, rows: Sequence[Figures], names: dict[str, str], title: str, *, raw: bool = False) -> None:
    drawn = False
    for name, label in names.items():
        steps, values = curve(rows, name)
        if len(steps):
            axes.plot(steps, values if raw else smoothed(values), label=label, linewidth=1.3)
            drawn = True
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.grid(alpha=0.3)
    if drawn and len(names) > 1:
        axes.legend(fontsize=8)


def sparkline(values: Sequence[float] | NDArray[np.float64], width: int = 60) -> str:
    """Values as a row of blocks, low to high, means over equal parts; empty for no values."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return ""
    means = np.array([part.mean() for part in np.array_split(array, min(width, len(array)))])
    span = means.max() - means.min()
    levels = np.zeros(len(means)) if span == 0 else (means - means.min()) / span
    return "".join(_BLOCKS[round(level * (len(_BLOCKS) - 1))] for level in levels)
