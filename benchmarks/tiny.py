"""The tiny model on people it never saw: edits against the truth of these edits, baselines, ablations, identity.

    python benchmarks/tiny.py --model shipped --out RESULTS [--people 20] [--parameters true] [--report benchmarks/tiny.md]

`--model` is a folder of `save_pretrained` or "shipped". People are taken from the population `--seed` (1000; training uses
seed 0). Each person's rows are written when the person is finished, and a run goes on where it was; several processes can
share the work with `--first`. `--report` puts all of RESULTS together: a table (markdown and JSON beside it) and a page of
edits.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
from tiny_report import write_report

from flows.presets import by_name
from models.diffusion.editor import InstaFace
from models.diffusion.folder import load_model
from models.diffusion.hidden_face import hide_face
from models.images import encode_png
from models.metrics.perceptual import shift_tolerant
from models.portraits.people import person_of
from models.portraits.portrait import render_portrait
from models.portraits.scenes import scene_of
from models.tiny.shipped import STAGE1, shipped_folder
from tasks.featurizer import Featurizer, map_latents
from tasks.mapper import Mapper
from tasks.portrait_scores import Judge, region_psnr, scored
from tasks.portrait_trial import (
    EDITS,
    Frozen,
    Subject,
    TrialConfig,
    baselines,
    made_pictures,
    meet,
    partly_tuned,
    through_codec,
    tuned,
)
from tasks.truth import truth_text

ABLATED = ("turn left", "turn right", "smile", "light left")
"""Edits that ablations are measured on."""
SHOWN = ("fine-tuned", "zero-shot")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--parameters", choices=("true", "estimated"), default="true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tune-steps", type=int)
    parser.add_argument("--tune-rate", type=float)
    parser.add_argument("--no-ablations", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--page", type=int, default=6, help="people on the page of edits")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    preset = by_name(given.preset)
    changes = {"steps": given.tune_steps, "learning_rate": given.tune_rate}
    finetune = dataclasses.replace(
        preset.finetune, **{name: value for name, value in changes.items() if value is not None}
    )
    config = TrialConfig(
        seed=given.seed, parameters=given.parameters, size=preset.shard.size, finetune=finetune,
        edit=dataclasses.replace(preset.edit, steps=given.steps, batch=4),
    )  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    folder = shipped_folder(STAGE1) if given.model == "shipped" else Path(given.model)
    model = load_model(folder).eval()
    frozen = Frozen(mapper=Mapper(preset.extract), featurizer=Featurizer(preset.encode))
    judge = Judge(shift_tolerant(), frozen.mapper.estimator)
    numbers = [(given.first + step) % given.people for step in range(given.people)]
    for number in numbers:
        place = given.out / f"person-{number:03d}.json"
        if place.exists():
            continue
        began = time.monotonic()
        result = trial(model, frozen, judge, config, number, given.out, ablations=not given.no_ablations)
        staged = place.with_suffix(".part")
        staged.write_text(json.dumps(result) + "\n", encoding="utf-8")
        staged.replace(place)
        print(f"person {number}: {time.monotonic() - began:.0f} s", flush=True)
    if given.report is not None:
        facts = {
            "model": given.model if given.model == "shipped" else folder.name, "preset": given.preset,
            "config": dataclasses.asdict(config), "threads": given.threads,
        }  # fmt: skip
        write_report(given.out, given.report, facts, page=given.page)


def trial(
    model: InstaFace, frozen: Frozen, judge: Judge, config: TrialConfig, number: int, out: Path, *, ablations: bool
) -> dict:
    """Everything about one person."""
    subject = meet(number, frozen, config)
    names = ["", *EDITS]
    rows, seconds = [], {}
    for method, pictures in baselines(subject, frozen.codec).items():
        rows += scored(judge, subject, method, pictures)
    rows += scored(judge, subject, "truth", {name: portrait.image for name, portrait in subject.truths.items()})
    began = time.monotonic()
    made = {"zero-shot": made_pictures(model, frozen.codec, subject, config, names)}
    seconds["edit"] = (time.monotonic() - began) / len(names)
    began = time.monotonic()
    own, losses = tuned(model, subject, config)
    seconds["fine-tune"] = time.monotonic() - began
    made["fine-tuned"] = made_pictures(partly_tuned(model, own, subject, config), frozen.codec, subject, config, names)
    bare = uncarried(config)
    for method, one in (("zero-shot", model), ("fine-tuned", own)):
        made[f"{method}, nothing carried"] = made_pictures(one, frozen.codec, subject, bare, list(EDITS))
    for method, pictures in made.items():
        rows += scored(judge, subject, method, pictures)
    rebuilt = {method: _rebuilt(subject, made[method][""]) for method in SHOWN}
    rebuilt["codec alone"] = _rebuilt(subject, through_codec(frozen.codec, subject.source.image))
    if ablations:
        rows += _ablations(model, own, frozen, judge, bare, subject)
    _, embedding = judge.seen(subject.source.image)
    for method in SHOWN:
        for name, picture in made[method].items():
            (out / f"{number:03d}.{method}.{name.replace(' ', '-') or 'rebuilt'}.png").write_bytes(encode_png(picture))
    return {
        "person": number,
        "rows": rows,
        "rebuilt": rebuilt,
        "maps_codec": _maps_codec(frozen, subject),
        "dlib": None if embedding is None else [float(value) for value in embedding],
        "seconds": seconds,
        "losses": losses,
    }


def uncarried(config: TrialConfig) -> TrialConfig:
    """The model's own pictures: the photograph's detail is not carried."""
    return dataclasses.replace(config, edit=dataclasses.replace(config.edit, carry_detail=False))


def _ablations(
    model: InstaFace, own_model: InstaFace, frozen: Frozen, judge: Judge, config: TrialConfig, subject: Subject
) -> list[dict]:
    """What each input is for: edits without it, zero-shot and some fine-tuned; nothing is carried, so that the model's own
    pictures show."""
    own = subject.features
    other = _features_of(subject.number + 1, frozen, config)
    stand_ins = {
        "tokens of another person": {"face": other["face"], "semantic": other["semantic"]},
        "no face embedding": {"face": torch.zeros_like(own["face"]), "semantic": own["semantic"]},
        "face embedding of another": {"face": other["face"], "semantic": own["semantic"]},
        "no semantic tokens": {"face": own["face"], "semantic": torch.zeros_like(own["semantic"])},
    }
    rows = []
    for method, features in stand_ins.items():
        made = made_pictures(model, frozen.codec, subject, config, ABLATED, features=features)
        rows += scored(judge, subject, method, made)
        if method in ("tokens of another person", "no face embedding"):
            made = made_pictures(own_model, frozen.codec, subject, config, ABLATED, features=features)
            rows += scored(judge, subject, f"fine-tuned, {method}", made)
    unlocked = dataclasses.replace(config, edit=dataclasses.replace(config.edit, background_lock=False))
    rows += scored(
        judge, subject, "without background lock", made_pictures(model, frozen.codec, subject, unlocked, ABLATED)
    )
    for method in ("no semantic tokens", "tokens of another person"):
        made = made_pictures(model, frozen.codec, subject, unlocked, ABLATED, features=stand_ins[method])
        rows += scored(judge, subject, f"{method}, without background lock", made)
    rows += _hidden(model, frozen, judge, config, subject, other["face"])
    turned = {name: subject.edited[ABLATED[(place + 1) % len(ABLATED)]] for place, name in enumerate(ABLATED)}
    shuffled = made_pictures(model, frozen.codec, subject, config, ABLATED, wanted=turned)
    return rows + scored(judge, subject, "maps of another edit", shuffled)


def _hidden(
    model: InstaFace, frozen: Frozen, judge: Judge, config: TrialConfig, subject: Subject, other: torch.Tensor
) -> list[dict]:
    """What the face embedding tells where nothing else shows the face: neither semantic tokens nor the texture of the maps."""
    own, hidden = subject.features, {}
    for name in ABLATED:
        wanted = subject.edited[name]
        semantic, conditions = hide_face(model.config, own["semantic"], map_latents(frozen.codec, [wanted.maps]))
        hidden[name] = dataclasses.replace(wanted, conditions=conditions)
    faces = {"": own["face"], ", no face embedding": torch.zeros_like(own["face"]), ", face embedding of another": other}
    rows = []
    for method, face in faces.items():
        made = made_pictures(
            model, frozen.codec, subject, config, ABLATED, features={"face": face, "semantic": semantic}, wanted=hidden
        )
        rows += scored(judge, subject, f"face hidden{method}", made)
    return rows


def _features_of(number: int, frozen: Frozen, config: TrialConfig) -> dict[str, torch.Tensor]:
    from tasks.array_bytes import from_npy

    portrait = render_portrait(person_of(config.seed, number), scene_of(config.seed, number, 0), size=config.size)
    truth = truth_text(portrait.parameters) if config.parameters == "true" else None
    _, maps, mesh = frozen.mapper.face(portrait.image, f"portrait-{number}", truth)
    encoded = frozen.featurizer.features(portrait.image, maps, mesh)
    return {name.removesuffix(".npy"): torch.from_numpy(from_npy(data)).float()[None] for name, data in encoded.items()}


def _rebuilt(subject: Subject, picture) -> dict[str, float | None]:
    source = subject.source
    regions = {"all": None, "head": source.head, "face": source.face, "background": ~source.head}
    return {name: region_psnr(picture, source.image, mask) for name, mask in regions.items()}


def _maps_codec(frozen: Frozen, subject: Subject) -> dict[str, float | None]:
    """PSNR of the condition maps through the codec."""
    import numpy as np

    floats = {"albedo": subject.maps.albedo, "normal": subject.maps.normal / 2 + 0.5, "render": subject.maps.render}
    pictures = {name: (np.clip(one, 0, 1) * 255 + 0.5).astype(np.uint8) for name, one in floats.items()}
    return {name: region_psnr(through_codec(frozen.codec, one), one, None) for name, one in pictures.items()}


if __name__ == "__main__":
    main()
