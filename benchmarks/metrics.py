"""What each measure of an evaluation costs, and how long 1,200 pictures take.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py --people 4 --report benchmarks/metrics.md

One process with one thread; pictures are the true edits of synthetic people, which have faces, so every measure runs. The
last line goes through the evaluation's own code. With --processes that many processes do so at the same time.
"""

import argparse
import datetime
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flows.presets import by_name
from models.encoders.face_recognition import DlibEncoder
from models.face3d.landmarks import five_points
from models.metrics.reinference import parameter_error
from models.metrics.similarity import psnr, ssim
from tasks.evaluation_people import Preparation, Subject
from tasks.evaluation_protocols import build_manifest, protocol_of
from tasks.evaluation_scores import Examiner, instruments
from tasks.pictures import stack

IMAGES = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    examiner, subjects = prepared(given.preset, given.people, given.each)
    lines = costs(examiner, subjects)
    alone = whole(examiner, subjects)
    wall = together(given) if given.processes > 1 else alone[0]
    images = given.people * given.each * 3
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about = (
        f"{datetime.date.today().isoformat()}, commit {commit.stdout.strip()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"load {load:.1f} before the run, {images} pictures of 256² a process, one thread a process. "
        "Made by `python benchmarks/metrics.py`. "
        "CPU is CPU time, which company on the machine changes little; wall "
        "is what the clock says in that company."
    )
    one, six = (IMAGES * (alone[1] + alone[2] / methods) / 2 for methods in (1, 6))
    whole_set = (
        f"1,200 pictures of a method: {IMAGES * alone[1] / 2:.0f} s of CPU on each of 2 cores. The photograph and the true "
        f"pictures they are compared with cost {alone[2] * 1000:.0f} ms a picture, once for all methods: with them {one:.0f} s "
        f"for one method alone, {six:.0f} s a method in a table of six. Wanted: 300 s. By the clock, {given.processes} "
        f"process(es) at once in this company: {IMAGES * wall / given.processes:.0f} s for 1,200."
    )
    text = ["# Cost of measuring", "", about, "", "| measure | ms CPU a picture | ms wall |", "|---|---|---|"]
    text += [f"| {name} | {cpu * 1000:.1f} | {clock * 1000:.1f} |" for name, cpu, clock in lines]
    text += [
        f"| **all of it, by the evaluation's code** | **{alone[1] * 1000:.0f}** | {alone[0] * 1000:.0f} |",
        "",
        whole_set,
    ]
    print("\n".join(text))
    if given.report:
        given.report.write_text("\n".join(text) + "\n", encoding="utf-8")


def prepared(preset: str, people: int, each: int) -> tuple[Examiner, list[Subject]]:
    preparation = Preparation(by_name(preset), "true")
    manifest = build_manifest(protocol_of("table1", people=people, each=each))
    subjects = [preparation.subject(manifest, person) for person in manifest.people]
    return Examiner(instruments(), preparation.mapper.estimator), subjects


def whole(examiner: Examiner, subjects: list[Subject]) -> tuple[float, float, float]:
    """Seconds of clock and CPU a picture of a method, and CPU seconds of the references, which serve every method, a
    picture."""
    began = time.process_time()
    references = [examiner.references(subject) for subject in subjects]
    shared = time.process_time() - began
    cpu, wall = time.process_time(), time.perf_counter()
    count = 0
    for subject, seen in zip(subjects, references, strict=True):
        pictures = {entry.name: portrait.image for entry, portrait in zip(subject.entries, subject.truths, strict=True)}
        rows, _ = examiner.rows(subject, pictures, seen, {})
        assert all(row["face_found"] for row in rows)
        count += len(rows)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count, shared / count


def _one(arguments: tuple[str, int, int]) -> float:
    torch.set_num_threads(1)
    return whole(*prepared(*arguments))[0]


def together(given: argparse.Namespace) -> float:
    """Mean seconds a picture of processes that run at the same time."""
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        return float(np.mean(pool.map(_one, [(given.preset, given.people, given.each)] * given.processes)))


def costs(examiner: Examiner, subjects: list[Subject]) -> list[tuple[str, float, float]]:
    """(measure, CPU seconds, wall seconds) a picture."""
    images = [portrait.image for subject in subjects for portrait in subject.truths]
    sources = [subject.image for subject in subjects for _ in subject.truths]
    asked = [one for subject in subjects for one in subject.asked]
    found = [examiner.landmarker.detect(image)[0].mesh for image in images]
    metric = examiner.perceptual["st_lpips"]
    first = [stack([image]) * 2 - 1 for image in images]
    dlib = DlibEncoder()

    @torch.no_grad()
    def distances() -> None:
        for place in range(0, len(images), 4):
            layers = metric.features(torch.cat(first[place : place + 4]))
            metric.between(layers, layers)

    def similarities() -> None:
        for image, source in zip(images, sources, strict=True):
            one, other = stack([image]), stack([source])
            ssim(one, other)
            psnr(one, other)

    def parameters() -> None:
        for image, mesh, wanted in zip(images, found, asked, strict=True):
            estimate = examiner.estimator.estimate(image, np.asarray(mesh[:, :2], np.float32))
            parameter_error(examiner.estimator.model, wanted, estimate.parameters)

    def each(embed: Callable[..., object]) -> Callable[[], None]:
        return lambda: [embed(image, five_points(mesh)) for image, mesh in zip(images, found, strict=True)] and None

    measures: dict[str, Callable[[], object]] = {
        "ST-LPIPS, network of one picture and one comparison": distances,
        "SSIM and PSNR, one reference": similarities,
        "face detector and mesh": lambda: [examiner.landmarker.detect(image) for image in images],
        "dlib": each(dlib.embed),
        "portrait recogniser": each(examiner.embedders["portrait"].embed),
        "face crop features": each(examiner.embedders["crop"].embed),
        "EfficientNet features (Fréchet, kernel)": lambda: examiner.network.encode(images),
        "3D parameters re-inferred, errors in mm": parameters,
    }
    out = []
    for name, measure in measures.items():
        cpu, wall = time.process_time(), time.perf_counter()
        measure()
        out.append((name, (time.process_time() - cpu) / len(images), (time.perf_counter() - wall) / len(images)))
    return out


if __name__ == "__main__":
    main()
