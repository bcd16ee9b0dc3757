"""Pasting back: what was cut out returns to its place, borders do not show, the rest is untouched."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from models.face3d.align import align_ffhq
from models.face3d.paste_back import blend_bands, paste_back

SIZE = 256


def _landmarks(centre: tuple[float, float], scale: float, roll: float = 0.0) -> np.ndarray:
    """68 points of a schematic face: eyes and mouth are what the alignment uses."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (-1.0, -1.0), (1.0, -1.0)
    points[48], points[54] = (-0.7, 1.0), (0.7, 1.0)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return points @ turn.T * scale + centre


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return np.asarray(astronaut())


@pytest.fixture(scope="module")
def region() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(mask, (128, 128), 90, 1, -1)
    return mask.astype(bool)


@pytest.mark.parametrize(("scale", "roll"), [(34.0, 0.0), (34.0, 0.3), (60.0, -0.2), (12.0, 0.1)])
def test_an_unchanged_face_returns_to_its_place(
    photograph: np.ndarray, region: np.ndarray, scale: float, roll: float
) -> None:
    aligned = align_ffhq(photograph, _landmarks((225.0, 110.0), scale, roll), SIZE)
    back = paste_back(photograph, aligned.image, aligned.quad, region)
    error = back.astype(float) - photograph
    assert abs(error.mean()) < 0.2
    changed = np.abs(error).sum(axis=2) > 0
    # What is lost is the resolution of 256 pixels where the square in the photograph has more.
    assert 10 * np.log10(255**2 / (error[changed] ** 2).mean()) > (30 if scale < 40 else 29)
    # Half a pixel off would be seen here: the mean signed product of error and gradient is a displacement.
    gray = photograph.mean(axis=2)
    for axis in (0, 1):
        gradient = np.gradient(gray, axis=axis)
        displacement = (error.mean(axis=2) * gradient)[changed].sum() / (gradient[changed] ** 2).sum()
        assert abs(displacement) < 0.05


def test_outside_the_region_nothing_changes_and_inside_the_edit_stands(
    photograph: np.ndarray, region: np.ndarray
) -> None:
    aligned = align_ffhq(photograph, _landmarks((225.0, 110.0), 34.0), SIZE)
    edited = np.full_like(aligned.image, 200)
    edited[..., 1] = 30
    back = paste_back(photograph, edited, aligned.quad, region)
    assert np.abs(back[110, 225].astype(int) - (200, 30, 200)).max() <= 2
    np.testing.assert_array_equal(back[300:], photograph[300:])
    np.testing.assert_array_equal(back[:, 400:], photograph[:, 400:])


def test_the_border_shows_less_than_that_of_a_plain_paste() -> None:
    ramp = np.tile(np.linspace(60, 200, 400).astype(np.float32)[None, :, None], (400, 1, 3))
    brighter = ramp + 24
    hard = np.zeros((400, 400), np.float32)
    hard[100:300, 100:300] = 1
    step = np.abs(np.diff(np.where(hard[..., None] > 0, brighter, ramp)[200, :, 0])).max()
    blended = blend_bands(brighter, ramp, hard)
    assert np.abs(np.diff(blended[200, :, 0])).max() < step / 4
    assert abs(blended[200, 200, 0] - brighter[200, 200, 0]) < 3
    assert abs(blended[5, 5, 0] - ramp[5, 5, 0]) < 3


def test_what_does_not_belong_together_is_refused(photograph: np.ndarray, region: np.ndarray) -> None:
    edited = np.zeros((SIZE, SIZE, 3), np.uint8)
    square = np.array([[0, 0], [0, 50], [50, 50], [50, 0]], dtype=float)
    with pytest.raises(ValueError, match="outside the photograph"):
        paste_back(photograph, edited, square + 9000, region)
    with pytest.raises(ValueError, match="are needed"):
        paste_back(photograph, edited, square, region[:10])
