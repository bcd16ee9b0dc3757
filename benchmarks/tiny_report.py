"""Puts the rows of benchmarks/tiny.py together: criteria, tables by method and by edit, ablations, a page of edits."""

import datetime
import json
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from models.images import decode_png, encode_png
from models.metrics.intervals import bootstrap
from models.portraits.people import person_of
from models.portraits.portrait import GENERATOR_DIGEST, render_portrait
from models.portraits.scenes import edited, scene_of
from tasks.portrait_scores import CHOICES
from tasks.portrait_trial import EDITS

BARE = ", nothing carried"
MAIN = (
    "copy of the source", "render pasted on it", "zero-shot", "fine-tuned", f"zero-shot{BARE}", f"fine-tuned{BARE}",
    "codec alone",
)  # fmt: skip
FACELESS = (
    ("face hidden", "face hidden, no face embedding"),
    (f"zero-shot{BARE}", "no face embedding"),
    (f"fine-tuned{BARE}", "fine-tuned, no face embedding"),
)
"""With the face embedding and without."""
SHAPED = ("turn left", "turn right", "mouth open", "smile")
"""Edits that move landmarks."""
MEANING = """
Regions are those of the truth: its head (hair, beard, glasses and neck too), its bare face, and what no head covers.
Perceptual: ST-LPIPS (AlexNet) at 128², of the whole picture and of the head alone (the truth around it); smaller is
better. Points: mean distance of the 468 re-estimated mesh points from those found in the truth, over the outer-eye
distance. Light: degrees between re-estimated light directions. Chosen: the picture is nearest to its own truth among
five truths and the source. Nothing carried: the model's own pictures, without the photograph's detail
(`carry_detail`); ablations are those. Who: dlib's distance to the person's own source is the smallest among
all people's sources;
"truth" says how often that holds for the true pictures. Intervals: 95 % bootstrap over people.
"""


def write_report(results: Path, report: Path, facts: dict, *, page: int = 6) -> None:
    """Markdown at `report`, JSON and a page of edits (PNG) beside it."""
    people = [json.loads(path.read_text()) for path in sorted(results.glob("person-*.json"))]
    rows = [row for person in people for row in person["rows"]]
    for row in rows:
        row["who"] = _who(row, people)
    summary = {
        "facts": facts, "people": len(people), "criteria": criteria(rows, people), "methods": by_method(rows),
        "edits": {method: by_edit(rows, method) for method in ("copy of the source", "zero-shot", "fine-tuned")},
        "rebuilt": _rebuilt(people),
        "maps_codec": {k: _mean([p["maps_codec"][k] for p in people]) for k in ("albedo", "normal", "render")},
        "seconds": {k: _mean([p["seconds"][k] for p in people]) for k in ("edit", "fine-tune")},
    }  # fmt: skip
    report.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    report.write_text(markdown(summary, rows), encoding="utf-8")
    numbers = [person["person"] for person in people][:page]
    report.with_name(f"{report.stem}-page.png").write_bytes(page_of_edits(results, numbers, facts["config"]))


def _who(row: dict, people: Sequence[dict]) -> bool | None:
    gallery = {p["person"]: np.array(p["dlib"]) for p in people if p["dlib"] is not None}
    if row["dlib"] is None or row["person"] not in gallery or len(gallery) < 2:
        return None
    distance = {number: float(np.linalg.norm(np.array(row["dlib"]) - one)) for number, one in gallery.items()}
    row["own_distance"] = distance[row["person"]]
    return min(distance, key=lambda number: distance[number]) == row["person"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _of(rows: Sequence[dict], method: str, edits: Sequence[str] = tuple(EDITS)) -> list[dict]:
    return [row for row in rows if row["method"] == method and row["edit"] in edits]


def by_method(rows: Sequence[dict]) -> dict[str, dict]:
    """Means of every measure, over all edits a method was measured on."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return {method: _means(_of(rows, method)) for method in methods}


def by_edit(rows: Sequence[dict], method: str) -> dict[str, dict]:
    return {name: _means(_of(rows, method, (name,))) for name in EDITS}


def _means(some: Sequence[dict]) -> dict:
    out = {name: _mean([row[name] for row in some]) for name in ("head", "face", "background", "all")}
    out |= {name: _mean([row[name] for row in some]) for name in ("perceptual", "perceptual_head", "points", "light")}
    choices = [row for row in some if row["chosen"] is not None]
    out["chosen"] = _mean([float(row["chosen"] == row["edit"]) for row in choices])
    out["picked"] = _mean([float(row["picked"] == row["edit"]) for row in choices])
    out["who"] = _mean([None if row["who"] is None else float(row["who"]) for row in some])
    out["dlib_distance"] = _mean([row.get("own_distance") for row in some])
    out["face_found"] = _mean([float(row["dlib"] is not None) for row in some])
    return out


def _pairs(rows: Sequence[dict], method: str) -> list[tuple[dict, dict, dict]]:
    """(method, copy, paste) rows of every edit."""
    key: Callable[[dict], tuple] = lambda row: (row["person"], row["edit"])  # noqa: E731
    copies = {key(row): row for row in _of(rows, "copy of the source")}
    pastes = {key(row): row for row in _of(rows, "render pasted on it")}
    return [(row, copies[key(row)], pastes[key(row)]) for row in _of(rows, method)]


def better_share(rows: Sequence[dict], method: str) -> float:
    """Share of edits better than the copy and than the paste, both in PSNR and perceptually, inside the head."""
    wins = [
        row["head"] > max(copy["head"], paste["head"])
        and row["perceptual_head"] < min(copy["perceptual_head"], paste["perceptual_head"])
        for row, copy, paste in _pairs(rows, method)
    ]
    return round(float(np.mean(wins)), 4)


def criteria(rows: Sequence[dict], people: Sequence[dict]) -> list[dict]:
    """What the issue asks for, and what was reached."""
    methods = by_method(rows)
    rebuilt = _rebuilt(people)
    maps = {name: _mean([person["maps_codec"][name] for person in people]) for name in ("albedo", "normal", "render")}
    hardest = min(maps, key=lambda name: maps[name] or 0.0)

    def interval(method: str, region: str) -> str:
        some = [row for row in _of(rows, method) if row[region] is not None]
        return str(bootstrap([row[region] for row in some], groups=[str(row["person"]) for row in some]))

    own, copied = (_means(_of(rows, method, SHAPED))["points"] for method in ("fine-tuned", "copy of the source"))
    light, light_copy = methods["fine-tuned"]["light"], methods["copy of the source"]["light"]

    def cost(method: str, ablated: str) -> float | None:
        """Of an ablation, in the face, over the same edits."""
        other = _of(rows, ablated)
        edits = list(dict.fromkeys(row["edit"] for row in other))
        return _difference([row["face"] for row in _of(rows, method, edits)], [row["face"] for row in other])

    return [
        _line("codec on held-out portraits, dB", 33, rebuilt["codec alone"]["all"]),
        _line(f"codec on maps, dB, the hardest kind ({hardest})", 32, maps[hardest]),
        _line("better than copy and paste (PSNR and perceptual, head), fine-tuned", 0.9, better_share(rows, "fine-tuned")),
        _line("the same, zero-shot", None, better_share(rows, "zero-shot")),
        _line("zero-shot, head, dB", 22, methods["zero-shot"]["head"], interval("zero-shot", "head")),
        _line("zero-shot, face, dB", 23.5, methods["zero-shot"]["face"], interval("zero-shot", "face")),
        _line("fine-tuned, head, dB", 23, methods["fine-tuned"]["head"], interval("fine-tuned", "head")),
        *(
            _line(f"{method}{BARE}, {region}, dB", None, methods[f"{method}{BARE}"][region], interval(f"{method}{BARE}", region))
            for method in ("zero-shot", "fine-tuned") for region in ("head", "face")
        ),
        _line("self-reconstruction after the fine-tune, dB", 28, rebuilt["fine-tuned"]["all"]),
        _line("right one of five edits picked, fine-tuned", 0.95, methods["fine-tuned"]["picked"]),
        _line("the same with the source as a sixth, fine-tuned", None, methods["fine-tuned"]["chosen"]),
        _line("right one of five edits picked, zero-shot", None, methods["zero-shot"]["picked"]),
        _line("the same with the source as a sixth, zero-shot", None, methods["zero-shot"]["chosen"]),
        _line(
            "tokens of another person cost (nothing carried), face, dB, fine-tuned", 3,
            cost(f"fine-tuned{BARE}", "fine-tuned, tokens of another person"),
        ),
        _line("the same, zero-shot", None, cost(f"zero-shot{BARE}", "tokens of another person")),
        *(_worth(rows, whole, without) for whole, without in FACELESS),
        _line("control error (points) over the source's", 0.5, _ratio(own, copied), at_most=True),
        _line("control error (light) over the source's", 0.5, _ratio(light, light_copy), at_most=True),
        _line("identity nearest to the person (dlib), fine-tuned", 0.9, methods["fine-tuned"]["who"]),
        _line("identity nearest, of the true pictures", None, methods["truth"]["who"]),
    ]  # fmt: skip


def _worth(rows: Sequence[dict], whole: str, without: str) -> dict:
    """How much farther (dlib) from the person edits are without an input: more than 0 with all of the interval, if it tells who."""
    known = {(row["person"], row["edit"]): row.get("own_distance") for row in _of(rows, whole)}
    pairs = [(row, known[row["person"], row["edit"]]) for row in _of(rows, without)]
    pairs = [(row, own) for row, own in pairs if own is not None and row.get("own_distance") is not None]
    if not pairs:
        return _line(f"{without}: dlib distance to the person rises", 0, None)
    grown = bootstrap([row["own_distance"] - own for row, own in pairs], groups=[str(row["person"]) for row, _ in pairs])
    line = _line(f"{without}: dlib distance to the person rises", 0, grown.mean, str(grown))
    return {**line, "met": grown.low > 0}


def _difference(ones: Sequence[float], others: Sequence[float]) -> float | None:
    return round(float(np.mean(ones) - np.mean(others)), 3) if others else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 4) if one is not None and other else None


def _line(what: str, asked: float | None, reached: float | None, note: str = "", *, at_most: bool = False) -> dict:
    met = None if asked is None or reached is None else (reached <= asked if at_most else reached >= asked)
    return {"what": what, "asked": asked, "at_most": at_most, "reached": reached, "met": met, "note": note}


def _rebuilt(people: Sequence[dict]) -> dict[str, dict]:
    methods = ("zero-shot", "fine-tuned", "codec alone")
    regions = ("all", "head", "face", "background")
    return {m: {r: _mean([person["rebuilt"][m][r] for person in people]) for r in regions} for m in methods}


# -- pages ---------------------------------------------------------------------------------------------------


def markdown(summary: dict, rows: Sequence[dict]) -> str:
    facts = summary["facts"]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    config = facts["config"]
    made = (
        f"{datetime.date.today().isoformat()}, commit {commit}, {platform.processor() or platform.machine()}, "
        f"{facts['threads']} thread(s), portrait generator {GENERATOR_DIGEST}. {summary['people']} people of seed "
        f"{config['seed']}, {len(EDITS)} edits each, {config['parameters']} parameters of the source, "
        f"{config['edit']['steps']} DDIM steps, fine-tune of {config['finetune']['steps']} steps at learning rate "
        f"{config['finetune']['learning_rate']:g}. Made by `python benchmarks/tiny.py`."
    )
    head = "| asked for | at least | reached | met |"
    out = ["# The tiny model on people it never saw", "", made, "", head, "|---|---|---|---|"]
    for line in summary["criteria"]:
        asked = "" if line["asked"] is None else f"{'≤ ' if line['at_most'] else ''}{line['asked']:g}"
        met = {None: "", True: "yes", False: "**no**"}[line["met"]]
        out.append(f"| {line['what']} | {asked} | {line['note'] or _text(line['reached'])} | {met} |")
    out += [
        "",
        *_table("method", {m: summary["methods"][m] for m in MAIN if m in summary["methods"]}),
        MEANING.strip(),
        "",
    ]
    out += ["## By edit, fine-tuned", "", *_table("edit", summary["edits"]["fine-tuned"])]
    out += ["## By edit, zero-shot", "", *_table("edit", summary["edits"]["zero-shot"])]
    ablated = {m: v for m, v in summary["methods"].items() if m not in (*MAIN, "truth")}
    if ablated:
        names = list(dict.fromkeys(row["edit"] for row in rows if row["method"] in ablated))
        whole = {f"nothing, {m}": _means(_of(rows, f"{m}{BARE}", names)) for m in ("zero-shot", "fine-tuned")}
        ablated = {**whole, **ablated}
        out += [f"## Ablations, nothing carried ({', '.join(names)})", "", "Zero-shot where they do not say otherwise.", ""]
        out += _table("without", ablated)
    out += [
        "## The unedited picture from noise, dB",
        "",
        "| | all | head | face | background |",
        "|---|---|---|---|---|",
    ]
    for method, one in summary["rebuilt"].items():
        out.append(f"| {method} | " + " | ".join(_text(one[r]) for r in ("all", "head", "face", "background")) + " |")
    maps = summary["maps_codec"]
    out += [
        "",
        f"Codec on maps: albedo {_text(maps['albedo'])}, normals {_text(maps['normal'])}, render {_text(maps['render'])} dB.",
    ]
    seconds = summary["seconds"]
    out += [f"Seconds an edit {_text(seconds['edit'])}, a fine-tune {_text(seconds['fine-tune'])}."]
    out += [f"Choices: {', '.join(CHOICES)}, source.", ""]
    return "\n".join(out)


def _table(first: str, methods: dict[str, dict]) -> list[str]:
    columns = {
        "head": "head dB", "face": "face dB", "background": "background dB", "perceptual": "perceptual",
        "perceptual_head": "perceptual, head", "points": "points", "light": "light °", "chosen": "chosen", "who": "who",
        "dlib_distance": "dlib",
    }  # fmt: skip
    out = [f"| {first} | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    out += [f"| {name} | " + " | ".join(_text(one[key]) for key in columns) + " |" for name, one in methods.items()]
    return [*out, ""]


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def page_of_edits(results: Path, numbers: Sequence[int], config: dict, side: int = 128) -> bytes:
    """Two rows a person: the truth of every edit, and below it what the fine-tuned model made of the source alone."""
    names = list(EDITS)
    label = 16
    sheet = Image.new("RGB", ((len(names) + 1) * (side + 2), label + len(numbers) * (2 * side + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(["source, rebuilt", *names]):
        draw.text((column * (side + 2) + 2, 2), name, fill="black")
    for place, number in enumerate(numbers):
        person, scene = person_of(config["seed"], number), scene_of(config["seed"], number, 0)
        scenes = [scene, *(edited(scene, EDITS[name]) for name in names)]
        truths = [render_portrait(person, one, size=config["size"]).image for one in scenes]
        files = [results / f"{number:03d}.fine-tuned.{name.replace(' ', '-')}.png" for name in ("rebuilt", *names)]
        for row, pictures in enumerate((truths, [decode_png(file.read_bytes()) for file in files])):
            for column, picture in enumerate(pictures):
                small = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (column * (side + 2), label + place * (2 * side + 8) + row * (side + 2)))
    return encode_png(np.asarray(sheet))
