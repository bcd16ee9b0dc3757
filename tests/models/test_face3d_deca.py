"""DECA end to end on files of the genuine formats (random weights) and a real photograph; crops; detail in maps."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from flame_files import write_all

from models.face3d.assets import FACE3D, convert_assets
from models.face3d.contact_sheet import geometry_overlay
from models.face3d.deca import Deca
from models.face3d.deca_crop import crop, crop_transform, landmark_box
from models.face3d.deca_estimator import DecaEstimator
from models.face3d.decode import Decoder
from models.face3d.detail import detail_normals, load_detail_space
from models.face3d.editing import FaceEdit, apply_edit
from models.face3d.estimator import NoFace
from models.face3d.flame import TEXTURE, load_flame
from models.face3d.landmarks import FaceLandmarker, landmarks68
from models.face3d.package_files import MissingAsset
from models.face3d.parameters import FaceParameters
from models.face3d.render import geometry, render_maps
from models.images import read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("paper")
    write_all(root / "downloads")
    convert_assets(root / "downloads", root / "assets")
    return root / "assets" / FACE3D


@pytest.fixture(scope="module")
def photograph(photos) -> np.ndarray:
    """A square 256-pixel picture of the largest face that is found in the photographs."""
    landmarker = FaceLandmarker()
    for path in sorted(photos.glob("*.png")) + sorted(photos.glob("*.jpg")):
        image = read_image(path.read_bytes(), path.name)
        faces = landmarker.detect(image)
        if faces and faces[0].reason is None:
            left, top, right, bottom = faces[0].box
            side = min(1.8 * max(right - left, bottom - top), *image.shape[:2])
            x = int(np.clip((left + right - side) / 2, 0, image.shape[1] - side))
            y = int(np.clip((top + bottom - side) / 2, 0, image.shape[0] - side))
            return cv2.resize(image[y : y + int(side), x : x + int(side)], (256, 256), interpolation=cv2.INTER_AREA)
    pytest.skip("no photograph with a usable face")


def test_estimator_from_photograph_to_maps(folder, photograph):
    estimator = DecaEstimator(folder, FaceLandmarker())
    estimate = estimator.estimate(photograph)
    assert estimate.parameters.model == estimator.model.name == "flame"
    assert estimate.parameters.in_crop
    assert estimate.detected.shape == (468, 2)
    assert estimate.fitted.shape == (68, 2)
    assert np.isfinite(estimate.residual)
    maps = estimator.maps(estimate.parameters, 64)
    assert maps.mask.shape == (64, 64)
    again = estimator.estimate(photograph, hint=estimate.detected)
    np.testing.assert_allclose(again.detected, estimate.detected, atol=8)
    assert estimator.digest == DecaEstimator(folder, FaceLandmarker()).digest
    with pytest.raises(NoFace):
        estimator.estimate(np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(256, 256, 3\)"):
        estimator.estimate(photograph[:100])


def test_the_estimators_crop_shows_the_face_whole(photograph):
    (face, *_) = FaceLandmarker().detect(photograph)
    landmarks = landmarks68(face.mesh.astype(np.float64))
    tform = crop_transform(landmark_box(landmarks - 0.5))
    inside = np.concatenate([landmarks - 0.5, np.ones((68, 1))], axis=1) @ tform.T
    assert inside[:, :2].min() > 5
    assert inside[:, :2].max() < 218
    cropped = crop(photograph, tform)
    assert cropped.shape == (224, 224, 3)
    assert 0 <= cropped.min() < cropped.max() <= 1
    floats = crop(photograph.astype(np.float32) / 255, tform)
    np.testing.assert_allclose(floats, cropped, atol=1e-6)


def test_a_crop_of_pixels_that_lie_on_pixels_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    shifted = np.array([[1.0, 0, -20], [0, 1, -30], [0, 0, 1]])
    np.testing.assert_allclose(crop(image, shifted), image[30:254, 20:244] / np.float32(255), atol=1e-6)
    outside = np.array([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]])
    assert not crop(image, outside).any()


def test_boxes_without_extent_are_refused():
    with pytest.raises(ValueError, match="no extent"):
        crop_transform([10, 10, 10, 20])
    with pytest.raises(ValueError, match="smaller than a pixel"):
        crop_transform([10, 10, 10.2, 10.2])


def test_both_frames_show_the_same_head(folder):
    """A crop that is exactly the picture's middle: decoding in the picture and cropping commute."""
    model = load_flame(folder)
    decoder = Decoder(model)
    rng = np.random.default_rng(0)
    tform = np.array([[0.5, 0, -30.0], [0, 0.5, -20.0], [0, 0, 1]])
    face = FaceParameters.neutral("flame", shape=100, expression=50, texture=50).replaced(
        shape=rng.normal(size=100), texture=rng.normal(size=50), pose=rng.normal(size=6) * 0.2, tform=tform
    )
    crop_frame, picture = decoder([face]), decoder([face], frame=(500, 600))
    pixels = (picture.landmarks3d[0, :, :2] * 0.5 + 0.5).numpy() * [600, 500]
    in_crop = pixels @ tform[:2, :2].T + tform[:2, 2]
    np.testing.assert_allclose(in_crop, (crop_frame.landmarks3d[0, :, :2] * 0.5 + 0.5).numpy() * 224, atol=1e-2)
    np.testing.assert_allclose(geometry(model, face, frame=(500, 600)).landmarks["full68"], pixels, atol=1e-2)


def test_detail_normals_take_the_place_of_the_meshs(folder):
    model, space = load_flame(folder), load_detail_space(folder)
    face = FaceParameters.neutral("flame", shape=100, expression=50, texture=50)
    vertices = geometry(model, face).vertices
    wrinkled = detail_normals(
        model, vertices, np.random.default_rng(0).normal(0, 2e-3, (256, 256)).astype(np.float32), space
    )
    plain, detailed = render_maps(model, face), render_maps(model, face, detail=wrinkled)
    np.testing.assert_array_equal(plain.mask, detailed.mask)
    np.testing.assert_array_equal(plain.albedo, detailed.albedo)
    assert np.abs(plain.normal - detailed.normal)[plain.mask].mean() > 0.01


def test_detail_codes_decode_within_a_centimetre(folder):
    deca = Deca.load(folder)
    face = FaceParameters.neutral("flame", shape=100, expression=50, texture=50)
    details = deca.encode_detail([np.full((224, 224, 3), 0.5, np.float32)])
    displacement = deca.decode_detail([face], details)
    assert displacement.shape == (1, 256, 256)
    assert np.abs(displacement).max() < 0.01


def test_an_estimator_without_texture_space_says_so(folder, tmp_path):
    for path in folder.rglob("*.safetensors"):
        if path != folder / TEXTURE:
            (tmp_path / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(folder)).hardlink_to(path)
    with pytest.raises(MissingAsset, match="texture"):
        DecaEstimator(tmp_path, FaceLandmarker())
    with pytest.raises(ValueError, match="no texture space"):
        render_maps(load_flame(tmp_path), FaceParameters.neutral("flame", shape=100, expression=50, texture=50))


def test_geometry_is_laid_over_the_picture_where_the_mask_is(folder):
    model = load_flame(folder)
    maps = render_maps(model, FaceParameters.neutral("flame", shape=100, expression=50, texture=50), 64)
    image = np.full((64, 64, 3), 90, np.uint8)
    laid = geometry_overlay(image, maps)
    np.testing.assert_array_equal(laid[~maps.mask], image[~maps.mask])
    assert (laid[maps.mask] != 90).any(axis=-1).mean() > 0.9


def test_parameters_of_deca_survive_their_files(folder):
    face = FaceParameters.from_vector236(np.random.default_rng(0).normal(size=236), tform=np.diag([2.0, 2.0, 1.0]))
    assert FaceParameters.from_npy(face.to_npy()).in_crop
    assert json.loads(face.to_json())["model"] == "flame"


def test_flame_is_edited_by_jaw_vectors_and_its_users_presets(folder):
    frown = np.zeros(50, np.float32)
    frown[3] = 2.0
    model = load_flame(folder, presets={"frown": frown})
    face = FaceParameters.neutral("flame", shape=100, expression=50, texture=50)
    opened = apply_edit(model, face, FaceEdit(jaw=0.5))
    assert opened.pose[3] == pytest.approx(np.radians(15))
    assert apply_edit(model, opened, FaceEdit(jaw=1.0)).pose[3] == pytest.approx(np.radians(30))
    assert apply_edit(model, opened, FaceEdit(jaw=-1.0)).pose[3] == 0
    assert apply_edit(model, face, FaceEdit(expressions={"mouth-open": 1.0})).pose[3] > 0
    assert apply_edit(model, face, FaceEdit(expressions={"frown": 1.5})).expression[3] == 3.0
    assert apply_edit(model, face, FaceEdit(expression_vector=(1.0,) * 50)).expression.sum() == 50
    with pytest.raises(ValueError, match=r"'flame' cannot do 'smile' for want of 'mouthSmileLeft'.*frown"):
        apply_edit(model, face, FaceEdit(expressions={"smile": 1.0}))
