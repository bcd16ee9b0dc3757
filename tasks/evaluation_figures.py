"""From rows of pictures to figures with 95 % intervals, and ours against every baseline, pair by pair."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.metrics.distribution import frechet_of_rows, kernel_distance
from models.metrics.intervals import bootstrap, bootstrap_root_difference, jackknife
from tasks.evaluation_protocols import MODES

EMBEDDED = 320
"""Features of EfficientNet-Lite0 a picture; Inception's, where the user has it, come after them."""
_SETS = {
    "frechet": slice(0, EMBEDDED),
    "kernel": slice(0, EMBEDDED),
    "fid": slice(EMBEDDED, None),
    "kid": slice(EMBEDDED, None),
}
Row = Mapping[str, Any]
Bounds = dict[str, float | int]
"""mean, low, high, count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    name: str
    label: str
    meaning: str
    better: str
    """`low` or `high`."""
    root: bool = False
    """Root of the mean of the squares over pictures, not their mean."""
    share: bool = False
    """Share of all entries; a missing picture counts as a failure."""
    of_set: bool = False
    """Belongs to a set of pictures, not to one."""


def _pair(name: str, label: str, meaning: str, better: str, **options: bool) -> list[Figure]:
    """A figure against the photograph (the paper's protocol) and against the true picture."""
    against = {"source": "the photograph", "truth": "the true picture of the edit"}
    return [
        Figure(name=f"{name}_{key}", label=label, meaning=f"{meaning}, against {text}", better=better, **options)
        for key, text in against.items()
    ]


_ALL = [
    *_pair("st_lpips", "ST-LPIPS", "shift-tolerant LPIPS (AlexNet; Ghildyal and Liu 2022) at full size; not LPIPS", "low"),
    *_pair("lpips", "LPIPS", "LPIPS 0.1 (AlexNet; Zhang et al. 2018)", "low"),
    *_pair("ssim", "SSIM", "structural similarity of the luminance (Wang et al. 2004)", "high"),
    *_pair("psnr", "PSNR", "peak signal-to-noise ratio in dB, at most 99", "high"),
    Figure(name="psnr_head", label="PSNR head", meaning="PSNR in dB inside the true head, hair included", better="high"),
    Figure(name="psnr_face", label="PSNR face", meaning="PSNR in dB inside the true bare face", better="high"),
    Figure(name="psnr_background", label="PSNR background", meaning="PSNR in dB where no head is or was", better="high"),
    *_pair("frechet", "Fréchet", "Fréchet distance over EfficientNet-Lite0 features (320); not FID", "low", of_set=True),
    *_pair("kernel", "Kernel", "squared MMD with KID's cubic kernel over the same features, between different people; not KID",
           "low", of_set=True),
    *_pair("fid", "FID", "Fréchet distance over Inception's 2048 features; biased upwards for few pictures", "low",
           of_set=True),
    *_pair("kid", "KID", "squared MMD over Inception's features, between different people, all pictures at once", "low",
           of_set=True),
    *_pair("dlib_distance", "dlib distance", "distance of dlib's embeddings; 0.6 is the limit of one person", "low"),
    *_pair("dlib_cosine", "dlib cosine", "cosine of dlib's embeddings (Re-ID, first reading)", "high"),
    *_pair("dlib_confidence", "dlib confidence", "face_recognition's confidence curve of the distance (Re-ID, second "
           "reading)", "high"),
    *_pair("dlib_same", "Re-ID match", "share of all entries within dlib distance 0.6; no face and no picture count as "
           "failures", "high", share=True),
    *_pair("portrait_cosine", "portrait cosine", "cosine of the recogniser trained on synthetic portraits", "high"),
    *_pair("crop_cosine", "face crop cosine", "cosine of EfficientNet-Lite0 features of the aligned face crop; generic, no "
           "recogniser", "high"),
    *_pair("arcface_cosine", "ArcFace cosine", "cosine of insightface's ArcFace embeddings", "high"),
    Figure(name="pose_mm", label="pose, mm", better="low", root=True,
           meaning="root mean square distance of 68 landmarks, re-inferred global rotation against the one asked"),
    Figure(name="expression_mm", label="expression, mm", better="low", root=True,
           meaning="the same for expression and jaw"),
    Figure(name="pose_vertices_mm", label="pose, mm (vertices)", meaning="pose error over all vertices", better="low",
           root=True),
    Figure(name="expression_vertices_mm", label="expression, mm (vertices)",
           meaning="expression error over all vertices", better="low", root=True),
    Figure(name="pose_degrees", label="pose, °", meaning="angle between rotation asked and re-inferred", better="low"),
    Figure(name="light", label="light", meaning="root mean square difference of a sphere's shading, at equal exposure",
           better="low", root=True),
    Figure(name="light_degrees", label="light, °", meaning="angle between directions of light asked and re-inferred",
           better="low"),
    Figure(name="face_found", label="face found", meaning="share of all entries in which the detector finds a face",
           better="high", share=True),
]  # fmt: skip
FIGURES: Mapping[str, Figure] = {figure.name: figure for figure in _ALL}
"""Everything that is measured, by name."""
FEWEST = 10
"""People of whom an interval is 95 % enough for a verdict (docs/log.md)."""
COMPARED = ("st_lpips", "lpips", "ssim", "frechet", "fid", "dlib_distance", "dlib_same")
"""What ours is compared with every baseline by, against the truth where there is one."""
CONTROLS = {"pose": "pose_mm", "expression": "expression_mm", "light": "light"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """All rows of one method, with the features of its pictures and of what they are compared with."""

    rows: Sequence[Row]
    features: NDArray[np.floating]
    """(N, D), a row for each of `rows` whose status is ok, in order."""
    source: NDArray[np.floating]
    """(N, D): of the photograph of each."""
    truth: NDArray[np.floating]
    """(N, D), or (0, 0)."""

    def of_mode(self, mode: str) -> "Measured":
        """The rows of one mode, or of all."""
        if mode == "all":
            return self
        kept = np.array([row["mode"] == mode for row in self.rows if row["status"] == "ok"], dtype=bool)
        return Measured(
            rows=[row for row in self.rows if row["mode"] == mode],
            features=self.features[kept], source=self.source[kept], truth=self.truth[kept] if len(self.truth) else self.truth,
        )  # fmt: skip

    @property
    def people(self) -> list[str]:
        """Of each picture that is there."""
        return [str(row["person"]) for row in self.rows if row["status"] == "ok"]


def figures_of(measured: Measured) -> dict[str, Bounds]:
    """Every figure that can be had from these rows; one that cannot is left out."""
    found: dict[str, Bounds] = {}
    for figure in FIGURES.values():
        bounds = _set_bounds(figure, measured) if figure.of_set else _bounds(figure, measured.rows)
        if bounds is not None:
            found[figure.name] = bounds
    return found


def summary_of(methods: Mapping[str, Measured]) -> dict[str, dict[str, dict[str, Bounds]]]:
    """Method → mode (and `all`) → figure → bounds."""
    out: dict[str, dict[str, dict[str, Bounds]]] = {}
    for key, measured in methods.items():
        modes = [mode for mode in MODES if any(row["mode"] == mode for row in measured.rows)]
        out[key] = {mode: figures_of(measured.of_mode(mode)) for mode in (*modes, "all")}
    return out


def values_of(figure: Figure, rows: Sequence[Row]) -> tuple[list[float], list[str]]:
    """Values and people of the rows that have the figure; of a share, of all rows."""
    if figure.share:
        some = [row for row in rows if row["status"] != "ok" or figure.name in row]
        if not any(figure.name in row for row in some) and any(row["status"] == "ok" for row in rows):
            return [], []  # nobody measures it here; where there is no picture at all it is 0
        return [float(bool(row.get(figure.name))) for row in some], [str(row["person"]) for row in some]
    some = [row for row in rows if row.get(figure.name) is not None]
    values = [float(row[figure.name]) for row in some]
    return [value * value for value in values] if figure.root else values, [str(row["person"]) for row in some]


def _bounds(figure: Figure, rows: Sequence[Row]) -> Bounds | None:
    values, people = values_of(figure, rows)
    if not values:
        return None
    interval = bootstrap(values, groups=people)
    found = (interval.mean, interval.low, interval.high)
    if figure.share and interval.low == interval.high:  # none or all: the rule of three bounds what was not seen
        seen, unseen = interval.mean, min(1.0, 3 / len(set(people)))
        found = (seen, max(0.0, seen - unseen), min(1.0, seen + unseen))
    mean, low, high = (float(np.sqrt(one)) if figure.root else one for one in found)
    return _rounded(mean, low, high, interval.count)


def _set_bounds(figure: Figure, measured: Measured) -> Bounds | None:
    sets = _sets(figure, measured)
    if sets is None:
        return None
    distance, own, reference = sets
    people = np.asarray(measured.people)

    def measure(kept: NDArray[np.bool_]) -> float:
        return distance(own[kept], reference[kept], people[kept].tolist())

    return _rounded(*jackknife(measure, measured.people), len(reference))


Distance = Callable[[NDArray[np.floating], NDArray[np.floating], Sequence[str]], float]


def _frechet(one: NDArray[np.floating], other: NDArray[np.floating], people: Sequence[str]) -> float:
    return frechet_of_rows(one, other)


def _sets(figure: Figure, measured: Measured) -> tuple[Distance, NDArray[np.floating], NDArray[np.floating]] | None:
    """The distance and the two sets of features of a figure; None where they are not here, or too few once a person is left out."""
    kind, _, against = figure.name.rpartition("_")
    reference = measured.source if against == "source" else measured.truth
    people = Counter(measured.people)
    if len(reference) != len(measured.features) or len(people) < 2 or people.total() - max(people.values()) < 2:
        return None
    columns = _SETS[kind]
    own, other = measured.features[:, columns], reference[:, columns]
    if not own.shape[1] or (kind in ("kernel", "kid") and len(people) < 3):  # with one left out two people have to meet
        return None
    return _frechet if kind in ("frechet", "fid") else kernel_distance, own, other


def _rounded(mean: float, low: float, high: float, count: int) -> Bounds:
    return {"mean": round(mean, 6), "low": round(low, 6), "high": round(high, 6), "count": count}


def comparisons(
    ours: Measured, baselines: Mapping[str, Measured], figures: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Ours against each baseline, by mode and figure: the mean difference over the pictures both have, with its interval.

    `verdict` is better or worse where the interval leaves out 0, else undecided; of fewer than FEWEST people always undecided.
    """
    against = "truth" if len(ours.truth) else "source"
    names = figures or [f"{name}_{against}" for name in COMPARED]
    out = []
    for key, other in baselines.items():
        for mode in (*MODES, "all"):
            one, two = ours.of_mode(mode), other.of_mode(mode)
            wanted = [*names, *([CONTROLS[mode]] if mode in CONTROLS else [])]
            for name in wanted:
                difference = _difference(FIGURES[name], one, two)
                if difference is not None:
                    out.append({"baseline": key, "mode": mode, "figure": name, **difference})
    return out


def _value(figure: Figure, row: Row) -> float | None:
    """Of one picture; of a share, 0 where there is no picture or no face."""
    if figure.share:
        return float(bool(row.get(figure.name))) if row["status"] != "ok" or figure.name in row else None
    value = row.get(figure.name)
    return None if value is None else float(value)


def _difference(figure: Figure, ours: Measured, other: Measured) -> dict[str, Any] | None:
    if figure.of_set:
        found = _set_difference(figure, ours, other)
    else:
        theirs = {row["entry"]: row for row in other.rows}
        pairs = [(row, theirs[row["entry"]]) for row in ours.rows if row["entry"] in theirs]
        both = [(a, b) for a, b in pairs if _value(figure, a) is not None and _value(figure, b) is not None]
        if not both:
            return None
        people = [str(a["person"]) for a, _ in both]
        own, others = ([_value(figure, row) or 0.0 for row in side] for side in zip(*both, strict=True))
        if figure.root:
            interval = bootstrap_root_difference(own, others, groups=people)
        else:
            interval = bootstrap([a - b for a, b in zip(own, others, strict=True)], groups=people)
        found = _rounded(interval.mean, interval.low, interval.high, interval.count)
    if found is None:
        return None
    sign = 1 if figure.better == "high" else -1
    low, high = sorted((sign * float(found["low"]), sign * float(found["high"])))
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return {**found, "verdict": verdict if len(set(ours.people)) >= FEWEST else "undecided"}


def _set_difference(figure: Figure, ours: Measured, other: Measured) -> Bounds | None:
    """Only where both have every picture: distances of sets of unequal sizes do not compare."""
    entries = [[row["entry"] for row in one.rows if row["status"] == "ok"] for one in (ours, other)]
    one, two = _sets(figure, ours), _sets(figure, other)
    if one is None or two is None or entries[0] != entries[1]:
        return None
    (distance, own, reference), theirs = one, two[1]
    people = np.asarray(ours.people)

    def measure(kept: NDArray[np.bool_]) -> float:
        names = people[kept].tolist()
        return distance(own[kept], reference[kept], names) - distance(theirs[kept], reference[kept], names)

    return _rounded(*jackknife(measure, ours.people), len(reference))
