"""report: one self-contained HTML page with pictures of every stage."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from prefect import task

from models.face3d.contact_sheet import geometry_overlay
from models.face3d.maps import MAP_FILES, ConditionMaps
from models.images import decode_png, read_image
from storage.records import Record, committed
from storage.stores import open_store
from tasks.array_bytes import from_npy
from tasks.edit_identity import Edits, edits_of
from tasks.evaluate import MEANINGS, Evaluation, evaluation_of
from tasks.finetune_identity import Identity, identity_of
from tasks.generation import OK, Generation, find_generation
from tasks.image_uri import read_image_uri
from tasks.pictures import contact_sheet, data_uri, jpeg
from tasks.preset import Preset
from tasks.sources import PORTRAITS
from tasks.train_stage1 import TrainedModel, trained_model

MOST_ROWS = 24
PICTURES = ("photograph", "aligned", "landmarks", "geometry", "normal", "albedo", "render")
HONESTY = {
    "tiny": "The preset is <em>tiny</em>: networks of 25 million parameters, trained for an hour on two cores on synthetic "
    "portraits. Pose, expression, light and colours follow the request; fine detail is grainy, and "
    "<strong>they have seen no photograph of anybody</strong> before the fine-tune. The condition maps do not depend on training.",
    "debug": "The preset is <em>debug</em>: networks that train from random weights for a handful of steps. They show that every "
    "part of the path runs; <strong>the generated edits are noise</strong>. The condition maps do not depend on training.",
    "other": "The edits come from the weights named below; the condition maps do not depend on training.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Everything the page shows."""

    preset: Preset
    root: str
    generations: Sequence[Generation]
    """images, maps, features."""
    model: TrainedModel
    identity: Identity
    edits: Edits
    evaluation: Evaluation


def build_report(results: Results) -> str:
    """The page, with every picture inside it."""
    images, maps, _ = results.generations
    environment = Environment(loader=PackageLoader("tasks"), autoescape=select_autoescape())
    pictures, left_out = face_rows(images, maps)
    preset, read = results.preset.name, results.edits.record.read
    return environment.get_template("report.html").render(
        title="InstaFace: photographs in, edits out",
        subtitle=f"preset {preset}; {counted(sum(images.manifest.counts.values()), 'photograph')}; root {results.root}",
        honesty=Markup(HONESTY.get(preset, HONESTY["other"])),
        stages=stage_rows(results),
        refused=[
            {"source": row.source, "stage": g.stage, "status": row.status, "reason": row.reason}
            for g in results.generations
            for row in g.status()
            if row.status != OK
        ],
        picture_names=PICTURES,
        pictures=pictures,
        pictures_left_out=left_out,
        training_sentence=f"Stage 1 ran {results.model.step} steps; the loss over the last tenth is {results.model.loss:.3f}. "
        f"The fine-tune ran {len(results.identity.losses)} steps on one photograph.",
        loss_plot=Markup(loss_plot(results.model.losses, results.identity.losses)),
        edits_sentence=f"{len(results.edits.images)} edits of {results.identity.identity_id}, "
        f"{results.preset.edit.steps} sampler steps each.",
        edits=[
            {"name": i.name, "image": data_uri(read(i.image)), "render": data_uri(read(i.render))}
            for i in results.edits.images
        ],
        scores=[
            {"name": name, "value": "not available" if value is None else f"{value:g}", "meaning": MEANINGS[name]}
            for name, value in results.evaluation.summary.items()
        ],
        places=[
            *((g.stage, g.uri) for g in results.generations), ("stage-1 model", results.model.uri),
            ("identity", results.identity.uri), ("edits", results.edits.uri), ("evaluation", results.evaluation.uri),
        ],
    )  # fmt: skip


def stage_rows(results: Results) -> list[dict[str, Any]]:
    """Rows of the table of timings and counts."""
    verbs = {"images": "shard", "maps": "extract", "features": "encode"}
    rows = []
    for g in results.generations:
        total, good = sum(g.manifest.counts.values()), g.manifest.counts.get(OK, 0)
        what = "finished before, nothing redone" if g.reused else f"{counted(len(g.manifest.shards), 'shard')} written"
        rows.append(_stage_row(verbs[g.stage], total, good, g.seconds, what))
    again = "finished before, nothing redone"
    steps, edits = results.model.step, len(results.edits.images)
    rows.append(
        _stage_row("train", steps, steps, results.model.seconds, again if results.model.reused else "steps of stage 1")
    )
    rows.append(
        _stage_row("finetune", 1, 1, results.identity.seconds, again if results.identity.reused else "one photograph")
    )
    rows.append(_stage_row("edit", edits, edits, results.edits.seconds, again if results.edits.reused else "images"))
    found = round(edits * float(results.evaluation.summary["face_found"] or 0))
    rows.append(_stage_row("evaluate", edits, found, results.evaluation.seconds, "good: a face is found in the edit"))
    return rows


def _stage_row(stage: str, total: int, good: int, seconds: float, what: str) -> dict[str, Any]:
    return {"stage": stage, "total": total, "good": good, "bad": total - good, "what": what,
            "seconds": f"{seconds:.1f}"}  # fmt: skip


def face_rows(images: Generation, maps: Generation) -> tuple[list[list[str]], int]:
    """Data URIs of PICTURES for the first samples, and how many samples are left out."""
    sources = {row.key: row.source for row in images.status()}
    aligned, reader = images.reader(), maps.reader()
    rows = []
    for key, sample in (reader[index] for index in range(min(len(reader), MOST_ROWS))):
        image = decode_png(aligned.by_key(key)[1]["image.png"])
        photograph = image if without_address(sources[key]) else read_image(read_image_uri(sources[key]), sources[key])
        rows.append([data_uri(jpeg(cell)) for cell in face_pictures(photograph, image, sample)])
    return rows, max(0, len(reader) - MOST_ROWS)


def without_address(source: str) -> bool:
    """Does the photograph lie nowhere by itself, as members of archives and synthetic portraits? Its aligned form stands
    for it."""
    return source.startswith(PORTRAITS) or "!" in source


def face_pictures(
    photograph: NDArray[np.uint8], image: NDArray[np.uint8], sample: Mapping[str, bytes]
) -> list[NDArray[np.uint8]]:
    """The pictures of PICTURES for one sample of the maps stage."""
    return [
        thumbnail(photograph),
        image,
        dotted(image, from_npy(sample["landmarks.npy"])),
        geometry_overlay(image, ConditionMaps.decode(sample)),
        *(decode_png(sample[f"{name}.png"]) for name in ("normal", "albedo", "render")),
    ]


def maps_sheet(results: Results) -> bytes:
    """PNG: the edited person's photograph, maps, and the renders that asked for the edits."""
    identity = committed(results.identity.uri)
    photograph = read_image(read_image_uri(str(identity.facts["lineage"]["image_uri"])), "the photograph")
    names = [*MAP_FILES, "landmarks.npy"]
    pictures = face_pictures(photograph, decode_png(identity.read("image.png")), {n: identity.read(n) for n in names})
    asked = [(edit.name, decode_png(results.edits.record.read(edit.render))) for edit in results.edits.images[1:]]
    return contact_sheet(
        [*zip(PICTURES, pictures, strict=True), *asked[: len(PICTURES)]], columns=len(PICTURES), side=176
    )


def dotted(image: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Landmarks drawn on an image."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for x, y in points[:, :2]:
        draw.ellipse((x - 0.8, y - 0.8, x + 0.8, y + 0.8), fill=(60, 255, 120))
    return np.asarray(picture)


def thumbnail(image: NDArray[np.uint8], side: int = 256) -> NDArray[np.uint8]:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def loss_plot(stage1: Sequence[float], finetune: Sequence[float]) -> str:
    """Two loss curves as inline SVG."""
    # A fixed salt makes the ids inside the SVG, and so the page, the same for the same curves.
    with mpl.rc_context({"svg.hashsalt": "instaface"}):
        figure = Figure(figsize=(10, 2.6))
        for axes, values, title in zip(
            figure.subplots(1, 2), (stage1, finetune), ("stage 1", "fine-tune"), strict=True
        ):
            axes.plot(range(1, len(values) + 1), values, color="#0b63ce", linewidth=1.4)
            axes.set(title=title, xlabel="step", ylabel="loss")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def load_results(preset: Preset, root: str, parts: Mapping[str, Mapping[str, Any]]) -> Results:
    """Read back what flows returned: `parts` has a uri, whether it was reused and its seconds for each part."""

    def about(name: str) -> dict[str, Any]:
        return {"reused": bool(parts[name]["reused"]), "seconds": float(parts[name]["seconds"])}

    def record(name: str) -> Record:
        return committed(str(parts[name]["uri"]))

    store = open_store(root)
    generations = [
        replace(find_generation(store, stage, str(parts[stage]["uri"])), **about(stage))
        for stage in ("images", "maps", "features")
    ]
    return Results(
        preset=preset,
        root=root,
        generations=generations,
        model=trained_model(record("model"), **about("model")),
        identity=identity_of(record("identity"), **about("identity")),
        edits=edits_of(record("edits"), **about("edits")),
        evaluation=evaluation_of(record("evaluation"), **about("evaluation")),
    )


@task(name="report", persist_result=False)
def report_task(preset: Preset, root: str, parts: Mapping[str, Mapping[str, Any]], out: str) -> Path:
    """Write the page, and the sheets of maps and edits, into a folder."""
    results = load_results(preset, root, parts)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edits.png").write_bytes(results.edits.record.read("grid.png"))
    (folder / "maps.png").write_bytes(maps_sheet(results))
    page = folder / "report.html"
    page.write_text(build_report(results), encoding="utf-8")
    return page.resolve()
