"""A dataset of 70 shards by its commands: one photograph that the disk spoiled is redriven, and a rerun loads nothing."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from storage.manifest import read_status
from storage.stores import open_store
from tasks.sources import SourceConfig, embedded_portrait, list_photos
from tests.instaface_command import private_environment, run_instaface

pytestmark = pytest.mark.slow
SHARDS = 70
PATIENCE = 1500
"""Seconds before something counts as hanging, on a machine however busy."""
SPOILED = "0003.jpg"
STAGES = ("images", "maps", "features")
HEAVY = (
    "ai_edge_litert", "cv2", "diffusers", "dlib", "insightface", "matplotlib", "numba", "onnxruntime", "scipy", "skimage",
    "tensorflow", "torch", "transformers",
)  # fmt: skip
# What `instaface` is, with two trip-wires: whatever it imported is told, and Ray may not start.
WATCHED = f"""
import json, sys
import ray
def refuse(*arguments, **named):
    raise AssertionError("Ray was started")
ray.init = refuse
from flows.cli import main
try:
    main()
finally:
    print("LOADED", json.dumps(sorted(sys.modules.keys() & {set(HEAVY)!r})), file=sys.stderr)
"""


@dataclass(frozen=True)
class Dataset:
    folder: Path
    first: dict[str, Any]
    """What the first run said, with a photograph that could not be read."""
    redriven: dict[str, Any]


def parameters(source: str) -> list[str]:
    given = {"source": source, "root": "root", "preset": "tiny", "changes": '{"samples_per_shard": 1}'}
    return [word for name, value in given.items() for word in ("-p", f"{name}={value}")]


def said(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    stages: dict[str, Any] = json.loads(done.stdout)
    return stages


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """70 views of one portrait, small so that aligning them costs little; all of them were listed while whole."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "photos").mkdir()
    portrait = Image.open(embedded_portrait()).convert("RGB")
    for number in range(SHARDS):
        left, top = 3 * (number % 8), 2 * (number // 8)  # each its own: equal pictures would be duplicates
        view = portrait.crop((left, top, left + 488, top + 488)).resize((320, 320))
        view.save(folder / "photos" / f"{number:04d}.jpg", quality=90)
    list_photos(SourceConfig(source=str(folder / "photos")), open_store(folder / "root"))
    spoiled = folder / "photos" / SPOILED
    whole, times = spoiled.read_bytes(), spoiled.stat()
    spoiled.write_bytes(whole[: len(whole) // 3] + bytes(len(whole) - len(whole) // 3))
    os.utime(spoiled, ns=(times.st_atime_ns, times.st_mtime_ns))
    source = str(folder / "photos")
    first = said(run_instaface("run", "preprocess-ffhq", *parameters(source), cwd=folder, timeout=PATIENCE))
    spoiled.write_bytes(whole)
    os.utime(spoiled, ns=(times.st_atime_ns, times.st_mtime_ns))
    redrive = [*parameters(source), "-p", 'statuses=["corrupt"]']
    return Dataset(folder, first, said(run_instaface("run", "redrive-quarantine", *redrive, cwd=folder)))


def test_a_redrive_makes_what_failed_and_copies_the_rest(dataset: Dataset) -> None:
    assert dataset.first["images"]["counts"] == {"ok": SHARDS - 1, "corrupt": 1}
    assert dataset.first["features"]["counts"] == {"ok": SHARDS - 1}
    assert dataset.redriven["images"]["uri"] != dataset.first["images"]["uri"]
    assert all(dataset.redriven[stage]["counts"] == {"ok": SHARDS} for stage in STAGES)
    for stage in STAGES:
        before = read_status(open_store(dataset.first[stage]["uri"]))
        after = read_status(open_store(dataset.redriven[stage]["uri"]))
        fine = {row.content_key for row in before if row.status == "ok"}
        assert len(fine) == SHARDS - 1
        assert fine < {row.content_key for row in after}
    tried = [row for row in read_status(open_store(dataset.redriven["images"]["uri"])) if row.attempt == 2]
    assert [row.source.rsplit("/", 1)[1] for row in tried] == [SPOILED]


def test_a_rerun_of_the_finished_dataset_loads_no_model_and_starts_no_ray(dataset: Dataset) -> None:
    arguments = ["run", "preprocess-ffhq", *parameters(str(dataset.folder / "photos"))]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments], cwd=dataset.folder, env=private_environment(dataset.folder),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    again = said(done)
    assert [line for line in done.stderr.splitlines() if line.startswith("LOADED")] == ["LOADED []"]
    assert all(again[stage]["reused"] for stage in STAGES)
    # The redriven generations are the ones that count.
    assert [again[stage]["uri"] for stage in STAGES] == [dataset.redriven[stage]["uri"] for stage in STAGES]
    manifest = json.loads(open_store(again["features"]["uri"]).read("manifest.json"))
    assert len(manifest["shards"]) == SHARDS
