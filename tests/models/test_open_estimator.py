"""The open estimator on real photographs and on rendered heads of known parameters."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from models.face3d.align import align_ffhq
from models.face3d.contact_sheet import COLUMNS, contact_sheet
from models.face3d.estimator import FaceEstimate, NoFace, OpenEstimator, load_estimator
from models.face3d.landmarks import FaceLandmarker, landmarks68
from models.face3d.lighting import exposure, light_preset
from models.face3d.mesh_topology import MIRROR, lid_gap, mouth_gap
from models.face3d.rendered_trial import compare, rendered_heads, summarise
from models.face3d.temporal import OneEuro, SmoothingSettings, smooth_frames
from models.images import encode_png, read_image


@cache
def estimator() -> OpenEstimator:
    made = load_estimator("open")
    assert isinstance(made, OpenEstimator)
    return made


@cache
def aligned(folder: Path) -> tuple[tuple[str, bool, np.ndarray, np.ndarray], ...]:
    """Name, whether alone in its photograph, aligned picture and hint of every usable face."""
    landmarker, found = FaceLandmarker(), []
    for row in json.loads((folder / "index.json").read_text()):
        image = read_image((folder / row["file"]).read_bytes(), row["file"])
        for number, face in enumerate(landmarker.detect(image)):
            if face.reason is None:
                square = align_ffhq(image, landmarks68(face.mesh), 256)
                hint = face.mesh[:, :2] @ square.to_aligned[:2, :2].T + square.to_aligned[:2, 2]
                found.append((f"{row['file']}#{number}", row["faces"] == 1, square.image, hint.astype(np.float32)))
    return tuple(found)


@cache
def estimates(folder: Path) -> dict[str, FaceEstimate]:
    return {name: estimator().estimate(image, hint) for name, _, image, hint in aligned(folder)}


def test_fitted_points_lie_on_detected_points(photos: Path) -> None:
    alone = {name for name, single, _, _ in aligned(photos) if single}
    residuals = {
        name: one.residual for name, one in estimates(photos).items() if name in alone and abs(one.yaw_degrees) < 40
    }
    assert np.mean(list(residuals.values())) <= 0.0125, residuals
    assert max(residuals.values()) <= 0.022, residuals


def test_mouths_and_eyes_are_as_open_as_in_the_photograph(photos: Path) -> None:
    mouths = []
    for name, one in estimates(photos).items():
        detected, fitted = mouth_gap(one.detected), mouth_gap(one.fitted)
        mouths.append(abs(detected - fitted))
        if detected < 0.03:
            assert fitted <= 0.05, name
        lids = lid_gap(one.detected)
        if np.mean(lids) < 0.12 and abs(one.yaw_degrees) < 30:
            assert np.mean(lid_gap(one.fitted)) < 0.09, name
        if min(lids) > 0.24:
            assert min(lid_gap(one.fitted)) > 0.16, name
    assert np.mean(mouths) <= 0.015


def test_maps_cover_the_face_and_look_like_the_photograph(photos: Path) -> None:
    for name, _, image, _ in aligned(photos)[:12]:
        one = estimates(photos)[name]
        maps = estimator().maps(one.parameters)
        columns, rows = np.clip(one.fitted.astype(int), 0, 255).T
        assert maps.mask[rows, columns].mean() > 0.97, name
        length = np.linalg.norm(maps.normal[maps.mask], axis=1)
        assert length.max() <= 1.001
        assert maps.albedo[~maps.mask].max() == 0
        inner = np.zeros_like(maps.mask)
        inner[rows, columns] = True
        difference = np.abs(maps.render[inner] - image[inner] / 255.0)
        assert difference.mean() < 0.09, name
        level = exposure(one.parameters.light)
        assert (level > 0.15).all(), name
        assert (level < 2.5).all(), name


def test_relighting_moves_brightness_to_the_other_side(photos: Path) -> None:
    name, _, _, _ = aligned(photos)[0]
    parameters = estimates(photos)[name].parameters
    sides = {}
    for side in ("left", "right"):
        maps = estimator().maps(parameters.replaced(light=light_preset(side).astype(np.float32)))
        gray = maps.render.mean(axis=2)
        columns = np.arange(256)[None]
        middle = (columns * maps.mask).sum() / maps.mask.sum()
        left, right = maps.mask & (columns < middle), maps.mask & (columns > middle)
        sides[side] = gray[left].mean() / gray[right].mean()
    assert sides["left"] > 1.3 * sides["right"]


def test_estimates_are_deterministic_to_the_byte(photos: Path) -> None:
    name, _, image, hint = aligned(photos)[0]
    one, two = estimates(photos)[name], OpenEstimator().estimate(image, hint)
    assert one.parameters.to_npy() == two.parameters.to_npy()
    assert one.parameters == two.parameters
    assert estimator().maps(one.parameters).encode() == OpenEstimator().maps(two.parameters).encode()
    assert estimator().digest == OpenEstimator().digest


def test_a_mirrored_photograph_gives_the_mirrored_fit(photos: Path) -> None:
    for name, single, image, _ in aligned(photos)[:6]:
        if not single:
            continue
        one = estimates(photos)[name]
        other = estimator().estimate(np.ascontiguousarray(image[:, ::-1]))
        flipped = other.fitted[list(MIRROR)] * [-1, 1] + [256, 0]
        width = np.linalg.norm(one.fitted[234] - one.fitted[454])
        assert np.linalg.norm(flipped - one.fitted, axis=1).mean() < 0.01 * width, name


def test_known_heads_are_recovered() -> None:
    figures = [one for one in (compare(estimator(), known) for known in rendered_heads(30, seed=2024)) if one]
    summary = summarise(figures)
    assert summary["heads"] >= 28
    assert summary["yaw error, median degrees"] < 2.5
    assert summary["normal error, median degrees"] < 11
    assert summary["light direction error, median degrees"] < 18
    assert summary["mouth opening, correlation"] > 0.85


def test_what_is_no_face_or_no_aligned_picture_is_refused() -> None:
    with pytest.raises(NoFace) as caught:
        estimator().estimate(np.zeros((256, 256, 3), np.uint8))
    assert caught.value.reason == "no_face"
    with pytest.raises(ValueError, match=r"uint8 \(256, 256, 3\)"):
        estimator().estimate(np.zeros((128, 128, 3), np.uint8))
    with pytest.raises(ValueError, match="no estimator 'flame'"):
        load_estimator("flame")


def test_contact_sheet_has_a_row_a_face(photos: Path, tmp_path: Path) -> None:
    faces = [(image, estimates(photos)[name]) for name, _, image, _ in aligned(photos)[:2]]
    sheet = contact_sheet(estimator(), faces, size=128)
    assert sheet.shape == (22 + 2 * 128, len(COLUMNS) * 128, 3)
    with pytest.raises(ValueError, match="at least one face"):
        contact_sheet(estimator(), [])


def test_a_sheet_of_all_photographs_is_written_for_your_own_eyes(photos: Path, tmp_path: Path) -> None:
    """INSTAFACE_SHEETS names the folder to look in; photographs of people are never committed."""
    folder = Path(os.environ.get("INSTAFACE_SHEETS", tmp_path))
    faces = [(image, estimates(photos)[name]) for name, _, image, _ in aligned(photos)]
    sheet = contact_sheet(estimator(), faces, size=160)
    assert sheet.shape[0] == 22 + len(faces) * 160
    (folder / "photographs.png").write_bytes(encode_png(sheet))


def test_smoothing_steadies_still_faces_and_follows_turning_ones(photos: Path) -> None:
    name = aligned(photos)[0][0]
    base = estimates(photos)[name].parameters
    rng = np.random.default_rng(0)
    noisy = [
        base.replaced(pose=base.pose + rng.normal(0, 0.02, 6), expression=np.clip(base.expression + 0.05, 0, 1))
        for _ in range(60)
    ]
    steady = np.array([frame.pose[:3] for frame in smooth_frames(noisy)])[20:]
    assert steady.std(axis=0).max() < 0.6 * np.array([frame.pose[:3] for frame in noisy])[20:].std(axis=0).max()
    turning = [base.replaced(pose=[0, 0.02 * step, 0, 0, 0, 0]) for step in range(40)]
    followed = [frame.pose[1] for frame in smooth_frames(turning)]
    assert abs(followed[-1] - turning[-1].pose[1]) < 0.08


def test_the_filter_passes_constants_and_checks_settings() -> None:
    smooth = OneEuro(SmoothingSettings())
    for _ in range(5):
        assert np.allclose(smooth(np.array([0.5, -2.0])), [0.5, -2.0])
    with pytest.raises(ValueError, match="least_cutoff 0"):
        SmoothingSettings(least_cutoff=0)
