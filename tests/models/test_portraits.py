"""Synthetic portraits: equal bytes, exact parameters, edits as apply_edit says, framing, masks, people that differ."""

import ctypes
import hashlib

import cv2
import numpy as np
import pytest

from models.face3d.align import ffhq_geometry
from models.face3d.editing import FaceEdit, apply_edit
from models.face3d.estimator import load_estimator
from models.face3d.landmarks import FaceLandmarker, landmarks68
from models.face3d.open_head import load_open_head
from models.face3d.rotations import axis_angle_matrix
from models.portraits.figure import figure_of
from models.portraits.people import HAIR_STYLES, person_of
from models.portraits.portrait import GENERATOR_DIGEST, Portrait, render_portrait
from models.portraits.scenes import edited, scene_of, scene_parameters
from models.portraits.skin import albedo_of

SIZE = 96
EDITS = {
    "yaw": FaceEdit(yaw=25.0),
    "mouth": FaceEdit(expressions={"mouth-open": 1.0}),
    "light": FaceEdit(light="left"),
}


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return render_portrait(person_of(3, 0), scene_of(3, 0, 0), size=SIZE)


def test_equal_arguments_give_equal_bytes_and_others_do_not(portrait: Portrait) -> None:
    person, scene = person_of(3, 0), scene_of(3, 0, 0)
    figure_of.cache_clear()
    albedo_of.cache_clear()
    again = render_portrait(person, scene, size=SIZE)
    assert np.array_equal(portrait.image, again.image)
    assert portrait.parameters == again.parameters
    pictures = [render_portrait(person_of(3, n), scene_of(3, n, p), size=SIZE).image for n, p in ((0, 1), (1, 0))]
    digests = {hashlib.sha256(one.tobytes()).hexdigest() for one in (portrait.image, *pictures)}
    assert len(digests) == 3


def test_what_lies_in_memory_does_not_show() -> None:
    """Freed memory full of NaN is what the next allocations get: no pixel may come from it."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    for number in range(3):
        person, scene = person_of(1000, number), scene_of(1000, number, 0)
        pictures = []
        for byte in (0, 255, 127):
            for size in range(8, 1024, 8):
                blocks = [libc.malloc(size) for _ in range(60)]
                for block in blocks:
                    libc.memset(block, byte, size)
                for block in blocks:
                    libc.free(block)
            pictures.append(render_portrait(person, scene, size=SIZE).image)
        assert np.array_equal(pictures[0], pictures[1])
        assert np.array_equal(pictures[0], pictures[2])


def test_the_digest_names_the_generator() -> None:
    assert len(GENERATOR_DIGEST) == 16
    int(GENERATOR_DIGEST, 16)


def test_people_and_scenes_are_drawn_each_for_itself() -> None:
    assert person_of(0, 7) == person_of(0, 7)
    assert person_of(0, 7) != person_of(1, 7)
    assert scene_of(0, 7, 1) != scene_of(0, 7, 2)
    assert scene_of(0, 7, 1).background == scene_of(0, 7, 2).background, "pictures of one person are one sitting"
    with pytest.raises(ValueError, match="numbered from 0"):
        person_of(0, -1)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        render_portrait(person_of(0, 0), scene_of(0, 0, 0), size=8)


def test_a_population_is_varied() -> None:
    people = [person_of(0, number) for number in range(200)]
    assert len({one.hair.style for one in people}) >= len(HAIR_STYLES) - 2
    assert {one.beard.style for one in people} >= {"none", "stubble", "full", "moustache"}
    assert 0.1 < np.mean([one.glasses is not None for one in people]) < 0.5
    tones = np.array([one.skin.tone for one in people]).mean(axis=1)
    assert tones.min() < 0.3
    assert tones.max() > 0.65
    assert len({one.clothes.style for one in people}) == 7


@pytest.mark.parametrize("name", EDITS)
def test_edits_of_a_scene_are_edits_of_its_parameters(portrait: Portrait, name: str) -> None:
    person, scene = person_of(3, 0), edited(scene_of(3, 0, 0), EDITS[name])
    truth = render_portrait(person, scene, size=SIZE)
    assert truth.parameters == apply_edit(load_open_head().model, portrait.parameters, EDITS[name])
    grown = cv2.dilate((truth.head | portrait.head).astype(np.uint8), np.ones((9, 9)))
    away = grown == 0
    away[SIZE // 2 :] = False  # shoulders follow the neck, and light falls on them
    assert away.sum() > 200
    assert np.array_equal(truth.image[away], portrait.image[away]), "background and noise stay"
    assert np.abs(truth.image.astype(int) - portrait.image)[portrait.head].mean() > 2


def test_picture_and_maps_lie_on_each_other(portrait: Portrait) -> None:
    maps = portrait.maps()
    assert maps.mask.shape == portrait.face.shape == (SIZE, SIZE)
    assert (portrait.face & ~maps.mask).sum() <= 2, "the face is part of the rendered head"
    assert portrait.head[portrait.face].all()
    face = portrait.face & (maps.render.min(axis=-1) > 0.02)
    alike = np.corrcoef(maps.render[face].mean(axis=-1), portrait.image[face].mean(axis=-1))[0, 1]
    assert alike > 0.8, "the face is its own render, but for shadow, gloss and camera"


def test_hair_reaches_beyond_the_skull_and_moves_with_the_head() -> None:
    number = next(n for n in range(100) if person_of(0, n).hair.style == "afro")
    person, scene = person_of(0, number), scene_of(0, number, 0)
    turned = edited(scene, FaceEdit(roll=20.0))
    one, two = (render_portrait(person, s, size=SIZE) for s in (scene, turned))
    hair = figure_of(person).hair
    assert len(hair) > 1000
    extent = np.linalg.norm(hair - hair.mean(axis=0), axis=1).max()
    assert extent > 0.1, "an afro reaches beyond the skull"
    assert one.head.sum() > one.maps().mask.sum() * 1.05
    columns = [np.nonzero(p.head[: SIZE // 4])[1].mean() for p in (one, two)]
    assert columns[1] > columns[0] + 3, "tilted clockwise, the top of the hair goes to the picture's right"


def test_the_landmarker_would_not_move_them_and_the_estimator_reads_their_pose() -> None:
    landmarker, estimator = FaceLandmarker(), load_estimator("open")
    scales, shifts, errors = [], [], []
    for number in range(8):
        scene = scene_of(11, number, 0)
        if abs(scene.yaw) > 30:
            continue
        portrait = render_portrait(person_of(11, number), scene)
        square = ffhq_geometry(landmarks68(landmarker.detect(portrait.image)[0].mesh.astype(float)), 256, 256, 256)
        scales.append(square.qsize / 256)
        shifts.append(np.abs(square.c / 256 - 0.5).max())
        forward = axis_angle_matrix(portrait.parameters.pose[None, :3])[0][:, 2]
        found = estimator.estimate(portrait.image)
        errors.append(abs(found.yaw_degrees - np.degrees(np.arctan2(forward[0], forward[2]))))
    assert len(scales) >= 5
    assert abs(np.median(scales) - 1) < 0.05
    assert np.median(shifts) < 0.025
    assert np.median(errors) < 4


def test_parameters_come_without_rendering(portrait: Portrait) -> None:
    person = person_of(3, 0)
    assert scene_parameters(person, scene_of(3, 0, 0), albedo_of(person)) == portrait.parameters
