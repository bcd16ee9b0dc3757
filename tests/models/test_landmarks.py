"""Faces in photographs: how many, where, upright or not, mirrored, cut, small; nothing where there is none."""

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.face3d.align import align_ffhq
from models.face3d.landmarks import Face, FaceLandmarker, NoFace, five_points, landmarks68
from models.face3d.mesh_topology import LANDMARKS_68, MIRROR, lid_gap, mouth_gap, outer_eye_distance
from models.face3d.package_files import MissingAsset, package_file
from models.images import read_image

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@cache
def landmarker() -> FaceLandmarker:
    return FaceLandmarker()


def index(photos: Path) -> list[dict[str, object]]:
    return list(json.loads((photos / "index.json").read_text()))


def clear_portrait(photos: Path) -> tuple[np.ndarray, Face]:
    """The first photograph with one usable, nearly frontal face."""
    for row in index(photos):
        if row["faces"] == 1:
            image = read_image((photos / str(row["file"])).read_bytes(), str(row["file"]))
            faces = landmarker().detect(image)
            if faces and faces[0].reason is None and abs(faces[0].yaw_degrees) < 15:
                return image, faces[0]
    pytest.skip("no frontal single-face photograph in the folder")


def test_every_expected_face_is_found_and_described(photos: Path) -> None:
    wrong = []
    for row in index(photos):
        image = read_image((photos / str(row["file"])).read_bytes(), str(row["file"]))
        faces = landmarker().detect(image)
        usable = [face for face in faces if face.reason is None]
        if row["faces"] is not None and len(usable) != row["faces"]:
            wrong.append((row["file"], row["faces"], [face.reason for face in faces]))
        for face in faces:
            assert face.mesh.shape == (468, 3)
            assert np.isfinite(face.mesh).all()
            assert 0 <= face.confidence <= 1
            assert bool(face.sentence) == (face.reason is not None)
        areas = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in faces]
        assert areas == sorted(areas, reverse=True)
    assert len(wrong) <= 0.1 * len(index(photos)), wrong


def test_nothing_is_found_where_there_is_nothing() -> None:
    rng = np.random.default_rng(0)
    for picture in (
        np.zeros((300, 200, 3), np.uint8),
        np.full((64, 900, 3), 255, np.uint8),
        rng.integers(0, 256, (256, 256, 3), dtype=np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.tile(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (400, 1, 3)),
    ):
        assert landmarker().detect(picture) == []


def test_other_arrays_are_refused() -> None:
    for bad in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)):
        with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
            landmarker().detect(bad)


def test_a_small_face_in_a_large_picture_is_found_by_tiling(photos: Path) -> None:
    image, face = clear_portrait(photos)
    height = face.box[3] - face.box[1]
    small = cv2.resize(image, None, fx=90 / height, fy=90 / height, interpolation=cv2.INTER_AREA)
    canvas = np.full((1300, 1600, 3), 128, np.uint8)
    rows, columns = min(small.shape[0], 1000), min(small.shape[1], 1000)
    canvas[250 : 250 + rows, 500 : 500 + columns] = small[:rows, :columns]
    found = landmarker().detect(canvas)
    assert found
    expected = face.mesh[:, :2] * (90 / height) + [500, 250]
    distance = np.linalg.norm(found[0].mesh[:, :2] - expected, axis=1).mean()
    assert distance < 0.08 * outer_eye_distance(expected)


def test_a_very_small_face_says_so(photos: Path) -> None:
    image, face = clear_portrait(photos)
    scale = 13.0 / outer_eye_distance(face.mesh)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    reasons = [one.reason for one in landmarker().detect(small)]
    assert reasons in ([], ["too_small"])


def test_a_face_cut_by_the_border_says_so(photos: Path) -> None:
    image, face = clear_portrait(photos)
    middle = int((face.box[0] + face.box[2]) / 2)
    for half in (image[:, middle:], image[:, :middle]):
        assert all(one.reason == "cut" for one in landmarker().detect(np.ascontiguousarray(half)))


def test_detection_is_deterministic_to_the_byte(photos: Path) -> None:
    image, face = clear_portrait(photos)
    again = FaceLandmarker().detect(image)[0]
    assert again.mesh.tobytes() == face.mesh.tobytes()
    assert again.iris.tobytes() == face.iris.tobytes()


def test_a_mirrored_photograph_gives_the_mirrored_mesh(photos: Path) -> None:
    image, face = clear_portrait(photos)
    other = landmarker().detect(np.ascontiguousarray(image[:, ::-1]))[0]
    flipped = other.mesh[list(MIRROR), :2] * [-1, 1] + [image.shape[1], 0]
    distance = np.linalg.norm(flipped - face.mesh[:, :2], axis=1).mean()
    assert distance < 0.02 * outer_eye_distance(face.mesh)
    assert abs(other.yaw_degrees + face.yaw_degrees) < 3


def test_a_tilted_photograph_gives_the_tilted_mesh(photos: Path) -> None:
    image, face = clear_portrait(photos)
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 25, 1.0)
    tilted = cv2.warpAffine(image, turn, (width, height), borderValue=(128, 128, 128))
    found = landmarker().detect(tilted)
    assert found
    expected = face.mesh[:, :2] @ turn[:, :2].T + turn[:, 2]
    assert np.linalg.norm(found[0].mesh[:, :2] - expected, axis=1).mean() < 0.05 * outer_eye_distance(expected)


def test_the_mirror_table_is_its_own_inverse() -> None:
    partner = np.array(MIRROR)
    assert np.array_equal(partner[partner], np.arange(468))
    assert partner[33] == 263
    assert partner[61] == 291
    assert partner[13] == 13


def test_point_sets_are_where_their_names_say(photos: Path) -> None:
    _, face = clear_portrait(photos)
    points = landmarks68(face.mesh)
    assert points.shape == (68, 2)
    assert len(set(LANDMARKS_68)) >= 66
    eye_right, eye_left = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    nose, mouth, chin = points[30], points[48:60].mean(axis=0), points[8]
    assert eye_right[0] < nose[0] < eye_left[0]
    assert eye_right[1] < nose[1] < mouth[1] < chin[1]
    five = five_points(face.mesh)
    assert five[0, 0] < five[1, 0]
    assert five[3, 0] < five[4, 0]


def test_alignment_puts_eyes_and_mouth_where_ffhq_does(photos: Path) -> None:
    image, face = clear_portrait(photos)
    aligned = align_ffhq(image, landmarks68(face.mesh), 256)
    moved = face.mesh[:, :2] @ aligned.to_aligned[:2, :2].T + aligned.to_aligned[:2, 2]
    points = landmarks68(moved)
    right, left = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    assert abs(right[1] - left[1]) < 8
    assert abs((right[0] + left[0]) / 2 - 128) < 8
    again = landmarker().refine(aligned.image, moved)
    assert again is not None
    assert np.linalg.norm(again.mesh[:, :2] - moved, axis=1).mean() < 2.0


def test_apertures_of_simple_shapes() -> None:
    points = np.zeros((468, 2))
    points[[33, 263]] = [[0, 0], [10, 0]]
    points[[82, 13, 312]] = [4, 5]
    points[[87, 14, 317]] = [4, 7]
    assert mouth_gap(points) == pytest.approx(0.2)
    points[[33, 133]] = [[0, 0], [4, 0]]
    assert lid_gap(points)[0] == 0


def test_a_missing_package_is_named_with_its_remedy() -> None:
    with pytest.raises(MissingAsset, match="pip install --no-deps no-such-package==1"):
        package_file("no-such-package", "1", "weights.bin")
    with pytest.raises(MissingAsset, match="not in the installed numpy"):
        package_file("numpy", "1", "weights.bin")


def test_no_face_survives_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(NoFace("cut", "the face is cut off")))  # noqa: S301
    assert (error.reason, str(error)) == ("cut", "the face is cut off")
