"""What a fine-tune costs, and what each of its options brings, with `tiny` on people it never saw.

    python benchmarks/finetune.py cost                                 time by phase; our step against the naive one; edits/s
    python benchmarks/finetune.py options --people 10 --out RESULTS    each option on the same people

Ratios are taken side by side, in turns, in one run. `options` writes a person's rows when the person is finished and goes
on where it was. Both print markdown.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from flows.presets import by_name
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.folder import load_model
from models.metrics.intervals import bootstrap
from models.portraits.people import person_of
from models.portraits.portrait import render_portrait
from models.portraits.scenes import scene_of
from models.tiny.shipped import STAGE1, shipped_folder
from tasks.edit_config import FinetuneConfig
from tasks.featurizer import Featurizer
from tasks.identity_training import Prior, train_steps
from tasks.mapper import Mapper
from tasks.portrait_scores import Judge, region_psnr, scored
from tasks.portrait_trial import EDITS, Frozen, Subject, TrialConfig, made_pictures, meet
from tasks.truth import truth_text

MEASURED = ("turn left", "turn right", "smile", "light left")
PLAIN = {"antithetic": False}
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "full, as the paper": PLAIN,
    "antithetic noise (the preset)": {},
    "timesteps not stratified": {**PLAIN, "stratified": False},
    "guidance on the untuned projection": {**PLAIN, "split_projection": True},
    "prior preservation, weight 1": {**PLAIN, "prior_weight": 1.0},
    "early stop, patience 3": {**PLAIN, "patience": 3},
    "lora, rank 16, the rate of full": {**PLAIN, "method": "lora", "feed_forward": False},
    "lora, rank 16, 10 times the rate": {**PLAIN, "method": "lora", "learning_rate": 3e-3, "feed_forward": False},
    "lora, 10 times the rate, feed-forward too": {"method": "lora", "learning_rate": 3e-3},
    "lora, rank 64, 10 times the rate, feed-forward too": {"method": "lora", "learning_rate": 3e-3, "rank": 64},
    "tokens, the rate of full": {**PLAIN, "method": "tokens"},
    "tokens, 30 times the rate": {**PLAIN, "method": "tokens", "learning_rate": 1e-2},
}  # fmt: skip
"""Changes to the preset's fine-tune."""
OTHERS = range(100, 124)
"""People of the same population whose features preserve the prior."""
FIGURES = ("reconstruction", "head", "face", "identity")


def prepared(parameters: str = "true") -> tuple[InstaFace, Frozen, TrialConfig]:
    preset = by_name("tiny")
    model = load_model(shipped_folder(STAGE1)).eval()
    frozen = Frozen(mapper=Mapper(preset.extract), featurizer=Featurizer(preset.encode))
    return model, frozen, TrialConfig(
        size=preset.shard.size, parameters=parameters, edit=preset.edit, finetune=preset.finetune
    )


def cost(arguments: argparse.Namespace) -> None:
    model, frozen, config = prepared()
    subject = meet(0, frozen, config)
    phases(arguments.rounds)
    steps = {"shared pass (ours)": lambda: shared_step(model, subject, config.finetune),
             "eight plain copies (naive)": lambda: naive_step(model, subject, config.finetune)}  # fmt: skip
    table("step", in_turns(steps, arguments.rounds), "eight plain copies (naive)")
    names = list(EDITS)
    together, alone = (replace(config, edit=replace(config.edit, batch=batch)) for batch in (len(names), 1))
    ways = {"one by one": lambda: made_pictures(model, frozen.codec, subject, alone, names),
            "batched": lambda: made_pictures(model, frozen.codec, subject, together, names)}  # fmt: skip
    table(f"{len(names)} edits of {config.edit.steps} steps", in_turns(ways, max(2, arguments.rounds // 4)), "one by one")


def phases(rounds: int) -> None:
    """Seconds by phase of whole fine-tunes of the embedded portrait, as the flow runs them but in this process."""
    from storage.records import committed
    from storage.stores import open_store
    from tasks.identity_training import FinetuneJob, train_identity
    from tasks.image_uri import read_image_uri
    from tasks.publish_shipped import publish_shipped

    class Nowhere:
        """A mailbox whose reports nobody reads."""

        def __init__(self) -> None:
            self.put = self

        def remote(self, report: object) -> None:
            del report

    rows: list[Mapping[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = open_store(folder)
        base = publish_shipped(root.uri)
        photograph = read_image_uri("embedded:portrait")
        for number in range(max(2, rounds // 4)):
            home = root.child(f"identities/one/{number}")
            job = FinetuneJob(
                preset=by_name("tiny"), image_uri="embedded:portrait", image_sha256="0" * 64, identity_id="one",
                consent=None, base=base, root=root, home=home,
            )  # fmt: skip
            start = time.perf_counter()
            train_identity(job, photograph, Nowhere())
            whole = time.perf_counter() - start
            known = committed(home.uri).facts["seconds"]
            rows.append({**known, "commit": whole - sum(known.values())})
    print("\n| phase | median s |\n|---|---|")
    for name in rows[0]:
        print(f"| {name} | {statistics.median(row[name] for row in rows):.2f} |")
    print(f"| all | {statistics.median(sum(row.values()) for row in rows):.2f} |")


def shared_step(model: InstaFace, subject: Subject, config: FinetuneConfig) -> None:
    train_steps(replace(config, steps=1), subject.key, copy.deepcopy(model).train(), subject.features)


def naive_step(model: InstaFace, subject: Subject, config: FinetuneConfig) -> None:
    """The same step over eight plain copies of every input, as published scripts take it."""
    own = copy.deepcopy(model).train().requires_grad_(False)
    trained = [*own.denoiser.requires_grad_(True).parameters(), *own.identity.requires_grad_(True).parameters()]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    batch = {n: t.expand(config.copies, *t.shape[1:]).clone() for n, t in subject.features.items()}
    draws = draws_for(
        own.config, [subject.key], run_seed=0, epoch=0, copies=config.copies, stratified=config.stratified
    )
    loss = own.loss(batch, draws)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, config.clip)
    optimiser.step()


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return times


def table(title: str, times: Mapping[str, Sequence[float]], base: str) -> None:
    print(f"\n| {title} | median s | ratio | runs |\n|---|---|---|---|")
    for name, seconds in times.items():
        ratios = [one / other for one, other in zip(seconds, times[base], strict=True)]
        print(f"| {name} | {statistics.median(seconds):.3f} | {statistics.median(ratios):.2f} | {len(seconds)} |")


def options(arguments: argparse.Namespace) -> None:
    model, frozen, config = prepared(arguments.parameters)
    judge = Judge(None)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    chosen = arguments.only or tuple(OPTIONS)
    prior_wanted = any(OPTIONS[name].get("prior_weight") for name in chosen)
    others = [(f"portrait-{number}", encoded(number, frozen, config)) for number in OTHERS if prior_wanted]
    for step in range(arguments.people):
        number = (arguments.first + step) % arguments.people
        file = arguments.out / f"person-{number:03d}.json"
        if not file.is_file():
            subject = meet(number, frozen, config)
            own = [measured("zero-shot", model, frozen, subject, config, judge, 0.0)]
            for name in chosen:
                changes = OPTIONS[name]
                finetune = replace(config.finetune, **changes)  # type: ignore[arg-type]
                tuned = copy.deepcopy(model).train()
                start = time.perf_counter()
                prior = Prior(finetune, others) if finetune.prior_weight else None
                train_steps(finetune, subject.key, tuned, subject.features, prior=prior)
                own.append(measured(name, tuned.eval(), frozen, subject, config, judge, time.perf_counter() - start))
            file.write_text(json.dumps(own, indent=1) + "\n")
        rows += json.loads(file.read_text())
        print(f"person {step + 1} of {arguments.people}", flush=True)
    report(rows)


def encoded(number: int, frozen: Frozen, config: TrialConfig) -> Mapping[str, bytes]:
    """The features of one person's picture as preprocessing stores them."""
    portrait = render_portrait(person_of(config.seed, number), scene_of(config.seed, number, 0), size=config.size)
    _, maps, mesh = frozen.mapper.face(portrait.image, f"portrait-{number}", truth_text(portrait.parameters))
    return frozen.featurizer.features(portrait.image, maps, mesh)


def measured(
    name: str, model: InstaFace, frozen: Frozen, subject: Subject, config: TrialConfig, judge: Judge, seconds: float
) -> dict[str, object]:
    """PSNR of the rebuilt photograph, of edits in head and face, and dlib's distance of the edits to the photograph."""
    pictures = made_pictures(model, frozen.codec, subject, config, ["", *MEASURED])
    rebuilt = region_psnr(pictures.pop(""), subject.source.image, None)
    rows = scored(judge, subject, name, pictures)
    _, before = judge.seen(subject.source.image)
    distances = [
        float(np.linalg.norm(np.asarray(row["dlib"]) - before))
        for row in rows
        if row["dlib"] is not None and before is not None
    ]
    return {
        "person": subject.number, "option": name, "seconds": seconds, "reconstruction": rebuilt,
        "head": float(np.mean([row["head"] for row in rows])), "face": float(np.mean([row["face"] for row in rows])),
        "identity": float(np.mean(distances)) if distances else None, "no_face": len(rows) - len(distances),
    }  # fmt: skip


def report(rows: Sequence[Mapping[str, object]]) -> None:
    names = list(dict.fromkeys(str(row["option"]) for row in rows))
    print(
        "\n| option | reconstruction dB | edits, head dB | edits, face dB | dlib distance | s |\n|---|---|---|---|---|---|"
    )
    for name in names:
        own = [row for row in rows if row["option"] == name]
        cells = []
        for figure in FIGURES:
            values = [float(row[figure]) for row in own if row[figure] is not None]  # type: ignore[arg-type]
            interval = bootstrap(values)
            cells.append(f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
        seconds = statistics.median(float(row["seconds"]) for row in own)  # type: ignore[arg-type]
        print(f"| {name} | {' | '.join(cells)} | {seconds:.1f} |")
    print(f"\nMeans over {len({row['person'] for row in rows})} people, with 95 % bootstrap intervals.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("cost", "options"))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="several processes share RESULTS by starting elsewhere")
    parser.add_argument("--only", nargs="+", choices=tuple(OPTIONS), help="some of the options")
    parser.add_argument("--parameters", choices=("true", "estimated"), default="true")
    parser.add_argument("--out", type=Path, default=Path("finetune-options"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"cost": cost, "options": options}[arguments.part](arguments)


if __name__ == "__main__":
    main()
