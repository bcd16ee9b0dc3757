"""FaceParameters as a value: files, DECA's vector, refusals."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.face3d.parameters import FaceParameters


def random_face(seed: int, sizes: tuple[int, int, int] = (100, 50, 50), model: str = "flame") -> FaceParameters:
    rng = np.random.default_rng(seed)
    shape, expression, texture = sizes
    return FaceParameters(
        model=model,
        shape=rng.normal(size=shape),
        expression=rng.normal(size=expression),
        pose=rng.normal(size=6),
        camera=rng.normal(size=3),
        light=rng.normal(size=(9, 3)),
        texture=rng.normal(size=texture),
        shift=rng.normal(size=3),
        tform=rng.normal(size=(3, 3)),
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(0, 130), st.integers(0, 60), st.integers(0, 50)),
    model=st.sampled_from(["flame", "open", "kopf-ü"]),
)
def test_files_give_back_the_same_numbers(seed, sizes, model):
    face = random_face(seed, sizes, model)
    assert FaceParameters.from_npy(face.to_npy()) == face
    assert FaceParameters.from_json(face.to_json()) == face


@given(seed=st.integers(0, 2**32 - 1))
def test_deca_vector_both_ways(seed):
    face = random_face(seed)
    vector = face.to_vector236()
    assert vector.shape == (236,)
    assert FaceParameters.from_vector236(vector, tform=face.tform, shift=face.shift) == face


def test_equal_faces_give_equal_bytes():
    assert random_face(1).to_npy() == random_face(1).to_npy()
    assert random_face(1) != random_face(2)


def test_albedo_travels_beside_the_numbers():
    albedo = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    face = random_face(1).replaced(albedo=albedo)
    assert FaceParameters.from_npy(face.to_npy()) != face
    assert FaceParameters.from_npy(face.to_npy(), albedo) == face
    assert FaceParameters.from_json(face.to_json(), albedo) == face


def test_a_face_cannot_be_changed_from_outside():
    shape = np.zeros(100, np.float32)
    face = random_face(0).replaced(shape=shape)
    shape[0] = 1
    assert face.shape[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        face.shape[0] = 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pose", np.zeros(5), r"pose has shape \(5,\)"),
        ("light", np.zeros(27), "light has shape"),
        ("shape", np.zeros((2, 2)), "must be a vector"),
        ("camera", [1, np.nan, 0], "NaN"),
        ("albedo", np.zeros((4, 4, 3), np.float32), "uint8"),
    ],
)
def test_refusals(field, value, message):
    with pytest.raises(ValueError, match=message):
        random_face(0).replaced(**{field: value})


def test_vector_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match="DECA's vector holds 100"):
        random_face(0, (80, 52, 0)).to_vector236()
    with pytest.raises(ValueError, match=r"\(236,\)"):
        FaceParameters.from_vector236(np.zeros(235))


def test_other_files_are_refused():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(236, np.float32))
    with pytest.raises(ValueError, match="not face parameters"):
        FaceParameters.from_npy(buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        FaceParameters.from_npy(buffer.getvalue())
    with pytest.raises(ValueError, match="unknown"):
        FaceParameters.from_json(random_face(0).to_json().replace('"shape"', '"shapes"'))
    with pytest.raises(ValueError, match="version"):
        FaceParameters.from_json("[]")
