"""Spherical-harmonics light: rotation, mirror, presets, relighting, estimation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.face3d.lighting import (
    ambient_light,
    directional_light,
    estimate_light,
    exposure,
    light_preset,
    light_presets,
    mirror_light,
    relight,
    rotate_light,
    rotation_matrix9,
    sh_basis,
)
from models.face3d.rotations import axis_angle_matrix


def sphere(count: int = 4000, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


vectors = st.tuples(*[st.floats(-4, 4)] * 3)


@given(turn=vectors, seed=st.integers(0, 100))
def test_a_turned_light_shades_turned_normals_alike(turn, seed):
    rotation = axis_angle_matrix(turn)
    light = np.random.default_rng(seed).normal(size=(9, 3))
    normals = sphere(50)
    turned = sh_basis(normals @ rotation.T) @ rotate_light(light, rotation)
    np.testing.assert_allclose(turned, sh_basis(normals) @ light, atol=1e-9)


@given(first=vectors, second=vectors)
def test_rotations_compose(first, second):
    one, other = axis_angle_matrix(first), axis_angle_matrix(second)
    np.testing.assert_allclose(
        rotation_matrix9(one @ other), rotation_matrix9(one) @ rotation_matrix9(other), atol=1e-9
    )


def test_mirrored_light_shades_mirrored_normals_alike():
    light, normals = np.random.default_rng(0).normal(size=(9, 3)), sphere(50)
    np.testing.assert_allclose(sh_basis(normals * [-1, 1, 1]) @ mirror_light(light), sh_basis(normals) @ light)
    np.testing.assert_array_equal(mirror_light(mirror_light(light)), light)


def test_a_directional_light_is_a_clamped_cosine_up_to_band_two():
    """Ramamoorthi & Hanrahan (2001): the first nine terms hold 99 % of its energy."""
    direction = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])
    normals = sphere(100_000)
    shading = (sh_basis(normals) @ directional_light(direction))[:, 0]
    truth = np.maximum(normals @ direction, 0)
    assert shading.mean() == pytest.approx(0.25, abs=2e-3)
    assert np.mean((shading - truth) ** 2) < 0.01 * np.mean(truth**2)


def test_turning_a_directional_light_moves_its_direction():
    turn = axis_angle_matrix([0.2, -0.7, 0.4])
    turned = rotate_light(directional_light([0.1, 0.9, 0.3]), turn)
    np.testing.assert_allclose(turned, directional_light(turn @ [0.1, 0.9, 0.3]), atol=1e-12)


def test_exposure_is_the_mean_over_the_visible_hemisphere():
    light = np.random.default_rng(1).normal(size=(9, 3))
    normals = sphere(400_000)
    seen = normals[normals[:, 2] > 0]
    np.testing.assert_allclose(exposure(light), (sh_basis(seen) @ light).mean(0), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "bright", "dark"),
    [
        ("left", [-1, 0, 0.2], [1, 0, 0.2]),
        ("right", [1, 0, 0.2], [-1, 0, 0.2]),
        ("above", [0, 1, 0.2], [0, -1, 0.2]),
        ("below", [0, -1, 0.2], [0, 1, 0.2]),
        ("rim", [1, 0, 0.1], [0, 0, 1]),
        ("front", [0, 0, 1], [1, 0, 0]),
    ],
)
def test_presets_light_the_side_they_name(name, bright, dark):
    light = light_preset(name)
    directions = np.array([bright, dark], np.float64)
    shading = sh_basis(directions / np.linalg.norm(directions, axis=1, keepdims=True)) @ light
    assert shading[0, 0] > 1.2 * shading[1, 0]


def test_presets_are_white_equally_bright_and_nowhere_negative():
    normals = sphere()
    for name, light in light_presets().items():
        np.testing.assert_allclose(exposure(light), 1.0, atol=1e-12, err_msg=name)
        assert (sh_basis(normals[normals[:, 2] > 0]) @ light).min() > 0, name
    with pytest.raises(ValueError, match=r"no light preset 'disco'.*'above'"):
        light_preset("disco")


def test_relighting_keeps_exposure_and_colour():
    source = directional_light([0, 0.3, 1]) * [1.0, 0.8, 0.6] + ambient_light(0.2)
    changed = relight(source, light_preset("left"))
    np.testing.assert_allclose(exposure(changed), exposure(source))
    np.testing.assert_allclose(relight(source, light_preset("left"), 0.0), source)
    half = relight(source, light_preset("left"), 0.5)
    np.testing.assert_allclose(half, (source + changed) / 2)
    with pytest.raises(ValueError, match="outside 0…1"):
        relight(source, changed, 1.5)
    with pytest.raises(ValueError, match="dark"):
        relight(source, -changed)


def test_light_is_recovered_from_a_picture():
    rng = np.random.default_rng(0)
    normals = sphere(64 * 64).reshape(64, 64, 3)
    normals[..., 2] = np.abs(normals[..., 2])
    albedo = rng.uniform(0.3, 0.7, (64, 64, 3))
    truth = relight(ambient_light(0.8) * [1.0, 0.9, 0.8], light_preset("right"))
    picture = albedo * (sh_basis(normals) @ truth)
    picture[:8] = rng.uniform(0, 1, (8, 64, 3))  # hair, hands, shadows
    mask = np.ones((64, 64), bool)
    inputs = [part.astype(np.float32) for part in (picture, normals, albedo)]
    light = estimate_light(*inputs, mask, prior=0.0, rounds=8)
    np.testing.assert_allclose(sh_basis(normals[8:]) @ light, sh_basis(normals[8:]) @ truth, atol=0.03)
    with pytest.raises(ValueError, match="at least 100 well exposed pixels"):
        estimate_light(*inputs, np.zeros_like(mask))


def test_directions_and_rotations_are_checked():
    with pytest.raises(ValueError, match="must not be zero"):
        directional_light([0, 0, 0])
    with pytest.raises(ValueError, match="not a rotation"):
        rotate_light(np.zeros((9, 3)), np.diag([1, 1, -1]))
