"""The tables of an evaluation, beside the figures that the paper published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.evaluation_figures import FEWEST, FIGURES
from tasks.evaluation_protocols import MODES

Summary = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
NOT_AVAILABLE = "not available"
"""In place of a number whose weights are not here."""
NOTHING = "–"
"""No picture has such a figure: no face in any, for example."""
PAPER = {
    "pose": {"lpips": 0.3747, "ssim": 0.6160, "fid": 53.63, "reid": 96.81, "pose_mm": 9.37},
    "expression": {"lpips": 0.0931, "ssim": 0.8860, "fid": 46.58, "reid": 97.40, "expression_mm": 5.14},
    "light": {"lpips": 0.1436, "ssim": 0.8033, "fid": 43.72, "reid": 97.22},
}
"""What the paper reports of InstaFace."""
PAPER_ABLATION = {
    "pose": {"reid": (96.20, 96.72), "fid": (70.4, 58.2), "ssim": (0.5766, 0.5879)},
    "expression": {"reid": (97.00, 97.28), "fid": (56.8, 46.7), "ssim": (0.8730, 0.8920)},
    "light": {"reid": (96.96, 97.12), "fid": (53.1, 44.7), "ssim": (0.7660, 0.7850)},
}
"""The paper's 600 images: an ablated model, the whole one."""
WHY_NOT_COMPARABLE = (
    "The paper's figures and these do not compare in absolute terms: the paper fine-tunes Stable Diffusion 1.5 on "
    "photographs (FFHQ) and measures with LPIPS, FID over Inception features and an unpublished Re-ID formula against, as far "
    "as can be inferred, the unedited photograph; `tiny` is a small network in a world of synthetic portraits, whose faces, "
    "backgrounds and features have another variety. Compare rows of one table with each other."
)
_QUALITY = ("lpips", "st_lpips", "ssim", "psnr", "fid", "kid", "frechet", "kernel")
_IDENTITY = ("dlib_same", "dlib_distance", "dlib_cosine", "dlib_confidence", "portrait_cosine", "crop_cosine",
             "arcface_cosine")  # fmt: skip
_CONTROL = ("pose_mm", "expression_mm", "pose_vertices_mm", "expression_vertices_mm", "pose_degrees", "light",
            "light_degrees", "face_found")  # fmt: skip
_REGIONS = ("psnr_head", "psnr_face", "psnr_background")
_CONDITIONED = {
    "dlib": ("dlib_same", "dlib_distance", "dlib_cosine", "dlib_confidence"), "portrait-recogniser": ("portrait_cosine",),
    "arcface": ("arcface_cosine",), "efficientnet-lite0": ("crop_cosine",),
}  # fmt: skip
"""Encoder of a preset → the measures of what conditions the model, which are then no independent judges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", self.note, ""] if self.note else [f"### {self.title}", ""]
        lines += ["| " + " | ".join(self.header) + " |", "|---" * len(self.header) + "|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join(lines)


def all_tables(facts: Mapping[str, Any]) -> list[Table]:
    """Every table of an evaluation's facts, in the order of a reader's questions."""
    out = [verdicts(facts)] if facts["comparisons"] else []
    if facts["truth"]:
        out += [_table(facts, "truth", mode) for mode in (*MODES, "all")]
    out += [_table(facts, "source", mode) for mode in (*MODES, "all")]
    out.append(_control(facts))
    if facts["truth"]:
        out.append(_regions(facts))
    return [*out, counts(facts)]


def verdicts(facts: Mapping[str, Any]) -> Table:
    """Ours against every baseline."""
    labels = {method["key"]: method["label"] for method in facts["methods"]}
    rows = [
        (labels[one["baseline"]], one["mode"], FIGURES[one["figure"]].label,
         f"{one['mean']:+.4g} [{one['low']:+.4g}, {one['high']:+.4g}]", str(one["count"]), one["verdict"])
        for one in facts["comparisons"]
    ]  # fmt: skip
    better, worse = (sum(row[-1] == word for row in rows) for word in ("better", "worse"))
    subject = labels[facts["subject"]]
    return Table(
        title=f"{subject.capitalize()} against every baseline",
        note=f"“{subject}” is better in {better} of {len(rows)} comparisons, worse in {worse}. Differences (it minus the "
        "baseline) over the pictures in which both can be measured, against the truth of the edit where there is one; a verdict "
        f"needs an interval without 0, and {FEWEST} people.",
        header=("baseline", "mode", "figure", "difference [95 %]", "pictures", "it is"),
        rows=tuple(rows),
    )


def _table(facts: Mapping[str, Any], against: str, mode: str) -> Table:
    names = [f"{name}_{against}" for name in (*_QUALITY, *_IDENTITY)]
    rows = [
        (method["label"], *(_cell(facts, method["key"], mode, name) for name in names)) for method in facts["methods"]
    ]
    note = "Against the true picture of the edit."
    if against == "source":
        note = "Against the unedited photograph, the paper's protocol: copying it is perfect here by definition."
        rows += _paper_rows(facts, mode, names)
    title = f"{'All modes' if mode == 'all' else mode.capitalize()}, against the {'truth' if against == 'truth' else 'photograph'}"
    return Table(title=title, note=note, header=("method", *(_label(facts, n) for n in names)), rows=tuple(rows))


def _paper_rows(facts: Mapping[str, Any], mode: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The paper's row or rows, its Re-ID in the column of the match rate (which reading it is was not published)."""
    columns = {"lpips_source": "lpips", "ssim_source": "ssim", "fid_source": "fid", "dlib_same_source": "reid"}
    labels: tuple[str, ...]
    if facts["protocol"] == "table3" and mode in PAPER_ABLATION:
        labels = ("the paper, ablated (its own data)", "the paper, whole (its own data)")
        published = [{key: pair[place] for key, pair in PAPER_ABLATION[mode].items()} for place in (0, 1)]
    elif mode in PAPER:
        labels, published = ("the paper (its own data)",), [PAPER[mode]]
    else:
        return []
    return [
        (label, *(_published(columns.get(name), values) for name in names))
        for label, values in zip(labels, published, strict=True)
    ]


def _published(name: str | None, values: Mapping[str, float]) -> str:
    if name is None or name not in values:
        return ""
    return f"{values[name]:g}{' % (unpublished formula)' if name == 'reid' else ''}"


def _control(facts: Mapping[str, Any]) -> Table:
    modes = {"pose": ("pose_mm", "pose_vertices_mm", "pose_degrees"),
             "expression": ("expression_mm", "expression_vertices_mm"), "light": ("light", "light_degrees")}  # fmt: skip
    names = [(mode, name) for mode, group in modes.items() for name in group] + [("all", "face_found")]
    rows = [
        (method["label"], *(_cell(facts, method["key"], mode, name) for mode, name in names))
        for method in facts["methods"]
    ]
    rows.append(("the paper (its own data)", *(f"{PAPER[m][n]:g}" if n in PAPER.get(m, {}) else "" for m, n in names)))
    return Table(
        title="Control: re-inferred parameters against those asked for",
        note="Pose errors of the pictures of novel pose, expression errors of those of novel expression, light of novel light. "
        "The row of the truth is the estimator's own error.",
        header=("method", *(f"{_label(facts, name)}" for _, name in names)),
        rows=tuple(rows),
    )


def _regions(facts: Mapping[str, Any]) -> Table:
    rows = [
        (method["label"], *(_cell(facts, method["key"], "all", name) for name in _REGIONS))
        for method in facts["methods"]
    ]
    return Table(
        title="By region, all modes", note="PSNR in dB against the true picture, by its regions.",
        header=("method", *(_label(facts, name) for name in _REGIONS)), rows=tuple(rows),
    )  # fmt: skip


def counts(facts: Mapping[str, Any]) -> Table:
    """What there was to measure, and what failed; nothing is dropped."""
    rows = [
        (method["label"], *(str(facts["counts"][method["key"]][name]) for name in COUNTED))
        for method in facts["methods"]
    ]
    return Table(
        title="Counted", note="Entries of the manifest, and how each ended.", header=("method", *COUNTED.values()),
        rows=tuple(rows),
    )  # fmt: skip


COUNTED = {
    "entries": "entries", "ok": "pictures", "missing": "no picture", "refused": "photograph refused",
    "no_face": "no face in the picture", "no_parameters": "no parameters re-inferred",
}  # fmt: skip


def count_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By the names of COUNTED."""
    ok = [row for row in rows if row["status"] == "ok"]
    return {
        "entries": len(rows),
        "ok": len(ok),
        "missing": sum(row["status"] == "missing" for row in rows),
        "refused": sum(row["status"] == "refused" for row in rows),
        "no_face": sum(not row["face_found"] for row in ok),
        "no_parameters": sum(row["pose_mm"] is None for row in ok),
    }


def meanings(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What every number means, and what is not available here and why."""
    seen = {name for modes in facts["summary"].values() for figures in modes.values() for name in figures}
    told = [(f"{one.label}", f"{one.meaning}; {one.better} is good") for one in FIGURES.values() if one.name in seen]
    return [*told, *((name, f"{NOT_AVAILABLE}: {why}") for name, why in sorted(facts["not_available"].items()))]


def _label(facts: Mapping[str, Any], name: str) -> str:
    stem = name.rpartition("_")[0]
    star = " *" if any(stem in _CONDITIONED.get(encoder, ()) for encoder in facts["encoders"]) else ""
    return f"{FIGURES[name].label}{star}"


def _cell(facts: Mapping[str, Any], method: str, mode: str, name: str) -> str:
    metric = name.removesuffix("_source").removesuffix("_truth").removesuffix("_cosine")
    if metric in facts["not_available"]:
        return NOT_AVAILABLE
    bounds = facts["summary"].get(method, {}).get(mode, {}).get(name)
    if bounds is None:
        return NOTHING
    mean, low, high = (bounds[key] + 0.0 for key in ("mean", "low", "high"))  # + 0.0: no "-0"
    return f"{mean:.4g} [{low:.4g}, {high:.4g}]"


def markdown(facts: Mapping[str, Any]) -> str:
    """All tables as one page."""
    intro = [f"# Evaluation: {facts['protocol']}", "", headline(facts), "", WHY_NOT_COMPARABLE, ""]
    intro += ["\\* The model is conditioned on the network behind this measure: it is no independent judge.", ""]
    tables = "\n\n".join(table.markdown() for table in all_tables(facts))
    told = "\n".join(f"* **{name}**: {meaning}" for name, meaning in dict(meanings(facts)).items())
    return "\n".join(intro) + "\n" + tables + f"\n\n### What the numbers mean\n\n{told}\n"


def headline(facts: Mapping[str, Any]) -> str:
    """What was evaluated, in a sentence or two."""
    base, source = str(facts["base"]).rstrip("/").rpartition("/")[2], str(facts["source"])
    if not source.startswith("portraits:"):
        source = source.rstrip("/").rpartition("/")[2]
    text = (
        f"{facts['images']} images a method of {facts['people']} people ({source}), preset {facts['preset']}, model "
        f"{base} ({facts['base_digest']}), {facts['edit_steps']} sampler steps, fine-tune of {facts['tune_steps']} "
        f"steps, {facts['parameters']} parameters of the source; manifest {facts['manifest']}. Intervals: 95 %, bootstrap over "
        "people; of Fréchet and kernel distances, jackknife over people."
    )
    if facts["refused"]:
        text += f" {len(facts['refused'])} photographs could not be used."
    return text
