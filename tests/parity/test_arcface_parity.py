"""ArcFace alignment against insightface (golden/arcface)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.encoders.face_recognition import ARCFACE_TEMPLATE, arcface_crop, arcface_template, similarity


def test_template(golden: Path) -> None:
    with np.load(golden / "arcface" / "estimate_norm.npz") as file:
        np.testing.assert_allclose(ARCFACE_TEMPLATE, file["template_112"], atol=1e-4)


@pytest.mark.parametrize("size", [112, 224, 256])
def test_five_point_similarity(golden: Path, size: int) -> None:
    with np.load(golden / "arcface" / "estimate_norm.npz") as file:
        landmarks, expected = file[f"landmarks_{size}"], file[f"M_{size}"]
    for points, matrix in zip(landmarks, expected, strict=True):
        ours = similarity(points, arcface_template(size))
        np.testing.assert_allclose(ours[:, :2], matrix[:, :2], atol=5e-6)
        np.testing.assert_allclose(ours[:, 2], matrix[:, 2], atol=5e-4)


def test_a_mirrored_face_is_rotated_not_reflected(golden: Path) -> None:
    with np.load(golden / "arcface" / "estimate_norm.npz") as file:
        ours = similarity(file["landmarks_mirrored"], ARCFACE_TEMPLATE)
        np.testing.assert_allclose(ours, file["M_mirrored"], atol=5e-4)
    assert np.linalg.det(ours[:, :2]) > 0


@pytest.mark.parametrize("face", ["a", "b"])
@pytest.mark.parametrize("size", [112, 224])
def test_aligned_crops(golden: Path, face: str, size: int) -> None:
    image = np.array(Image.open(golden / "arcface" / "image.png").convert("RGB"))
    with np.load(golden / "arcface" / "norm_crop.npz") as file:
        landmarks, expected = file[f"landmarks_{face}"], file[f"crop_{face}_{size}"]
    difference = np.abs(arcface_crop(image, landmarks, size).astype(int) - expected.astype(int))
    # OpenCV 4 and 5 interpolate with different weights: 0.05 grey levels apart on average, up to 4 at borders.
    assert difference.mean() < 0.06
    assert difference.max() <= 4
