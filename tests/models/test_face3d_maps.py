"""Condition maps as PNG files and mirrored."""

import numpy as np
import pytest

from models.face3d.maps import MAP_FILES, ConditionMaps
from models.face3d.quantize import from_bytes, to_bytes


@pytest.fixture
def maps() -> ConditionMaps:
    rng = np.random.default_rng(0)
    mask = rng.random((24, 32)) > 0.4
    inside = mask[..., None]
    normal = rng.normal(size=(24, 32, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return ConditionMaps(
        albedo=(rng.random((24, 32, 3)) * inside).astype(np.float32),
        normal=(normal * inside).astype(np.float32),
        render=(rng.random((24, 32, 3)) * inside).astype(np.float32),
        mask=mask,
    )


def test_files_hold_the_maps_to_a_grey_level(maps):
    files = maps.encode()
    assert tuple(files) == MAP_FILES
    back = ConditionMaps.decode(files)
    np.testing.assert_array_equal(back.mask, maps.mask)
    np.testing.assert_allclose(back.albedo, maps.albedo, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(back.render, maps.render, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(back.normal, maps.normal, atol=1 / 255 + 1e-6)
    for picture in (back.albedo, back.normal, back.render):
        assert not picture[~maps.mask].any()


def test_quantised_normals_turn_by_less_than_half_a_degree(maps):
    back = ConditionMaps.decode(maps.encode()).normal[maps.mask]
    cosine = (back * maps.normal[maps.mask]).sum(-1) / np.linalg.norm(back, axis=-1)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.5


def test_encoding_is_stable(maps):
    files = maps.encode()
    assert ConditionMaps.decode(files).encode() == files


def test_mirrored_twice_is_the_same(maps):
    mirrored = maps.mirrored()
    np.testing.assert_array_equal(mirrored.albedo, maps.albedo[:, ::-1])
    np.testing.assert_array_equal(mirrored.normal[..., 0], -maps.normal[:, ::-1, 0])
    np.testing.assert_array_equal(mirrored.normal[..., 1:], maps.normal[:, ::-1, 1:])
    twice = mirrored.mirrored()
    for name in ("albedo", "normal", "render", "mask"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(maps, name))


def test_missing_files_and_unlike_sizes_are_refused(maps):
    files = maps.encode()
    del files["mask.png"]
    with pytest.raises(ValueError, match=r"mask\.png"):
        ConditionMaps.decode(files)
    with pytest.raises(ValueError, match="render has shape"):
        ConditionMaps(albedo=maps.albedo, normal=maps.normal, render=maps.render[:4], mask=maps.mask)


def test_bytes_round_and_clip():
    values = np.array([-1.0, 0.0, 0.5 / 255 - 1e-4, 0.5 / 255 + 1e-4, 1.0, 7.0], np.float32)
    np.testing.assert_array_equal(to_bytes(values, 1.0, 0.0), [0, 0, 0, 1, 255, 255])
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_bytes(from_bytes(every, 2.0, -1.0), 0.5, 0.5), every)
