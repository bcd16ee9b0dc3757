"""Protocols, manifests, figures, the regression rule: what needs no network."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.presets import paper, tiny, tiny_concatenation
from models.images import encode_png
from storage.canonical import sha256_of
from storage.records import commit_record
from storage.s3 import S3Store
from storage.stores import open_store
from tasks.evaluate_protocol import (
    EvaluationRequest,
    base_model,
    check_estimable,
    parquet,
    refuse_empty,
    requested_manifest,
    requested_methods,
)
from tasks.evaluation_figures import FEWEST, Measured, comparisons, figures_of, summary_of
from tasks.evaluation_history import History, Watched, series_of, watched_figures, worse_than
from tasks.evaluation_methods import BUILT_IN, images_digests, read_images
from tasks.evaluation_pages import chosen_entries, history_svg, ranked_by
from tasks.evaluation_protocols import MODES, PROTOCOLS, EvaluationManifest, build_manifest, protocol_of
from tasks.evaluation_tables import NOT_AVAILABLE, all_tables, count_rows, markdown
from tasks.sources import NoPhotos


@pytest.fixture(scope="module")
def manifest() -> EvaluationManifest:
    return build_manifest(protocol_of("table1", people=3, each=2))


def measured(manifest: EvaluationManifest, error: float, seed: int, *, faces: bool = True) -> Measured:
    """Rows as the judges would give them for pictures that are `error` away from the truth."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for entry in manifest.entries:
        noise = error * (1 + 0.1 * random.random())
        rows.append(
            {"person": entry.person, "entry": entry.name, "mode": entry.mode, "status": "ok", "face_found": faces,
             "st_lpips_truth": noise, "ssim_truth": 1 - noise, "psnr_truth": 20 - noise, "pose_mm": 10 * noise,
             "dlib_distance_truth": noise if faces else None, "dlib_same_truth": faces, "expression_mm": noise,
             "light": noise, "dlib_distance_source": noise if faces else None}
        )  # fmt: skip
    truth = np.random.default_rng(0).normal(size=(len(rows), 6))
    return Measured(rows=rows, features=truth + error, source=truth + 1, truth=truth)


def facts(manifest: EvaluationManifest, methods: Mapping[str, Measured]) -> dict[str, Any]:
    return {
        "protocol": manifest.protocol, "source": manifest.source, "manifest": manifest.digest, "truth": True,
        "people": 3, "images": 18, "preset": "debug",
        "encoders": ["dlib", "efficientnet-lite0"], "parameters": "true", "base": "untrained",
        "base_digest": "d", "edit_steps": 2, "tune_steps": 3, "methods": [asdict(BUILT_IN[key]) for key in methods],
        "subject": "ours", "summary": summary_of(methods),
        "comparisons": comparisons(methods["ours"], {k: v for k, v in methods.items() if k != "ours"}),
        "counts": {key: count_rows(one.rows) for key, one in methods.items()}, "refused": {},
        "not_available": {"lpips": "no AlexNet", "arcface": "no ArcFace", "fid": "no Inception", "kid": "no Inception"},
    }  # fmt: skip


def test_protocols_have_the_papers_sizes() -> None:
    assert {name: one.images for name, one in PROTOCOLS.items()} == {
        "smoke": 12, "table1": 1200, "table2": 1200, "table3": 600,
    }  # fmt: skip
    assert all(PROTOCOLS["table1"].people * PROTOCOLS["table1"].each == 400 for _ in MODES)
    with pytest.raises(ValueError, match="choose one of smoke"):
        protocol_of("table9")


def test_a_manifest_is_drawn_once_and_for_all(manifest: EvaluationManifest) -> None:
    assert build_manifest(protocol_of("table1", people=3, each=2)) == manifest
    assert EvaluationManifest.from_json(manifest.to_json()) == manifest
    assert len({entry.name for entry in manifest.entries}) == 18
    assert len({str(entry.edit) for entry in manifest.entries}) == 18, "each is unique"
    for entry in manifest.entries:
        edit = entry.face_edit
        assert (edit.light is not None) == (entry.mode == "light")
        assert bool(edit.expressions) == (entry.mode == "expression")
        assert (abs(edit.yaw) >= 10) == (entry.mode == "pose")
    with pytest.raises(ValueError, match="format"):
        EvaluationManifest.from_json(b'{"format": 99}')


def test_photographs_that_other_programs_uploaded_are_named_by_their_bytes(s3_store: S3Store) -> None:
    client = s3_store._requests._client
    pictures = {name: encode_png(np.full((8, 8, 3), shade, np.uint8)) for name, shade in (("a", 1), ("b", 2), ("c", 1))}
    for name, data in pictures.items():
        client.put_object(Bucket=s3_store.bucket, Key=f"{s3_store.prefix}/{name}.png", Body=data)
    found = build_manifest(protocol_of("smoke"), s3_store.uri)
    assert [(one.name, one.sha256) for one in found.people] == [(f"{n}.png", sha256_of(pictures[n])) for n in "ab"]
    with pytest.raises(ValueError, match="has 2 people"):
        build_manifest(protocol_of("smoke", people=3), s3_store.uri)


def test_people_of_a_small_protocol_have_the_same_edits_in_a_larger_one(manifest: EvaluationManifest) -> None:
    smaller = build_manifest(protocol_of("table3", people=2, each=1))
    for person in smaller.people:
        whole = {entry.name: entry for entry in manifest.entries_of(person.id)}
        assert all(whole[entry.name] == entry for entry in smaller.entries_of(person.id))


def test_photographs_drive_one_another(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encode_png(np.full((8, 8, 3), number, np.uint8)))
    found = build_manifest(protocol_of("smoke", people=3), str(tmp_path))
    assert not found.has_truth
    assert all(entry.driver not in (None, entry.person) and entry.take == (entry.mode,) for entry in found.entries)
    with pytest.raises(ValueError, match="has 3 people"):
        build_manifest(protocol_of("table1"), str(tmp_path))
    with pytest.raises(ValueError, match="people=1: photographs drive one another"):
        build_manifest(protocol_of("smoke", people=1), str(tmp_path))
    with pytest.raises(NoPhotos):
        build_manifest(protocol_of("smoke"), str(tmp_path / "nothing"))
    methods = requested_methods(EvaluationRequest(protocol="smoke"), truth=False)
    assert not any(method.is_reference for method in methods), "nobody knows the truth of a photograph"


def test_people_of_the_training_are_not_evaluated() -> None:
    for source, seed in (("portraits:4x1", 0), ("portraits:4x1@1", 1)):
        with pytest.raises(ValueError, match=rf"trained on \(seed {seed}\): take another seed, such as @1000"):
            build_manifest(protocol_of("smoke"), source)
    with pytest.raises(ValueError, match="asks for its own turns: leave ~57 out"):
        build_manifest(protocol_of("smoke"), "portraits:4x1@1000~57")


def test_a_damaged_manifest_is_told(manifest: EvaluationManifest) -> None:
    values = json.loads(manifest.to_json())
    entry = values["entries"][0]
    for wrong, sentence in (
        ({"format": 1}, "damaged"),
        ({**values, "people": values["people"][1:]}, "people must be listed"),
        ({**values, "entries": [{**entry, "driver": "nobody"}]}, "driver 'nobody'"),
        ({**values, "entries": [entry, entry]}, "two entries alike"),
        ({**values, "entries": [{**entry, "edit": {"yaw": 500}}]}, "yaw = 500"),
        ({**values, "entries": []}, "and entries"),
    ):
        with pytest.raises(ValueError, match=sentence):
            EvaluationManifest.from_json(json.dumps(wrong).encode())


def test_requests_that_contradict_themselves_are_refused(manifest: EvaluationManifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest.to_json())
    with pytest.raises(ValueError, match="leave people out"):
        requested_manifest(EvaluationRequest(protocol="smoke", manifest=str(tmp_path / "manifest.json"), people=3))
    methods = requested_methods(EvaluationRequest(protocol="smoke", images={"theirs": str(tmp_path)}), truth=True)
    with pytest.raises(ValueError, match=rf"theirs=.* has no picture of the manifest, such as {manifest.entries[0].name}.png"):
        refuse_empty(manifest, methods)
    (tmp_path / f"{manifest.entries[0].name}.jpg").touch()
    refuse_empty(manifest, methods)
    with pytest.raises(ValueError, match="give source=FOLDER"):
        check_estimable(paper(), manifest)
    check_estimable(tiny(), manifest)


def test_ablations_are_compared_without_carried_detail() -> None:
    def other(protocol: str) -> bool:
        request = EvaluationRequest(protocol=protocol, models={"trained without": "file:///x"})
        return requested_methods(request, truth=True)[-1].carried

    assert other("table1")
    assert not other("table3"), "as the whole model there"


def test_ours_is_no_baseline_by_accident(tmp_path: Path) -> None:
    root = open_store(tmp_path)
    commit_record(root.child("stage1/beside"), {}, {"config": {"model": "tiny", "conditioning": "concatenation"}})
    assert base_model(root, None, tiny()) == "shipped"
    mine = commit_record(root.child("stage1/mine"), {}, {"config": {"model": "tiny", "conditioning": None}})
    assert base_model(root, None, tiny()) == mine.uri
    assert base_model(root, None, tiny_concatenation()).endswith("beside")
    commit_record(root.child("stage1/published"), {}, {"config": {"model": "tiny"}})
    with pytest.raises(ValueError, match=r"2 models that could be evaluated: .*model=URI"):
        base_model(root, None, tiny())
    with pytest.raises(ValueError, match="no model of preset paper"):
        base_model(open_store(tmp_path / "empty"), None, paper())


def test_methods_are_named_once(tmp_path: Path) -> None:
    request = EvaluationRequest(protocol="smoke", images={"Theirs": "there"}, models={"concatenation": "file:///x"})
    assert [method.key for method in requested_methods(request, truth=True)][-2:] == ["concatenation", "theirs"]
    with pytest.raises(ValueError, match="none of copy"):
        requested_methods(EvaluationRequest(protocol="smoke", images={"ours": "there"}), truth=True)
    with pytest.raises(ValueError, match="choose among"):
        requested_methods(EvaluationRequest(protocol="smoke", only=("best",)), truth=True)
    with pytest.raises(ValueError, match="two methods"):
        requested_methods(EvaluationRequest(protocol="smoke", images={"a": "x"}, models={"A": "y"}), truth=True)


def test_a_manifest_can_be_given_as_a_file(manifest: EvaluationManifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest.to_json())
    request = EvaluationRequest(protocol="smoke", manifest=str(tmp_path / "manifest.json"))
    assert requested_manifest(request) == manifest


def test_pictures_of_another_system_that_are_missing_are_told(manifest: EvaluationManifest, tmp_path: Path) -> None:
    entries = manifest.entries_of(manifest.people[0].id)[:4]
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    (tmp_path / f"{entries[0].name}.png").write_bytes(encode_png(picture))
    (tmp_path / f"{entries[1].name}.png").write_bytes(encode_png(picture[:8]))
    (tmp_path / f"{entries[2].name}.png").write_bytes(b"no picture")
    found, told = read_images(str(tmp_path), entries, 16)
    assert list(found) == [entries[0].name]
    assert np.array_equal(found[entries[0].name], picture)
    assert "not 16×16" in told["missing"][entries[1].name]
    assert told["missing"][entries[3].name] == "missing"
    assert set(told["missing"]) == {entry.name for entry in entries[1:]}
    before = images_digests(str(tmp_path), entries)
    (tmp_path / f"{entries[3].name}.png").write_bytes(encode_png(picture))
    assert [a == b for a, b in zip(before, images_digests(str(tmp_path), entries), strict=True)] == [True] * 3 + [False]


def test_ours_is_judged_pair_by_pair() -> None:
    manifest = build_manifest(protocol_of("table1", people=FEWEST, each=2))
    methods = {
        "ours": measured(manifest, 0.2, 1),
        "copy": measured(manifest, 0.4, 2),
        "paste": measured(manifest, 0.2, 1),
    }
    found = comparisons(methods["ours"], {key: methods[key] for key in ("copy", "paste")})
    verdicts = {(one["baseline"], one["figure"]): one["verdict"] for one in found if one["mode"] == "pose"}
    for figure in ("st_lpips_truth", "ssim_truth", "frechet_truth", "dlib_distance_truth", "pose_mm"):
        assert verdicts["copy", figure] == "better", figure
        assert verdicts["paste", figure] == "undecided", "equal pictures"
    blind = measured(manifest, 0.2, 1, faces=False)
    seen = {one["figure"]: one["verdict"] for one in comparisons(blind, {"paste": methods["paste"]})}
    assert seen["dlib_same_truth"] == "worse", "no face counts"
    assert "dlib_distance_truth" not in seen
    back = comparisons(methods["copy"], {"ours": methods["ours"]})
    assert {one["verdict"] for one in back if one["figure"] != "dlib_same_truth"} == {"worse"}
    summary = summary_of(methods)
    assert summary["ours"]["pose"]["ssim_truth"]["count"] == 2 * FEWEST
    two = figures_of(measured(build_manifest(protocol_of("smoke")), 0.2, 1))
    assert "frechet_truth" in two
    assert "kernel_truth" not in two, "with one of two people left out nobody meets another"
    few = build_manifest(protocol_of("table1", people=FEWEST - 1, each=2))
    found = comparisons(measured(few, 0.2, 1), {"copy": measured(few, 0.4, 2)})
    assert {one["verdict"] for one in found} == {"undecided"}, "of so few people nothing is decided"
    assert summary["ours"]["all"]["frechet_truth"]["mean"] == pytest.approx(6 * 0.04, rel=0.01)
    assert "lpips_truth" not in summary["ours"]["all"]


def test_failures_are_counted_and_never_a_number(manifest: EvaluationManifest) -> None:
    blind = measured(manifest, 0.5, 3, faces=False)
    gone = {"person": "x", "entry": "y", "mode": "pose", "status": "missing", "reason": "missing"}
    blind = Measured(rows=[*blind.rows, gone], features=blind.features, source=blind.source, truth=blind.truth)
    told = facts(manifest, {"ours": measured(manifest, 0.2, 1), "copy": blind})
    assert told["counts"]["copy"] == {
        "entries": 19, "ok": 18, "missing": 1, "refused": 0, "no_face": 18, "no_parameters": 0,
    }  # fmt: skip
    assert told["summary"]["copy"]["pose"]["dlib_same_truth"] == {"mean": 0.0, "low": 0.0, "high": 0.75, "count": 7}
    assert "dlib_distance_truth" not in told["summary"]["copy"]["pose"]
    text = markdown(told)
    quality = next(table for table in all_tables(told) if table.title == "Pose, against the truth")
    cells = dict(zip(quality.header, quality.rows[0], strict=True))
    assert cells["LPIPS"] == cells["FID"] == cells["ArcFace cosine"] == NOT_AVAILABLE
    assert "dlib distance *" in cells, "the recogniser that conditions the model is marked"
    assert "0.3747" in text, "the paper's figures stand beside ours"
    assert "do not compare in absolute terms" in text
    assert parquet([dict(row) for row in blind.rows])


def test_best_median_and_worst_are_told_apart(manifest: EvaluationManifest) -> None:
    one = measured(manifest, 0.2, 1)
    chosen = dict(chosen_entries(one, "light", truth=True))
    values = {row["entry"]: row["st_lpips_truth"] for row in one.rows if row["mode"] == "light"}
    assert chosen["best"] == min(values, key=lambda entry: values[entry])
    assert chosen["worst"] == max(values, key=lambda entry: values[entry])
    blind = [{**row, "st_lpips_truth": None} if row["entry"] == chosen["best"] else row for row in one.rows]
    again = Measured(rows=blind, features=one.features, source=one.source, truth=one.truth)
    assert dict(chosen_entries(again, "light", truth=True))["worst"] == chosen["best"]
    assert ranked_by("light", truth=True, not_available=["st_lpips"]) == "ssim_truth"


def test_a_run_that_falls_out_of_the_accepted_interval_is_not_accepted(tmp_path: Path) -> None:
    def figures(ssim: float, faces: float = 1.0) -> tuple[Watched, ...]:
        return (
            Watched(name="pose/ssim_truth", mean=ssim, low=ssim - 0.05, high=ssim + 0.05),
            Watched(name="pose/face_found", mean=faces, low=faces, high=faces),
        )

    history = History(open_store(tmp_path), series_of("smoke", "m", "debug", "true", "ours"))
    first, worse = history.add("a", figures(0.8))
    assert first.accepted
    assert worse == []
    assert history.add("b", figures(0.76))[1] == [], "inside the interval"
    _, worse = history.add("c", figures(0.7))
    assert [str(one) for one in worse] == ["pose/ssim_truth 0.76 → 0.7 (accepted up to 0.71)"]
    assert history.last_accepted().evaluation == "b"  # type: ignore[union-attr]  # there is one
    assert [one.name for one in worse_than(figures(0.8), figures(0.8)[:1])] == ["pose/face_found"], "gone is worse"
    history.accept("c")
    assert history.add("d", figures(0.68))[1] == []
    assert [point.accepted for point in history.points()] == [True] * 4
    history.add("e", figures(0.9))
    assert history.add("a", figures(0.8))[1], "accepted once is not accepted for ever"
    assert history.last_accepted().evaluation == "e"  # type: ignore[union-attr]
    history.accept("d")
    assert history.last_accepted().evaluation == "d", "a person's word counts also of an older run"  # type: ignore[union-attr]
    assert history.add("f", figures(0.7))[1] == []
    assert not history.add("g", ())[0].accepted, "a run without figures is no standard"
    assert [one.name for one in worse_than(figures(0.8), ())] == ["pose/ssim_truth", "pose/face_found"]
    assert [one.name for one in worse_than(figures(0.8), (), ["ssim"])] == ["pose/face_found"], "not measured here"
    assert "<svg" in history_svg(history.points())
    assert history_svg([]) == ""


def test_the_rule_watches_every_mode_of_ours(manifest: EvaluationManifest) -> None:
    found = watched_figures(summary_of({"ours": measured(manifest, 0.2, 1)}), "ours", truth=True)
    names = {one.name for one in found}
    assert {"pose/pose_mm", "expression/expression_mm", "light/light", "light/frechet_truth"} <= names
    assert "pose/light" not in names
    assert watched_figures(summary_of({"copy": measured(manifest, 0.2, 1)}), "ours", truth=True) == ()
    assert watched_figures(summary_of({"plain": measured(manifest, 0.2, 1)}), "plain", truth=True), "of ablations too"
