"""Figures of the open estimator: python benchmarks/open_head.py PHOTOS [--heads 200] > benchmarks/open_head.md

PHOTOS is a folder with photographs and an index.json (file, faces, person). Everything is measured in one run; times
are processor seconds of this process (one thread), so that a busy machine does not count.
"""

import argparse
import cProfile
import datetime
import io
import itertools
import json
import os
import platform
import pstats
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from models.face3d.align import align_ffhq
from models.face3d.estimator import FaceEstimate, OpenEstimator
from models.face3d.landmarks import FaceLandmarker, landmarks68
from models.face3d.mesh_topology import MIRROR, lid_gap, mouth_gap
from models.face3d.open_head import identity_distance, load_open_head
from models.face3d.rendered_trial import compare, rendered_heads, rendered_persons, summarise
from models.images import encode_png, read_image


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One usable face of the folder."""

    name: str
    alone: bool
    person: str | None
    image: np.ndarray
    hint: np.ndarray
    estimate: FaceEstimate


def look(folder: Path, landmarker: FaceLandmarker, estimator: OpenEstimator) -> tuple[list[Seen], list[str]]:
    """Usable faces, and a line for each face or photograph that is not."""
    seen, refused = [], []
    for row in json.loads((folder / "index.json").read_text()):
        image = read_image((folder / row["file"]).read_bytes(), row["file"])
        faces = landmarker.detect(image)
        if not faces:
            refused.append(f"{row['file']}: no_face")
        for number, face in enumerate(faces):
            name = f"{row['file']}#{number}"
            if face.reason is not None:
                refused.append(f"{name}: {face.reason} (confidence {face.confidence:.2f})")
                continue
            square = align_ffhq(image, landmarks68(face.mesh), 256)
            hint = face.mesh[:, :2] @ square.to_aligned[:2, :2].T + square.to_aligned[:2, 2]
            found = estimator.estimate(square.image, hint)
            one = Seen(
                name=name, alone=row["faces"] == 1, person=row["person"], image=square.image, hint=hint, estimate=found
            )
            seen.append(one)
    return seen, refused


def landmarks_table(seen: list[Seen]) -> None:
    print("\n## Landmarks, mouths, eyes\n")
    print(
        "| face | residual | yaw | mouth seen | mouth fitted | lids seen | lids fitted |\n|---|---|---|---|---|---|---|"
    )
    for one in seen:
        e = one.estimate
        a, b = lid_gap(e.detected), lid_gap(e.fitted)
        print(
            f"| {one.name} | {e.residual:.4f} | {e.yaw_degrees:.0f} | {mouth_gap(e.detected):.3f} "
            f"| {mouth_gap(e.fitted):.3f} | {a[0]:.2f} {a[1]:.2f} | {b[0]:.2f} {b[1]:.2f} |"
        )
    chosen = [one.estimate for one in seen if one.alone and abs(one.estimate.yaw_degrees) < 40]
    residuals = np.array([e.residual for e in chosen])
    gaps = np.array([[mouth_gap(e.detected), mouth_gap(e.fitted)] for e in (one.estimate for one in seen)])
    closed = gaps[gaps[:, 0] < 0.03, 1]
    error = np.abs(gaps[:, 0] - gaps[:, 1])
    print(
        f"\n* single faces below 40° of yaw: mean residual {residuals.mean():.4f}, worst {residuals.max():.4f} (n = {len(chosen)})"
    )
    print(f"* mouth opening: mean error {error.mean():.4f}, worst {error.max():.4f}")
    print(f"* {len(closed)} closed mouths (seen below 0.03), widest fitted {closed.max():.3f}")


def known_heads(estimator: OpenEstimator, count: int) -> None:
    figures = [one for one in (compare(estimator, known) for known in rendered_heads(count, seed=9)) if one]
    print(f"\n## {count} rendered heads of known parameters (seed 9; {count - len(figures)} not detected)\n")
    for name, value in summarise(figures).items():
        print(f"* {name}: {value:.3f}")


def mirrors(estimator: OpenEstimator, seen: list[Seen]) -> None:
    shares = []
    for one in seen:
        other = estimator.estimate(np.ascontiguousarray(one.image[:, ::-1]))
        flipped = other.fitted[list(MIRROR)] * [-1, 1] + [256, 0]
        fitted = one.estimate.fitted
        width = np.linalg.norm(fitted[234] - fitted[454])
        shares.append(np.linalg.norm(flipped - fitted, axis=1).mean() / width)
    print("\n## Mirror test\n")
    print(f"* distance of the mirrored fit over face width: mean {np.mean(shares):.4f}, worst {np.max(shares):.4f}")


def persons(seen: list[Seen]) -> None:
    same, different = [], []
    for one, two in itertools.combinations(seen, 2):
        shapes = one.estimate.parameters.shape, two.estimate.parameters.shape
        distance = identity_distance(load_open_head(), *shapes)
        if one.person is not None and one.person == two.person:
            same.append((distance, one.name, two.name))
        else:
            different.append(distance)
    print("\n## Identity parameters of the same and of different persons\n")
    for distance, one, two in same:
        print(f"* {one} and {two}: {distance:.2f}")
    share = np.mean([value < max(d for d, _, _ in same) for value in different]) if same else float("nan")
    print(
        f"* different persons: median {np.median(different):.2f}, 5 % {np.quantile(different, 0.05):.2f}, "
        f"nearest {min(different):.2f}; {share:.1%} of them are nearer than the farthest pair of one person"
    )


def rendered_identities(estimator: OpenEstimator, landmarker: FaceLandmarker) -> None:
    head, codes = load_open_head(), []
    for person, known in rendered_persons(40, 3, seed=5):
        if landmarker.detect(known.image):
            codes.append((person, estimator.estimate(known.image).parameters.shape))
    same, different = [], []
    for (one, a), (two, b) in itertools.combinations(codes, 2):
        (same if one == two else different).append(identity_distance(head, a, b))
    order = (np.array(same)[:, None] < np.array(different)[None]).mean()
    print(
        f"* 40 rendered persons, 3 pictures each: same {np.median(same):.2f}, different {np.median(different):.2f} "
        f"(medians); a same pair is nearer than a different pair in {order:.1%} of comparisons"
    )


def speed(folder: Path, landmarker: FaceLandmarker, estimator: OpenEstimator, repetitions: int = 3) -> None:
    rows = []
    for _ in range(repetitions):
        for path in sorted(folder.glob("photo_*")):
            data, times = path.read_bytes(), [time.process_time()]
            image = read_image(data, path.name)
            times.append(time.process_time())
            faces = [face for face in landmarker.detect(image) if face.reason is None]
            times.append(time.process_time())
            if not faces:
                continue
            square = align_ffhq(image, landmarks68(faces[0].mesh), 256)
            hint = faces[0].mesh[:, :2] @ square.to_aligned[:2, :2].T + square.to_aligned[:2, 2]
            times.append(time.process_time())
            found = estimator.estimate(square.image, hint)
            times.append(time.process_time())
            maps = estimator.maps(found.parameters)
            times.append(time.process_time())
            maps.encode()
            assert found.parameters.albedo is not None
            encode_png(square.image), encode_png(found.parameters.albedo)
            times.append(time.process_time())
            rows.append(np.diff(times))
    table = np.array(rows) * 1e3
    print(f"\n## Speed ({len(rows)} photographs, the largest face of each; processor milliseconds)\n")
    print("| | decode | detect | align | estimate | maps | PNG files | all |\n|---|---|---|---|---|---|---|---|")
    for name, values in (("median", np.median(table, axis=0)), ("mean", table.mean(axis=0))):
        total = np.median(table.sum(axis=1)) if name == "median" else table.sum(axis=1).mean()
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + f" | {total:.1f} |")
    total = table.sum(axis=1)
    print(
        f"\n{1e3 / np.median(total):.1f} photographs a second and core by the median, {1e3 / total.mean():.1f} by the mean."
    )


def profile(estimator: OpenEstimator, one: Seen) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(10):
        estimator.estimate(one.image, one.hint)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(12)
    print("\n### Profile of ten estimates\n\n```")
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip()))
    print("```")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--heads", type=int, default=200)
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    print("# The open estimator in figures\n")
    print(
        f"{datetime.date.today()}, commit {commit.stdout.strip()}, {platform.machine()}, {os.cpu_count()} cores, one thread."
    )
    print("Made by `python benchmarks/open_head.py PHOTOS`; photographs are those of the shared test folder.")
    started = time.process_time()
    landmarker, estimator = FaceLandmarker(), OpenEstimator()
    print(f"Loading took {time.process_time() - started:.2f} s.")
    seen, refused = look(arguments.photos, landmarker, estimator)
    print("\nNot estimated: " + ("; ".join(refused) or "none") + ".")
    landmarks_table(seen)
    known_heads(estimator, arguments.heads)
    mirrors(estimator, seen)
    persons(seen)
    rendered_identities(estimator, landmarker)
    speed(arguments.photos, landmarker, estimator)
    profile(estimator, seen[0])


if __name__ == "__main__":
    main()
