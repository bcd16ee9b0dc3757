"""FFHQ alignment against numbers and pictures of the original recipe."""

from pathlib import Path

import numpy as np
import pytest

from models.face3d.align import EXACT_OVERSAMPLING, align_ffhq, ffhq_geometry
from models.images import read_image


def test_geometry_equals_the_recipe(golden: Path) -> None:
    with np.load(golden / "ffhq" / "geometry.npz") as stored:
        expected = {name: stored[name] for name in stored.files}
    for row in range(len(expected["landmarks"])):
        width, height = (int(value) for value in expected["image_wh"][row])
        found = ffhq_geometry(expected["landmarks"][row], width, height, int(expected["output_size"][row]))
        for name in ("x", "y", "c", "quad0", "quad_final"):
            if name in expected:
                assert np.allclose(getattr(found, name), expected[name][row], atol=1e-9, rtol=0), (row, name)
        assert abs(found.qsize - expected["qsize"][row]) < 1e-9
        for name in ("shrink", "border", "padded"):
            assert getattr(found, name) == expected[name][row], (row, name)
        for name in ("size_after_shrink", "crop", "pad"):
            assert list(getattr(found, name)) == expected[name][row].tolist(), (row, name)


@pytest.mark.parametrize("number", [0, 1])
def test_pictures_equal_the_recipe(golden: Path, number: int) -> None:
    folder = golden / "ffhq"
    source = read_image((folder / f"source_{number}.png").read_bytes(), "source")
    expected = read_image((folder / f"aligned_{number}_256.png").read_bytes(), "aligned").astype(int)
    landmarks = np.loadtxt(folder / f"source_{number}_lm68.txt")
    exact = align_ffhq(source, landmarks, 256, oversampling=EXACT_OVERSAMPLING).image.astype(int)
    assert np.abs(exact - expected).max() <= 1
    assert np.abs(exact - expected).mean() < 0.001
    fast = align_ffhq(source, landmarks, 256).image.astype(int)
    assert np.abs(fast - expected).max() <= 3
    assert np.abs(fast - expected).mean() <= 0.6
