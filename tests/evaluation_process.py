"""The evaluation of small people in a process of its own, to be killed from outside.

Usage: python -m tests.evaluation_process ROOT
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flows.presets import by_name
from tasks.evaluation_methods import BUILT_IN, Method
from tasks.evaluation_protocols import build_manifest, protocol_of
from tasks.evaluation_scores import instruments
from tasks.evaluation_units import UNTRAINED, EvaluationJob, PersonWorker
from tasks.preset import Preset

SIDE = 128
METHODS = ("copy", "paste", "truth", "zero-shot", "ours")


def small_preset() -> Preset:
    preset = by_name("debug")
    return replace(
        preset, shard=replace(preset.shard, size=SIDE), finetune=replace(preset.finetune, steps=1),
        edit=replace(preset.edit, batch=2),
    )  # fmt: skip


def small_job(root: str, *others: Method, keys: tuple[str, ...] = METHODS) -> EvaluationJob:
    return EvaluationJob(
        preset=small_preset(), manifest=build_manifest(protocol_of("smoke", people=2, each=1)),
        methods=(*(BUILT_IN[key] for key in keys), *others), base=UNTRAINED, parameters="true", tools=instruments(),
        root=root,
    )  # fmt: skip


def main(root: str) -> None:
    def report(told: Mapping[str, Any]) -> None:
        print(told["pictures"], told["note"], flush=True)

    job = small_job(root)
    worker = PersonWorker(job, report)
    for person in job.manifest.people:
        print("done", worker.process(person).made, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
