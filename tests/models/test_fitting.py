"""The fit on points whose truth is known, and its solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from models.face3d.fitting import FitSettings, LandmarkFitter, solve_box
from models.face3d.mesh_topology import EYE_LEFT, EYE_RIGHT, MIRROR, lid_gap, mouth_gap
from models.face3d.open_head import load_open_head
from models.face3d.rotations import axis_angle_matrix


@pytest.fixture(scope="module")
def fitter() -> LandmarkFitter:
    return LandmarkFitter(load_open_head())


def seen(fitter: LandmarkFitter, *, yaw: float = 0, pitch: float = 0, roll: float = 0, **units: float) -> np.ndarray:
    """(468, 3) pixels of a known face: identity seeded, depth in pixels."""
    rng = np.random.default_rng(3)
    coefficients = np.zeros(fitter.rows.shape[2])
    coefficients[: fitter.identities] = np.clip(rng.normal(0, 0.6, fitter.identities), -1.5, 1.5)
    for name, value in units.items():
        coefficients[fitter.identities + fitter.names.index(name)] = value
    points = fitter.template + fitter.rows @ coefficients
    turn = axis_angle_matrix(np.radians([[pitch, yaw, roll]]))[0]
    world = points @ turn.T
    near = 1.5 / (1.5 - world[:, 2])
    scale = 7.2 * 128
    x = scale * (world[:, 0] * near + 0.004) + 128
    y = 128 - scale * (world[:, 1] * near - 0.008)
    x += scale * turn[0, 2] * fitter.depth[:, 0]
    y -= scale * turn[1, 2] * fitter.depth[:, 1]
    return np.stack([x, y, -scale * world[:, 2]], axis=1)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (25, 5, -8), (-35, -10, 12), (10, 18, 0)])
def test_pose_is_found(fitter: LandmarkFitter, yaw: float, pitch: float, roll: float) -> None:
    fit = fitter.fit(seen(fitter, yaw=yaw, pitch=pitch, roll=roll))
    wanted = axis_angle_matrix(np.radians([[pitch, yaw, roll]]))[0]
    found = axis_angle_matrix(fit.rotation[None].astype(np.float64))[0]
    angle = np.degrees(np.arccos(np.clip((np.trace(wanted.T @ found) - 1) / 2, -1, 1)))
    assert angle < 3.5 + 0.06 * abs(yaw), "identity explains a little of a turn"
    assert fit.residual < 0.008
    assert abs(fit.camera[0] - 7.2) < 0.35


def test_expression_is_found(fitter: LandmarkFitter) -> None:
    mesh = seen(fitter, yaw=8, jawOpen=0.5, mouthSmileLeft=0.6, mouthSmileRight=0.6)
    fit = fitter.fit(mesh)
    found = dict(zip(fitter.names, fit.expression, strict=True))
    assert abs(mouth_gap(fit.fitted) - mouth_gap(mesh)) < 0.01
    assert found["jawOpen"] > 0.3
    assert found["mouthSmileLeft"] + found["mouthSmileRight"] > 0.6
    assert fit.expression.min() >= 0
    assert fit.expression.max() <= 1
    assert np.abs(fit.shape).max() <= FitSettings().identity_bound


def test_neutral_stays_neutral(fitter: LandmarkFitter) -> None:
    fit = fitter.fit(seen(fitter))
    assert fit.expression.sum() < 1.5
    assert mouth_gap(fit.fitted) < 0.03


def test_closed_eyes_are_closed_and_open_eyes_stay_open(fitter: LandmarkFitter) -> None:
    mesh = seen(fitter)
    shut = mesh.copy()
    for eye in (EYE_RIGHT, EYE_LEFT):
        lower, upper = list(eye[1:8]), list(eye[9:16])
        shut[upper] = shut[lower] + 0.25 * (shut[upper] - shut[lower])
    assert max(lid_gap(fitter.fit(shut).fitted)) < 0.08
    assert min(lid_gap(fitter.fit(mesh).fitted)) > 0.75 * min(lid_gap(mesh))


def test_gaze_turns_the_eyes(fitter: LandmarkFitter) -> None:
    mesh = seen(fitter)
    iris = np.zeros((2, 5, 2))
    for side, eye in enumerate((EYE_RIGHT, EYE_LEFT)):
        iris[side] = mesh[[eye[0], eye[8]], :2].mean(axis=0) + [4, 0]
    found = dict(zip(fitter.names, fitter.fit(mesh, iris).expression, strict=True))
    assert found["eyeLookOutLeft"] > 0.2
    assert found["eyeLookInRight"] > 0.2
    assert found["eyeLookInLeft"] == 0


def test_equal_points_give_equal_bytes_and_mirrored_points_the_mirrored_fit(fitter: LandmarkFitter) -> None:
    mesh = seen(fitter, yaw=20, jawOpen=0.3, browDownLeft=0.5)
    one, two = fitter.fit(mesh), LandmarkFitter(load_open_head()).fit(mesh.copy())
    for name in ("shape", "expression", "rotation", "camera", "fitted"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
    flipped = mesh[list(MIRROR)] * [-1, 1, 1] + [256, 0, 0]
    other = fitter.fit(flipped).fitted[list(MIRROR)] * [-1, 1] + [256, 0]
    width = np.linalg.norm(one.fitted[234] - one.fitted[454])
    assert np.linalg.norm(other - one.fitted, axis=1).max() < 0.01 * width


def test_a_few_wild_points_do_little_harm(fitter: LandmarkFitter) -> None:
    mesh = seen(fitter, yaw=-12, jawOpen=0.2)
    wild = mesh.copy()
    wild[::40, :2] += np.random.default_rng(1).normal(0, 25, wild[::40, :2].shape)
    distance = np.linalg.norm(fitter.fit(wild).fitted - fitter.fit(mesh).fitted, axis=1)
    assert distance.mean() < 1.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_the_box_solver_agrees_with_scipy(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    rows, values = rng.normal(size=(size + 4, size)), rng.normal(size=size + 4)
    low, high = np.full(size, -0.4), np.full(size, 0.6)
    hessian = rows.T @ rows + 1e-3 * np.eye(size)
    found = solve_box(hessian, rows.T @ values, low, high, np.zeros(size), 5000)
    stacked = np.concatenate([rows, np.sqrt(1e-3) * np.eye(size)])
    wanted = lsq_linear(stacked, np.append(values, np.zeros(size)), (low, high), method="bvls", tol=1e-12).x

    def energy(x: np.ndarray) -> float:
        return float(x @ hessian @ x / 2 - rows.T @ values @ x)

    assert energy(found) <= energy(wanted) + 1e-4
    assert (found >= low).all()
    assert (found <= high).all()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="iterations 1"):
        FitSettings(iterations=1)
    with pytest.raises(ValueError, match="must grow"):
        FitSettings(closed_below=0.3, open_above=0.2)
