"""dataset card: what a finished dataset holds, as people look at it before they train on it: dataset.md and dataset.html.

Both lie beside the features they describe, stand alone, and depend on nothing but the data.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from prefect import task
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from models.face3d.contact_sheet import geometry_overlay
from models.face3d.maps import ConditionMaps
from models.images import decode_png
from models.rng import numpy_generator
from storage.errors import Conflict
from tasks.array_bytes import from_npy
from tasks.dataset_figures import MOST_ROWS, Figures, fitted_mesh, measure, skin_class
from tasks.generation import OK, Generation
from tasks.pictures import contact_sheet, data_uri, jpeg
from tasks.progress import in_prefect_run
from tasks.reachable import when_reachable
from tasks.rows import DUPLICATES

MARKDOWN, PAGE = "dataset.md", "dataset.html"
SAMPLES = 12
WORST = 12
_REASONS = 3
_INK = "#0b63ce"
_FITTED, _FOUND = (235, 60, 60), (60, 220, 60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Where the card is, and its short form."""

    markdown_uri: str
    page_uri: str
    summary: str


def dataset_card(images: Generation, maps: Generation, features: Generation) -> Card:
    """Write the card beside the features, once; a later call with the same data finds it."""
    home = features.store()
    if home.stat(PAGE) is None or home.stat(MARKDOWN) is None:
        figures = measure(images, maps)
        for name, text in (
            (MARKDOWN, markdown((images, maps, features), figures)),
            (PAGE, page((images, maps, features), figures, maps, images)),
        ):
            try:
                home.create(name, text.encode())
            except Conflict:
                continue  # another process wrote it, or another version of this code: one is enough
    return Card(
        markdown_uri=f"{home.uri}/{MARKDOWN}", page_uri=f"{home.uri}/{PAGE}", summary=home.read(MARKDOWN).decode()
    )


def stage_table(generations: Sequence[Generation]) -> list[dict[str, Any]]:
    """One line a stage."""
    lines = []
    for generation in generations:
        counts = dict(generation.manifest.counts)
        good, twice = counts.pop(OK, 0), sum(counts.pop(status, 0) for status in DUPLICATES)
        lines.append(
            {
                "stage": generation.stage,
                "rows": sum(generation.manifest.counts.values()),
                "good": good,
                "duplicates": twice,
                "failed": sum(counts.values()),
                "shards": len(generation.manifest.shards),
                "MiB": round(sum(entry.bytes for entry in generation.manifest.shards) / 2**20, 1),
                "uri": generation.uri,
            }
        )
    return lines


def reasons(generations: Sequence[Generation]) -> list[dict[str, Any]]:
    """Every status but `ok`, how often, and a few examples."""
    found: dict[tuple[str, str], list[str]] = {}
    for generation in generations:
        for row in generation.status():
            if row.status != OK:
                found.setdefault((generation.stage, row.status), []).append(row.reason)
            elif row.reason:  # a near-duplicate
                found.setdefault((generation.stage, "near-duplicate (kept)"), []).append(f"{row.key}: {row.reason}")
    return [
        {"stage": stage, "status": status, "rows": len(texts), "examples": texts[:_REASONS]}
        for (stage, status), texts in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def spread(values: Sequence[float]) -> str:
    """ "median -1.2, 90 % between -20.1 and 19.7"."""
    if not values:
        return "not measured"
    low, middle, high = np.percentile(np.asarray(values, float), [5, 50, 95])
    return f"median {middle:.2f}, 90 % between {low:.2f} and {high:.2f}"


def facts(figures: Figures) -> list[tuple[str, str]]:
    """What can be said in one line each."""
    faces = figures.faces
    residuals = [face.residual for face in faces if face.residual is not None]
    shares = Counter(skin_class(face.tone) for face in faces)
    units: Counter[str] = Counter()
    for face in faces:
        units.update(dict(face.expression))
    strongest = ", ".join(f"{name} {total / max(len(faces), 1):.2f}" for name, total in units.most_common(6))
    return [
        ("photographs", f"{len(figures.resolution):,} used; {figures.aligned:,} came aligned"),
        ("people", "not named by the source" if figures.people is None else f"{figures.people:,}"),
        ("split", listed(figures.splits)),
        ("licences", listed(figures.licences)),
        ("shorter side, pixels", spread(figures.resolution)),
        ("yaw, degrees", spread([face.yaw for face in faces])),
        ("pitch, degrees", spread([face.pitch for face in faces])),
        ("expression, strength", spread([face.strength for face in faces])),
        ("expression, strongest units (mean weight)", strongest or "the model names none"),
        ("light from, degrees (right positive)", spread([face.light_azimuth for face in faces])),
        ("light from, degrees (up positive)", spread([face.light_elevation for face in faces])),
        ("light, contrast", spread([face.light_contrast for face in faces])),
        ("skin tone (ITA classes of the albedo)", listed(shares)),
        ("skin tone, degrees", spread([face.tone for face in faces])),
        ("brightness of the image", spread([face.brightness for face in faces])),
        ("fit: mesh distance over eye distance", spread(residuals)),
        ("parameters", f"{figures.known:,} photographs came with exact ones"),
        ("measured", f"{len(faces):,} of {figures.of:,} rows" + (" by lot" if figures.of > MOST_ROWS else "")),
    ]  # fmt: skip


def listed(counts: Mapping[str, int]) -> str:
    total = max(sum(counts.values()), 1)
    return ", ".join(f"{name} {n:,} ({n / total:.0%})" for name, n in Counter(counts).most_common(12)) or "none"


def markdown(generations: Sequence[Generation], figures: Figures) -> str:
    """The card as text."""
    table = stage_table(generations)
    lines = ["# Dataset", "", f"`{generations[-1].uri}`", ""]
    lines += ["| " + " | ".join(table[0]) + " |", "|" + "---|" * len(table[0])]
    lines += ["| " + " | ".join(str(value) for value in line.values()) + " |" for line in table]
    lines += ["", "## What it holds", "", "| figure | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in facts(figures)]
    lines += ["", "## What was not used", ""]
    refused = reasons(generations)
    for one in refused:
        lines.append(f"- {one['stage']}: **{one['status']}** {one['rows']:,}")
        lines += [f"  - {text}" for text in one["examples"] if text]
    return "\n".join([*lines, *([] if refused else ["Everything was used."])]) + "\n"


def page(generations: Sequence[Generation], figures: Figures, maps: Generation, images: Generation) -> str:
    """The card with its pictures inside."""
    environment = Environment(loader=PackageLoader("tasks"), autoescape=select_autoescape())
    worst = [face for face in figures.worst(WORST) if face.residual]
    return environment.get_template("dataset.html").render(
        uri=generations[-1].uri,
        stages=stage_table(generations),
        facts=facts(figures),
        reasons=reasons(generations),
        plots=Markup(histograms(figures)),
        columns=("image", "landmarks", "geometry", "normal", "albedo", "render"),
        samples=[[data_uri(jpeg(cell)) for cell in sample_cells(images, maps, key)] for key in drawn(figures)],
        worst=[
            {"picture": data_uri(jpeg(fit_picture(images, maps, face.key))), "residual": f"{face.residual:.3f}",
             "key": face.key, "yaw": f"{face.yaw:.0f}"}
            for face in worst
        ],
    )  # fmt: skip


def drawn(figures: Figures) -> list[str]:
    """Keys of the samples that are shown: by lot, the same for the same data."""
    keys = [face.key for face in figures.faces]
    order = numpy_generator("dataset card", *keys[:1]).permutation(len(keys))[:SAMPLES]
    return [keys[int(index)] for index in order]


def sample_cells(images: Generation, maps: Generation, key: str) -> list[NDArray[np.uint8]]:
    """One row of pictures."""
    image = decode_png(images.reader(["image.png"]).by_key(key)[1]["image.png"])
    sample = maps.reader().by_key(key)[1]
    return [
        image,
        fit_picture(images, maps, key),
        geometry_overlay(image, ConditionMaps.decode(sample)),
        *(decode_png(sample[f"{name}.png"]) for name in ("normal", "albedo", "render")),
    ]


def fit_picture(images: Generation, maps: Generation, key: str) -> NDArray[np.uint8]:
    """The image with found points in green and, where the model has a mesh, fitted points in red."""
    image = decode_png(images.reader(["image.png"]).by_key(key)[1]["image.png"])
    sample = maps.reader(["params.npy", "landmarks.npy"]).by_key(key)[1]
    large = Image.fromarray(image).resize((image.shape[1] * 2, image.shape[0] * 2), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(large)
    fitted = fitted_mesh(sample, image.shape[0])
    for points, colour in ((from_npy(sample["landmarks.npy"]), _FOUND), (fitted, _FITTED)):
        for x, y in () if points is None else points:
            draw.ellipse((2 * x - 2, 2 * y - 2, 2 * x + 2, 2 * y + 2), fill=colour)
    return np.asarray(large)


def histograms(figures: Figures) -> str:
    """Inline SVG: nine distributions."""
    faces = figures.faces
    plots: list[tuple[str, str, Sequence[float], tuple[float, float] | None]] = [
        ("resolution", "shorter side, pixels", figures.resolution, None),
        ("yaw", "degrees", [face.yaw for face in faces], (-60, 60)),
        ("pitch", "degrees", [face.pitch for face in faces], (-45, 45)),
        ("expression", "strength", [face.strength for face in faces], None),
        ("light, azimuth", "degrees, right positive", [face.light_azimuth for face in faces], (-180, 180)),
        ("light, contrast", "0 is flat", [face.light_contrast for face in faces], (0, 1)),
        ("skin tone", "ITA of the albedo, degrees", [face.tone for face in faces], (-90, 90)),
        ("brightness", "mean luma", [face.brightness for face in faces], (0, 1)),
        ("fit", "mesh over eye distance", [f.residual for f in faces if f.residual is not None], None),
    ]
    # A fixed salt makes the ids inside the SVG, and so the page, the same for the same data.
    with mpl.rc_context({"svg.hashsalt": "instaface"}):
        figure = Figure(figsize=(11, 7.2))
        for axes, (title, label, values, limits) in zip(figure.subplots(3, 3).flat, plots, strict=True):
            axes.hist(values, bins=30, range=limits, color=_INK, alpha=0.85)
            axes.set(title=title, xlabel=label)
            axes.title.set_fontsize(11)
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.get_major_locator().set_params(integer=True)
        figure.tight_layout()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


@task(name="dataset-card", persist_result=False)
def card_task(images: Generation, maps: Generation, features: Generation) -> Card:
    """The card beside the data, and in the Prefect UI."""
    card = dataset_card(images, maps, features)
    if in_prefect_run():
        keys = maps.reader(["params.npy"]).keys[:4]
        names = ("image", "landmarks", "geometry", "normal", "albedo", "render")
        cells = [pair for key in keys for pair in zip(names, sample_cells(images, maps, key), strict=True)]
        sheet = data_uri(contact_sheet(cells, columns=len(names), side=128))
        when_reachable(create_markdown_artifact)(
            key="dataset-card", markdown=f"{card.summary}\n![samples]({sheet})\n", description=card.page_uri
        )
        when_reachable(create_image_artifact)(key="dataset-samples", image_url=sheet, description="Samples with their maps")
    return card
