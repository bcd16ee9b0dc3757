"""Edits on the open head, and what they look like."""

import numpy as np
import pytest

from models.face3d.editing import (
    EXPRESSIONS,
    FaceEdit,
    apply_edit,
    face_centre,
    interpolate,
    transfer,
)
from models.face3d.lighting import exposure, light_preset
from models.face3d.mirroring import mirror
from models.face3d.morphable import MorphableModel
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.render import geometry, render_maps


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return load_open_head().model


@pytest.fixture(scope="module")
def face(model) -> FaceParameters:
    rng = np.random.default_rng(0)
    neutral = FaceParameters.neutral("open", shape=model.shape_basis.shape[2], expression=len(model.expression_names))
    return neutral.replaced(
        shape=rng.normal(size=len(neutral.shape)) * 0.5,
        pose=[0.05, 0.1, -0.05, 0, 0, 0],
        camera=[6.5, 0.01, -0.01],
        light=light_preset("front"),
    )


def nose_and_eyes(model, parameters) -> tuple[np.ndarray, np.ndarray]:
    points = geometry(model, parameters).landmarks["full68"]
    return points[30], points[36:48].mean(axis=0)


def unit(model, parameters, name: str) -> float:
    return float(parameters.expression[model.expression_names.index(name)])


def test_an_edit_of_zeros_changes_nothing(model, face):
    assert apply_edit(model, face, FaceEdit()) == face


@pytest.mark.parametrize(
    ("edit", "axis", "sign"),
    [({"yaw": 20}, 0, 1), ({"yaw": -20}, 0, -1), ({"pitch": 15}, 1, -1), ({"pitch": -15}, 1, 1)],
)
def test_the_nose_goes_where_the_face_turns(model, face, edit, axis, sign):
    before, after = (nose_and_eyes(model, one) for one in (face, apply_edit(model, face, FaceEdit(**edit))))
    moved = (after[0] - after[1]) - (before[0] - before[1])
    assert sign * moved[axis] > 4


def test_roll_turns_clockwise(model, face):
    points = geometry(model, apply_edit(model, face, FaceEdit(roll=20))).landmarks["full68"]
    before = geometry(model, face).landmarks["full68"]
    slopes = [np.degrees(np.arctan2(*(p[42:48].mean(0) - p[36:42].mean(0))[::-1])) for p in (before, points)]
    assert slopes[1] - slopes[0] == pytest.approx(20, abs=3)


def test_pose_edits_keep_the_face_in_its_place(model, face):
    for edit in ({"yaw": 40}, {"pitch": -20, "roll": 10}, {"yaw": -15, "jaw": 0.8}):
        edited = apply_edit(model, face, FaceEdit(**edit))
        unturned = face.replaced(expression=edited.expression)
        np.testing.assert_allclose(face_centre(model, edited), face_centre(model, unturned), atol=1e-5)


def test_expressions_and_jaw_leave_the_head_where_it_is(model, face):
    edited = apply_edit(model, face, FaceEdit(jaw=1.0, expressions={"smile": 1.0}))
    np.testing.assert_array_equal(edited.shift, face.shift)
    np.testing.assert_array_equal(edited.pose, face.pose)
    assert unit(model, edited, "jawOpen") == 1.0
    assert unit(model, edited, "mouthSmileLeft") == pytest.approx(0.9)


@pytest.mark.parametrize("name", sorted(EXPRESSIONS))
def test_every_preset_is_made_of_units_the_open_head_has(model, face, name):
    edited = apply_edit(model, face, FaceEdit(expressions={name: 1.0}))
    assert np.abs(edited.expression - face.expression).max() > 0.3
    assert set(EXPRESSIONS[name]) <= set(model.expression_names)
    assert edited.expression.min() >= 0
    assert edited.expression.max() <= 1


def test_weights_add_up_and_stay_in_bounds(model, face):
    smiling = apply_edit(model, face, FaceEdit(expressions={"mouthSmileLeft": 0.6}))
    more = apply_edit(model, smiling, FaceEdit(expressions={"mouthSmileLeft": 0.6}))
    less = apply_edit(model, smiling, FaceEdit(expressions={"mouthSmileLeft": -0.4}))
    assert unit(model, more, "mouthSmileLeft") == 1.0
    assert unit(model, less, "mouthSmileLeft") == pytest.approx(0.2)


def test_an_open_mouth_shows(model, face):
    points = [geometry(model, apply_edit(model, face, FaceEdit(jaw=jaw))).landmarks["full68"] for jaw in (0.0, 0.7)]
    gaps = [one[66, 1] - one[62, 1] for one in points]
    assert gaps[1] - gaps[0] > 8


def test_light_presets_move_light_and_not_exposure(model, face):
    edited = apply_edit(model, face, FaceEdit(light="left"))
    np.testing.assert_allclose(exposure(edited.light), exposure(face.light), rtol=1e-5)
    maps = render_maps(model, edited)
    shading = maps.render.sum(-1) / np.maximum(maps.albedo.sum(-1), 1e-3)
    left, right = maps.mask.copy(), maps.mask.copy()
    left[:, 128:], right[:, :128] = False, False
    assert shading[left].mean() > 1.2 * shading[right].mean()
    given = FaceEdit(light=[[1.0] * 3] * 9, light_strength=0.5)
    assert apply_edit(model, face, given).light.shape == (9, 3)


def test_edits_survive_json():
    edit = FaceEdit(
        yaw=12.5, jaw=0.3, expressions={"smile": 0.5}, light=np.eye(9, 3).tolist(), expression_vector=[0.0, 1.0]
    )
    assert FaceEdit.from_json(edit.to_json()) == edit
    assert FaceEdit.from_json(FaceEdit(light="rim").to_json()) == FaceEdit(light="rim")
    with pytest.raises(ValueError, match="nod"):
        FaceEdit.from_json('{"nod": 1}')


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"yaw": 200}, "yaw = 200"),
        ({"jaw": 1.5}, "jaw = 1.5"),
        ({"yaw": float("nan")}, "yaw = nan"),
        ({"expressions": {"smile": 50}}, "expression smile = 50"),
        ({"light": "disco"}, "no light preset"),
        ({"light": [[1, 2, 3]]}, r"\(9, 3\) numbers"),
        ({"light_strength": 2}, "light_strength"),
        ({"shape_vector": (float("inf"),)}, "shape_vector holds NaN or infinity"),
    ],
)
def test_impossible_edits_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FaceEdit(**fields)


def test_unknown_expressions_are_refused_by_name(model, face):
    with pytest.raises(ValueError, match=r"cannot do 'eyebrowDance'.*expressions are .*single units"):
        apply_edit(model, face, FaceEdit(expressions={"eyebrowDance": 1}))
    with pytest.raises(ValueError, match="expression_vector has 99 numbers"):
        apply_edit(model, face, FaceEdit(expression_vector=(1.0,) * 99))


def test_vectors_are_added_to_the_first_coefficients(model, face):
    edited = apply_edit(model, face, FaceEdit(shape_vector=(1.0, -2.0)))
    np.testing.assert_allclose(edited.shape[:2] - face.shape[:2], [1, -2], atol=1e-6)
    np.testing.assert_array_equal(edited.shape[2:], face.shape[2:])
    assert apply_edit(model, face, FaceEdit(expression_vector=(0.0, 0.5))).expression[1] == 0.5


def test_transfer_takes_what_it_is_told(model, face):
    driver = apply_edit(model, face, FaceEdit(yaw=30, jaw=0.5, light="above")).replaced(shape=-face.shape)
    for take, names in {
        "pose": {"pose", "shift"},
        "expression": {"expression"},
        "light": {"light"},
        "shape": {"shape"},
    }.items():
        out = transfer(model, face, driver, {take})
        for name in ("shape", "expression", "pose", "camera", "light", "shift"):
            assert np.array_equal(getattr(out, name), getattr(face, name)) == (name not in names), (take, name)
    moved = transfer(model, face, driver, {"pose"})
    np.testing.assert_allclose(moved.pose[:3], driver.pose[:3])
    np.testing.assert_allclose(face_centre(model, moved), face_centre(model, face), atol=1e-5)
    with pytest.raises(ValueError, match="hair"):
        transfer(model, face, driver, {"hair"})


def test_interpolation_begins_and_ends_at_its_ends(model, face):
    end = apply_edit(model, face, FaceEdit(yaw=60, jaw=0.5, light="left"))
    for weight, expected in ((0.0, face), (1.0, end)):
        got = interpolate(face, end, weight)
        for name in ("shape", "expression", "pose", "camera", "light", "shift"):
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=1e-6)
    halfway = interpolate(face, end, 0.5)
    np.testing.assert_allclose(halfway.light, (face.light + end.light) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="between the models"):
        interpolate(face, end.replaced(model="flame"), 0.5)


def test_interpolation_of_albedo_pictures(face):
    dark, light = (face.replaced(albedo=np.full((4, 4, 3), level, np.uint8)) for level in (10, 210))
    assert (interpolate(dark, light, 0.25).albedo == 60).all()


def test_a_mirrored_face_renders_as_mirrored_maps(model, face):
    edited = apply_edit(
        model, face, FaceEdit(yaw=25, pitch=8, roll=12, light="left", expressions={"wink-left": 1.0, "mouthLeft": 0.5})
    )
    expected, got = render_maps(model, edited).mirrored(), render_maps(model, mirror(model, edited))
    assert (expected.mask != got.mask).mean() < 2e-3
    both = expected.mask & got.mask
    for name, tolerance in (("normal", 0.01), ("albedo", 0.01), ("render", 0.01)):
        assert np.abs(getattr(expected, name) - getattr(got, name))[both].mean() < tolerance, name
    again = mirror(model, mirror(model, edited))
    np.testing.assert_allclose(again.shape, edited.shape, atol=1e-3)
    for name in ("expression", "pose", "camera", "light", "shift"):
        np.testing.assert_allclose(getattr(again, name), getattr(edited, name), atol=1e-6)


def test_a_mirrored_crop_renders_as_mirrored_maps(model, face):
    """The half-pixel between 223 and 224 in DECA's crop does not spoil the mirror."""
    tform = np.array([[1.3, 0, -40], [0, 1.3, -30], [0, 0, 1]])
    cropped = face.replaced(tform=tform, camera=[9.0, 0.01, -0.01])
    expected, got = render_maps(model, cropped).mirrored(), render_maps(model, mirror(model, cropped))
    assert (expected.mask != got.mask).mean() < 2e-3


def test_an_unsymmetric_model_is_not_mirrored(face):
    from test_face3d_morphable import small_model

    with pytest.raises(ValueError, match="not symmetric"):
        mirror(small_model(), FaceParameters.neutral("small", shape=4, expression=3))
