"""Evaluations over time: what came out when, which run was accepted last, and whether a new one is worse.

    <root>/evaluations/history/<series>/<time>-<evaluation>.json

A series holds evaluations that compare: one manifest, one preset, one way of estimating, one method that is watched. A run
is accepted when it is not worse than the last accepted one, or when a person accepts it (`instaface evaluate accept`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
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
    accepted_at: str = ""
    """When: its own time, or later, by a person; empty where it is not."""

    @property
    def name(self) -> str:
        return f"{self.time}-{self.evaluation}"


def tell_worse(series: str, worse: Sequence[Worse], evaluation: str) -> None:
    """Emit the event that automations listen for."""
    tell(
        EVALUATION_REGRESSION, series, "; ".join(str(one) for one in worse), evaluation=evaluation,
        figures={one.name: [one.before, one.now if isfinite(one.now) else None] for one in worse},
    )  # fmt: skip


def series_of(protocol: str, manifest: str, preset: str, parameters: str, subject: str | None) -> str:
    """Name of the series of evaluations that compare with each other.

    The subject is the method whose figures are watched: pictures of `plain` say nothing about those of `ours`.
    """
    return f"{protocol}-{digest_of([protocol, manifest, preset, parameters, subject or ''])[:12]}"


def watched_figures(
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]], subject: str | None, *, truth: bool
) -> tuple[Watched, ...]:
    """What the regression rule looks at: of the subject (`ours`, or `plain` of ablations), in each mode, quality, identity
    and control."""
    found = []
    for mode in MODES:
        figures = summary.get(subject or "", {}).get(mode, {})
        for name in (*(WATCHED if truth else WATCHED_WITHOUT_TRUTH), CONTROLS[mode]):
            if name in figures:
                bounds = figures[name]
                found.append(
                    Watched(name=f"{mode}/{name}", mean=bounds["mean"], low=bounds["low"], high=bounds["high"])
                )
    return tuple(found)


def worse_than(accepted: Sequence[Watched], now: Sequence[Watched], not_available: Collection[str] = ()) -> list[Worse]:
    """Figures whose value lies beyond the accepted run's 95 % interval, on the bad side.

    A figure that the accepted run had and this one has not (no face in any picture, say) is worse too, unless its measure is
    `not_available` here: nothing is known of it then.
    """
    values = {one.name: one.mean for one in now}
    out = []
    for one in accepted:
        if any(one.name.partition("/")[2].startswith(f"{measure}_") for measure in not_available):
            continue
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
        accepted: dict[str, str] = {}
        for info in self.store.list(_ACCEPTED):  # in the order of their names, which begin with the time of acceptance
            time, _, name = info.key.removeprefix(_ACCEPTED).rpartition("~")
            accepted[name] = max(time, accepted.get(name, ""))
        names = sorted(info.key for info in self.store.list() if info.key.endswith(".json"))
        return [self._read(name, accepted) for name in names]

    def last_accepted(self) -> Point | None:
        """The standard: what was accepted last, by the rule or by a person, whenever it was run."""
        accepted = [point for point in self.points() if point.accepted]
        return max(accepted, key=lambda point: point.accepted_at) if accepted else None

    def add(
        self, evaluation: str, figures: Sequence[Watched], not_available: Collection[str] = ()
    ) -> tuple[Point, list[Worse]]:
        """Record a run; it is accepted unless it is worse than the last accepted one, which is said how. One without any
        figure (all refused) is no standard for others."""
        before = self.last_accepted()
        worse = worse_than(before.figures, figures, not_available) if before is not None else []
        time = _now()
        accepted = bool(figures) and not worse
        point = Point(
            time=time, evaluation=evaluation, accepted=accepted, figures=tuple(figures), accepted_at=time if accepted else ""
        )
        self.store.create(f"{point.name}.json", canonical_json(point))
        return point, worse

    def accept(self, evaluation: str) -> None:
        """Let later runs be measured against the last run of this evaluation, also where newer ones were accepted before.

        Raises:
            ValueError: it was never run in this series.
        """
        runs = [point for point in self.points() if point.evaluation == evaluation]
        if not runs:
            raise ValueError(f"evaluation={evaluation!r} has no run below {self.store.uri}")
        self.store.create(f"{_ACCEPTED}{_now()}~{runs[-1].name}", b"")

    def _read(self, name: str, accepted: Mapping[str, str]) -> Point:
        body = json.loads(self.store.read(name))
        by_hand = accepted.get(name.removesuffix(".json"))
        at = max(body["time"] if body["accepted"] else "", by_hand or "")
        return Point(
            time=body["time"], evaluation=body["evaluation"], accepted_at=at or (body["time"] if by_hand is not None else ""),
            accepted=body["accepted"] or by_hand is not None,
            figures=tuple(Watched(**one) for one in body["figures"]),
        )  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
