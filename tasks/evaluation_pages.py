"""What an evaluation shows: grids of the best, median and worst pictures, curves over time, a page that stands alone."""

import io
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.images import decode_png
from models.provenance import Provenance
from storage.records import Record, committed
from storage.stores import Store
from tasks.evaluation_figures import CONTROLS, FIGURES, Measured
from tasks.evaluation_history import Point
from tasks.evaluation_protocols import MODES
from tasks.evaluation_tables import (
    WHY_NOT_COMPARABLE,
    all_tables,
    headline,
    meanings,
)
from tasks.evaluation_units import stored_pictures
from tasks.marking import SOFTWARE, mark
from tasks.pictures import contact_sheet, data_uri, jpeg

Pixels = NDArray[np.uint8]
PLACES = ("best", "median", "worst")
SIDE = 160


def ranked_by(mode: str, *, truth: bool, not_available: Collection[str] = ()) -> str:
    """The figure that says which pictures of a mode are the best: nearness to the truth, else control."""
    if not truth:
        return CONTROLS[mode]
    return "ssim_truth" if "st_lpips" in not_available else "st_lpips_truth"


def chosen_entries(
    measured: Measured, mode: str, *, truth: bool, not_available: Collection[str] = ()
) -> list[tuple[str, str]]:
    """(place, entry) of the best, the median and the worst picture; one without the figure is worse than any with it."""
    name = ranked_by(mode, truth=truth, not_available=not_available)
    rows = [row for row in measured.rows if row["mode"] == mode and row["status"] == "ok"]
    sign = 1 if FIGURES[name].better == "low" else -1
    rows.sort(key=lambda row: (row.get(name) is None, sign * (row.get(name) or 0.0), row["entry"]))
    if not rows:
        return []
    picked = [rows[0], rows[len(rows) // 2], rows[-1]]
    places: dict[str, str] = {}
    for place, row in zip(PLACES, picked, strict=True):
        places.setdefault(str(row["entry"]), place)  # of few pictures the median is the best or the worst
    return [(place, entry) for entry, place in places.items()]


def grids(root: Store, facts: Mapping[str, Any], measured: Mapping[str, Measured]) -> dict[str, bytes]:
    """PNG of each mode: rows are the best, median and worst picture of the subject, columns what belongs to it."""
    if facts["subject"] is None:
        return {}
    store = root.child("evaluations")

    @cache
    def pictures(person: str, method: str) -> dict[str, Pixels]:
        scores = committed(f"{store.uri}/scores/{facts['scores'][person][method]}")
        record = committed(str(scores.facts["pictures"]))
        names = [str(row["entry"]) for row in measured[method].rows if row["person"] == person]
        return stored_pictures(record, names)

    provenance = Provenance(
        software=SOFTWARE, model=facts["base_digest"], identity="", edit="evaluation: comparison", composite=True
    )
    out = {}
    for mode in MODES:
        cells: list[tuple[str, Pixels]] = []
        for place, entry in chosen_entries(
            measured[facts["subject"]], mode, truth=facts["truth"], not_available=facts["not_available"]
        ):
            person = next(str(row["person"]) for row in measured[facts["subject"]].rows if row["entry"] == entry)
            for method in _in_order(facts):
                found = pictures(person, method["key"]).get(entry)
                shown = found if found is not None else np.full((SIDE, SIDE, 3), 230, np.uint8)
                label = {"copy": f"{place}: the source", "truth": "the truth"}.get(method["kind"], method["label"])
                cells.append((label if found is not None else f"{label}: none", shown))
        if cells:
            sheet = contact_sheet(cells, columns=len(_in_order(facts)), side=SIDE)
            made = any(method["kind"] == "model" for method in facts["methods"])
            out[f"grid-{mode}.png"] = mark(sheet, provenance) if made else sheet
    return out


def _in_order(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Source, target, ours, then the others."""
    rank = {"copy": 0, "truth": 1}
    return sorted(
        facts["methods"], key=lambda m: (rank.get(m["kind"], 3), m["key"] != facts["subject"])
    )  # stable: else as given


def history_svg(points: Sequence[Point]) -> str:
    """Watched figures over runs, with their intervals, as inline SVG; "" where there is nothing to draw."""
    _, start, rest = _drawn(points, "svg").decode().partition("<svg")
    return start + rest


def history_png(points: Sequence[Point]) -> bytes:
    """The same as PNG."""
    return _drawn(points, "png")


def _drawn(points: Sequence[Point], kind: str) -> bytes:
    """Curves with the runs that were not accepted as hollow points."""
    names = list(dict.fromkeys(one.name for point in points for one in point.figures))
    figures = list(dict.fromkeys(name.partition("/")[2] for name in names))
    if not points or not figures:
        return b""
    with mpl.rc_context({"svg.hashsalt": "instaface"}):
        columns = min(3, len(figures))
        rows = -(-len(figures) // columns)
        figure = Figure(figsize=(4.2 * columns, 2.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, name in zip(axes, figures, strict=False):
            for colour, mode in zip(("#0b63ce", "#c4480b", "#2a8a3d"), MODES, strict=True):
                found = [
                    (place, one, point.accepted)
                    for place, point in enumerate(points, start=1)
                    for one in point.figures
                    if one.name == f"{mode}/{name}"
                ]
                if not found:
                    continue
                places = [place for place, _, _ in found]
                axis.plot(places, [one.mean for _, one, _ in found], color=colour, linewidth=1.2, label=mode)
                axis.fill_between(
                    places,
                    [one.low for _, one, _ in found],
                    [one.high for _, one, _ in found],
                    color=colour,
                    alpha=0.15,
                )
                for place, one, accepted in found:
                    axis.plot(
                        place, one.mean, "o", color=colour, markersize=4, fillstyle="full" if accepted else "none"
                    )
            axis.set_title(f"{FIGURES[name].label} ({FIGURES[name].better} is good)", fontsize=9)
            axis.set_xlabel("run", fontsize=8)
            axis.grid(alpha=0.3)
        for axis in axes[len(figures) :]:
            axis.set_axis_off()
        axes[0].legend(fontsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=100, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def page(record: Record, points: Sequence[Point]) -> str:
    """Everything about an evaluation on one page, with every picture inside it."""
    facts = record.facts
    environment = Environment(loader=PackageLoader("tasks"), autoescape=select_autoescape())
    shown = [
        (mode, data_uri(jpeg(decode_png(record.read(f"grid-{mode}.png")))))
        for mode in MODES
        if f"grid-{mode}.png" in record.files
    ]
    return environment.get_template("evaluation.html").render(
        facts=facts,
        headline=headline(facts),
        why=WHY_NOT_COMPARABLE.replace("`", ""),
        tables=all_tables(facts),
        grids=[
            (mode, uri, ranked_by(mode, truth=facts["truth"], not_available=facts["not_available"])) for mode, uri in shown
        ],
        subject=next((one["label"] for one in facts["methods"] if one["key"] == facts["subject"]), ""),
        curves=Markup(history_svg(points)),  # made by matplotlib from numbers
        runs=len(points),
        meanings=meanings(facts),
        place=f"evaluations/{record.uri.rstrip('/').rpartition('/')[2]}",
        verdict_colours={"better": "good", "worse": "bad", "undecided": ""},
    )


def write_page(record: Record, points: Sequence[Point], out: Path) -> Path:
    """Write page, tables, rows, manifest and grids into a folder; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    for name in record.files:
        (out / name).write_bytes(record.read(name))
    place = out / "report.html"
    place.write_text(page(record, points), encoding="utf-8")
    return place.resolve()


def small(picture: bytes, side: int = 1400) -> bytes:
    """A grid as JPEG, at most `side` pixels wide: artifacts travel through the server's database."""
    pixels = decode_png(picture)
    step = -(-pixels.shape[1] // side)
    return jpeg(np.ascontiguousarray(pixels[::step, ::step]))
