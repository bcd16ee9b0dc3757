"""Evaluations over time: what came out when, which run was accepted last, and whether a new one is worse.

    <root>/evaluations/history/<series>/<time>-<evaluation>.json

A series holds evaluations that compare: one manifest, one preset, one way of estimating. A run is accepted when it is not
worse than the last accepted one, or when a person accepts it (`instaface evaluate accept`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from storage.canonical import canonical_json, digest_of
from storage.stores import Store
from tasks.evaluation_figures import CONTROLS, FIGURES
from tasks.evaluation_protocols import MODES
from tasks.notices import EVALUATION_REGRESSION, tell

WATCHED = ("st_lpips_truth", "ssim_truth", "frechet_truth", "dlib_distance_truth", "face_found")
WATCHED_WITHOUT_TRUTH = ("dlib_distance_source", "face_found")
"""Photographs have no truth, and what is near to the unedited source is not better for it."""
_ACCEPTED = "accepted/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """One figure of one mode."""

    name: str
    """`mode/figure`."""
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Worse:
    """A figure that fell out of the accepted run's interval on the bad side."""

    name: str
    before: float
    bound: float
    now: float

    def __str__(self) -> str:
        return f"{self.name} {self.before:.4g} → {self.now:.4g} (accepted up to {self.bound:.4g})"


class EvaluationWorse(ValueError):
    """A model fell behind the last accepted evaluation."""

    def __init__(self, worse: Sequence[Worse], uri: str) -> None:
        self.uri = uri
        listed, evaluation = "; ".join(str(one) for one in worse), uri.rstrip("/").rpartition("/")[2]
        super().__init__(
            f"worse than the last accepted evaluation: {listed}. Look at the report; "
            f"`instaface evaluate accept {evaluation}` takes it as the new standard"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    time: str
    """UTC, ISO 8601."""
    evaluation: str
    """Digest: the name of the evaluation's folder."""
    accepted: bool
    figures: tuple[Watched, ...]

    @property
    def name(self) -> str:
        return f"{self.time}-{self.evaluation}"


def tell_worse(series: str, worse: Sequence[Worse], evaluation: str) -> None:
    """Emit the event that automations listen for."""
    tell(
        EVALUATION_REGRESSION, series, "; ".join(str(one) for one in worse), evaluation=evaluation,
        figures={one.name: [one.before, one.now if isfinite(one.now) else None] for one in worse},
    )  # fmt: skip


def series_of(protocol: str, manifest: str, preset: str, parameters: str) -> str:
    """Name of the series of evaluations that compare with each other."""
    return f"{protocol}-{digest_of([protocol, manifest, preset, parameters])[:12]}"


def watched_figures(summary: Mapping[str, Mapping[str, Mapping[str, Any]]], *, truth: bool) -> tuple[Watched, ...]:
    """What the regression rule looks at: of `ours`, in each mode, quality, identity and control."""
    found = []
    for mode in MODES:
        figures = summary.get("ours", {}).get(mode, {})
        for name in (*(WATCHED if truth else WATCHED_WITHOUT_TRUTH), CONTROLS[mode]):
            if name in figures:
                bounds = figures[name]
                found.append(
                    Watched(name=f"{mode}/{name}", mean=bounds["mean"], low=bounds["low"], high=bounds["high"])
                )
    return tuple(found)


def worse_than(accepted: Sequence[Watched], now: Sequence[Watched]) -> list[Worse]:
    """Figures whose value lies beyond the accepted run's 95 % interval, on the bad side.

    A figure that the accepted run had and this one has not (no face in any picture, say) is worse too.
    """
    values = {one.name: one.mean for one in now}
    out = []
    for one in accepted:
        high_is_good = FIGURES[one.name.partition("/")[2]].better == "high"
        bound = one.low if high_is_good else one.high
        found = values.get(one.name)
        if found is None:
            found = float("-inf") if high_is_good else float("inf")
        if (found < bound) if high_is_good else (found > bound):
            out.append(Worse(name=one.name, before=one.mean, bound=bound, now=found))
    return out


class History:
    """The points of one series."""

    def __init__(self, root: Store, series: str) -> None:
        self.store = root.child(f"evaluations/history/{series}")

    def points(self) -> list[Point]:
        """All runs, oldest first."""
        accepted = {info.key.removeprefix(_ACCEPTED) for info in self.store.list(_ACCEPTED)}
        names = sorted(info.key for info in self.store.list() if info.key.endswith(".json"))
        return [self._read(name, accepted) for name in names]

    def last_accepted(self) -> Point | None:
        accepted = [point for point in self.points() if point.accepted]
        return accepted[-1] if accepted else None

    def add(self, evaluation: str, figures: Sequence[Watched]) -> tuple[Point, list[Worse]]:
        """Record a run; it is accepted unless it is worse than the last accepted one, which is said how."""
        before = self.last_accepted()
        worse = worse_than(before.figures, figures) if before is not None else []
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
        point = Point(time=time, evaluation=evaluation, accepted=not worse, figures=tuple(figures))
        self.store.create(f"{point.name}.json", canonical_json(point))
        return point, worse

    def accept(self, evaluation: str) -> None:
        """Let later runs be measured against the last run of this evaluation. Accepting twice is accepting once.

        Raises:
            ValueError: it was never run in this series.
        """
        runs = [point for point in self.points() if point.evaluation == evaluation]
        if not runs:
            raise ValueError(f"evaluation={evaluation!r} has no run below {self.store.uri}")
        self.store.create(f"{_ACCEPTED}{runs[-1].name}", b"")

    def _read(self, name: str, accepted: set[str]) -> Point:
        body = json.loads(self.store.read(name))
        return Point(
            time=body["time"], evaluation=body["evaluation"],
            accepted=body["accepted"] or name.removesuffix(".json") in accepted,
            figures=tuple(Watched(**one) for one in body["figures"]),
        )  # fmt: skip
