"""Two synthetic people through untrained networks: known answers, what is kept, what is made again."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.presets import by_name
from models.diffusion.editor import InstaFace
from models.diffusion.presets import tiny_config
from models.images import encode_png
from storage.records import committed
from storage.stores import open_store
from tasks.evaluate_protocol import collect
from tasks.evaluation_figures import Measured
from tasks.evaluation_methods import BUILT_IN, Maker, other_images
from tasks.evaluation_people import Preparation
from tasks.evaluation_protocols import build_manifest, protocol_of
from tasks.evaluation_units import EvaluationJob, PersonDone, PersonWorker, model_digest
from tests.evaluation_process import METHODS, SIDE, small_job
from tests.two_photographs import write_two_photographs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def worker(place: Path) -> PersonWorker:
    return PersonWorker(small_job(str(place)), None)


@pytest.fixture(scope="module")
def done(worker: PersonWorker) -> list[PersonDone]:
    return [worker.process(person) for person in worker.job.manifest.people]


@pytest.fixture(scope="module")
def measured(worker: PersonWorker, done: list[PersonDone]) -> dict[str, Measured]:
    return collect(worker.job, done)


def again(worker: PersonWorker, job: EvaluationJob) -> list[PersonDone]:
    """Another job in the same process, whose models are loaded."""
    before, worker.job = worker.job, job
    try:
        return [worker.process(person) for person in job.manifest.people]
    finally:
        worker.job = before


def test_the_truth_is_perfect_against_itself_and_a_copy_against_the_source(measured: dict[str, Measured]) -> None:
    assert list(measured) == list(METHODS)
    for row in measured["truth"].rows:
        assert (row["st_lpips_truth"], row["ssim_truth"], row["psnr_truth"]) == (0.0, pytest.approx(1), 99.0)
        assert (row["dlib_distance_truth"], row["dlib_same_truth"], row["face_found"]) == (0.0, True, True)
        assert row["psnr_head"] == row["psnr_face"] == row["psnr_background"] == 99.0
    for row in measured["copy"].rows:
        assert (row["st_lpips_source"], row["ssim_source"], row["dlib_distance_source"]) == (0.0, pytest.approx(1), 0.0)
        assert row["st_lpips_truth"] > 0
    turned = {
        key: next(row["pose_degrees"] for row in measured[key].rows if row["mode"] == "pose")
        for key in ("truth", "copy")
    }
    assert turned["truth"] < turned["copy"], "a copy is not turned"


def test_untrained_pictures_are_worst(measured: dict[str, Measured]) -> None:
    for row, copied in zip(measured["ours"].rows, measured["copy"].rows, strict=True):
        assert row["entry"] == copied["entry"]
        assert row["st_lpips_truth"] > copied["st_lpips_truth"]


def test_pictures_without_a_face_are_told(worker: PersonWorker, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for entry in worker.job.manifest.entries:
        (tmp_path / f"{entry.name}.png").write_bytes(encode_png(noise))
    job = replace(worker.job, methods=(other_images("noise", str(tmp_path)),))
    for row in collect(job, again(worker, job))["noise"].rows:
        assert (row["status"], row["face_found"]) == ("ok", False)
        assert row["dlib_distance_source"] is None
        assert row["dlib_same_source"] is False
        assert row["pose_mm"] is None


def test_a_photograph_without_a_face_costs_its_own_entries_and_those_it_drives(tmp_path: Path) -> None:
    write_two_photographs(tmp_path / "album")
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    (tmp_path / "album" / "wall.png").write_bytes(encode_png(noise))
    manifest = build_manifest(protocol_of("smoke", people=3, each=2), str(tmp_path / "album"))
    job = replace(small_job(str(tmp_path / "root")), manifest=manifest, methods=(BUILT_IN["copy"],))
    worker = PersonWorker(job, None)
    done = [worker.process(person) for person in manifest.people]
    wall = next(person.id for person in manifest.people if person.name == "wall.png")
    assert [one.person for one in done if one.refused is not None] == [wall]
    rows = collect(job, done)["copy"].rows
    assert [row["entry"] for row in rows] == [entry.name for entry in manifest.entries]
    driven = {entry.name for entry in manifest.entries if entry.driver == wall}
    assert driven, "somebody is driven by the wall"
    for row in rows:
        refused = row["person"] == wall or row["entry"] in driven
        assert row["status"] == ("refused" if refused else "ok")
        assert not refused or row["person"] == wall or row["reason"].startswith(f"the driver {wall}: ")
    (tmp_path / "album" / "portrait.png").write_bytes((tmp_path / "album" / "mirrored.jpg").read_bytes())
    job = replace(job, tools=replace(job.tools, digest="others"))
    with pytest.raises(ValueError, match="no longer the photograph that the manifest names"):
        again(worker, job)


def test_a_second_pass_makes_nothing_and_a_new_method_only_its_own(
    worker: PersonWorker, done: list[PersonDone]
) -> None:
    assert [one.made for one in done] == [15, 15]
    assert [(one.made, one.scored) for one in again(worker, worker.job)] == [(0, 0)] * 2
    more = replace(worker.job, methods=(*worker.job.methods, BUILT_IN["shuffled"]))
    assert [(one.made, one.scored) for one in again(worker, more)] == [(3, 3)] * 2


def test_new_judges_score_what_is_there(worker: PersonWorker, done: list[PersonDone]) -> None:
    fewer = replace(worker.job, methods=worker.job.methods[:1], tools=replace(worker.job.tools, digest="other weights"))
    assert [(one.made, one.scored) for one in again(worker, fewer)] == [(0, 3)] * 2


def test_another_systems_pictures_are_measured_as_ours(
    worker: PersonWorker, done: list[PersonDone], measured: dict[str, Measured], tmp_path: Path
) -> None:
    scores = open_store(worker.job.root).child("evaluations/scores")
    for one in done:
        record = committed(str(committed(scores.child(one.scores["truth"]).uri).facts["pictures"]))
        for name in record.files:
            (tmp_path / name).write_bytes(record.read(name))
    gone = next(entry.name for entry in worker.job.manifest.entries)
    (tmp_path / f"{gone}.png").unlink()
    job = replace(worker.job, methods=(other_images("theirs", str(tmp_path)),))
    theirs = collect(job, again(worker, job))["theirs"]
    for row, truth in zip(theirs.rows, measured["truth"].rows, strict=True):
        assert row == truth if row["entry"] != gone else row["status"] == "missing"
    assert len(theirs.features) == len(theirs.truth) == 5


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing finished"):
        model_digest(str(tmp_path))


@pytest.mark.faults
def test_a_killed_evaluation_goes_on_where_it_was(place: Path, tmp_path: Path, done: list[PersonDone]) -> None:
    root = tmp_path / "store"
    command = [sys.executable, "-m", "tests.evaluation_process", str(root)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "truth itself" in line:  # copy, paste and truth of the first person are there
            process.kill()
            break
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.json")}
    assert len(before) >= 3
    rest = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    made = [int(line.split()[1]) for line in rest.stdout.splitlines() if line.startswith("done")]
    assert made[0] <= 6
    assert made[1] == 15
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing that was finished is written again"
    job = small_job(str(root))
    finished = [PersonDone(person=one.person, scores=one.scores) for one in done]
    assert collect(job, finished)["ours"].rows == collect(small_job(str(place)), finished)["ours"].rows


def test_hidden_faces_are_told_by_their_embedding_alone(worker: PersonWorker) -> None:
    preset = by_name("tiny")
    preset = replace(preset, edit=replace(preset.edit, steps=1, carry_detail=False))
    manifest = build_manifest(protocol_of("smoke", people=2, each=1))
    prepared = Preparation(preset, "true")
    subject = prepared.subject(manifest, manifest.people[0])
    random = InstaFace.from_config(tiny_config()).eval()
    maker = Maker(preset, prepared.featurizer.codec, lambda place: random)
    made = {key: maker.make(BUILT_IN[key], subject)[0] for key in ("zero-shot", "hidden", "hidden-no-face")}
    assert [len(one) for one in made.values()] == [3, 3, 3]
    for one, other in (("zero-shot", "hidden"), ("hidden", "hidden-no-face")):
        assert all(not np.array_equal(made[one][name], made[other][name]) for name in made[one])
    with pytest.raises(ValueError, match="no identity_grid"):
        again(worker, replace(worker.job, methods=(BUILT_IN["hidden"],)))
