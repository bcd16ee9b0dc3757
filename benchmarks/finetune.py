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
from models.tiny.shipped import STAGE1, shipped_folder
from tasks.edit_config import FinetuneConfig
from tasks.featurizer import Featurizer
from tasks.identity_training import train_steps
from tasks.mapper import Mapper
from tasks.portrait_scores import Judge, region_psnr, scored
from tasks.portrait_trial import EDITS, Frozen, Subject, TrialConfig, made_pictures, meet

MEASURED = ("turn left", "turn right", "smile", "light left")
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "full (the preset)": {},
    "lora, rank 16": {"method": "lora"},
    "tokens": {"method": "tokens"},
    "timesteps not stratified": {"stratified": False},
    "antithetic noise": {"antithetic": True},
    "guidance on the untuned projection": {"split_projection": True},
    "early stop, patience 3": {"patience": 3},
    "100 steps": {"steps": 100},
}
FIGURES = ("reconstruction", "head", "face", "identity")


def prepared(parameters: str = "true") -> tuple[InstaFace, Frozen, TrialConfig]:
    preset = by_name("tiny")
    model = load_model(shipped_folder(STAGE1)).eval()
    frozen = Frozen(mapper=Mapper(preset.extract), featurizer=Featurizer(preset.encode))
    return model, frozen, TrialConfig(size=preset.shard.size, parameters=parameters, finetune=preset.finetune)


def cost(arguments: argparse.Namespace) -> None:
    model, frozen, config = prepared()
    subject = meet(0, frozen, config)
    phases(arguments.rounds)
    steps = {"shared pass (ours)": lambda: shared_step(model, subject, config.finetune),
             "eight plain copies (naive)": lambda: naive_step(model, subject, config.finetune)}  # fmt: skip
    table("step", in_turns(steps, arguments.rounds), "eight plain copies (naive)")
    names = list(EDITS)
    together, alone = replace(config, batch=len(names)), replace(config, batch=1)
    ways = {"one by one": lambda: made_pictures(model, frozen.codec, subject, alone, names),
            "batched": lambda: made_pictures(model, frozen.codec, subject, together, names)}  # fmt: skip
    table(f"{len(names)} edits of {config.steps} steps", in_turns(ways, max(2, arguments.rounds // 4)), "one by one")


def phases(rounds: int) -> None:
    """Seconds by phase of whole fine-tunes of the embedded portrait, as the flow runs them but in this process."""
    from storage.records import commit_record, committed
    from storage.stores import open_store
    from tasks.finetune_identity import FinetuneJob
    from tasks.identity_training import train_identity
    from tasks.image_uri import read_image_uri

    class Nowhere:
        """A mailbox whose reports nobody reads."""

        def __init__(self) -> None:
            self.put = self

        def remote(self, report: object) -> None:
            del report

    rows: list[Mapping[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = open_store(folder)
        shipped = shipped_folder(STAGE1)
        files = {str(p.relative_to(shipped)): p.read_bytes() for p in sorted(shipped.rglob("*")) if p.is_file()}
        base = commit_record(root.child("stage1/shipped"), files, {"step": 0, "losses": [1.0]}).uri
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
    for number in range(arguments.people):
        file = arguments.out / f"person-{number:03d}.json"
        if not file.is_file():
            subject = meet(number, frozen, config)
            own = [measured("zero-shot", model, frozen, subject, config, judge, 0.0)]
            for name, changes in OPTIONS.items():
                finetune = replace(config.finetune, **changes)  # type: ignore[arg-type]
                tuned = copy.deepcopy(model).train()
                start = time.perf_counter()
                train_steps(finetune, subject.key, tuned, subject.features)
                own.append(measured(name, tuned.eval(), frozen, subject, config, judge, time.perf_counter() - start))
            file.write_text(json.dumps(own, indent=1) + "\n")
        rows += json.loads(file.read_text())
        print(f"person {number + 1} of {arguments.people}", flush=True)
    report(rows)


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
    parser.add_argument("--parameters", choices=("true", "estimated"), default="true")
    parser.add_argument("--out", type=Path, default=Path("finetune-options"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"cost": cost, "options": options}[arguments.part](arguments)


if __name__ == "__main__":
    main()
