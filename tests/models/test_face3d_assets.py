"""Users' files: converted once, checked, and refused by name when they are not what they should be."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from flame_files import (
    VERTICES,
    dump_python2,
    flame_arrays,
    write_all,
    write_deca,
    write_flame,
    write_landmarks,
    write_template,
    write_texture,
)

from models.face3d import asset_conversion as conversion
from models.face3d.assets import FACE3D, RECORD, State, catalogue, check_assets, convert_assets
from models.face3d.deca import Deca
from models.face3d.detail import load_detail_space
from models.face3d.flame import MODEL, TEMPLATE, load_flame
from models.face3d.package_files import MissingAsset
from models.face3d.pickles import read_pickle
from models.face3d.weight_files import read_tensors


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_all(folder / "downloads")
    return folder


@pytest.fixture(scope="module")
def assets(originals, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    found = convert_assets(originals, folder)
    assert {one.asset.title for one in found} == {one.title for one in catalogue() if one.converter}
    return folder


# -- what works ----------------------------------------------------------------------------------------------


def test_converted_files_make_a_model_and_networks(assets):
    model = load_flame(assets / FACE3D)
    arrays = flame_arrays()
    np.testing.assert_allclose(model.template, arrays["v_template"], atol=1e-7)
    np.testing.assert_allclose(model.shape_basis, arrays["shapedirs"][:, :, :100], atol=1e-7)
    np.testing.assert_allclose(model.expression_basis, arrays["shapedirs"][:, :, 300:350], atol=1e-7)
    np.testing.assert_allclose(model.joint_regressor, arrays["J_regressor"], atol=1e-7)
    assert model.parents == (-1, 0, 1, 1, 1)
    assert model.texture is not None
    assert model.texture.components == 50
    assert load_detail_space(assets / FACE3D).mask.min() == 1
    Deca.load(assets / FACE3D)


def test_flame_2023_without_chumpy_converts_to_the_same(tmp_path):
    write_flame(tmp_path / "generic_model.pkl", flame_arrays())
    write_flame(tmp_path / "flame2023_Open.pkl", flame_arrays(), python2=False)
    for name in ("generic_model", "flame2023_Open"):
        conversion.convert_flame_pickle(tmp_path / f"{name}.pkl", tmp_path / f"{name}.safetensors")
    first, second = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("generic_model", "flame2023_Open"))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value)


def test_bfm_texture_files_are_read_too(tmp_path):
    rng = np.random.default_rng(0)
    mean, basis = rng.random((8, 8, 3)), rng.random((8, 8, 3, 4))
    np.savez(tmp_path / "FLAME_albedo_from_BFM.npz", MU=mean.reshape(-1), PC=basis.reshape(-1, 4))
    conversion.convert_texture(tmp_path / "FLAME_albedo_from_BFM.npz", tmp_path / "out.safetensors")
    tensors = read_tensors(tmp_path / "out.safetensors")
    np.testing.assert_allclose(tensors["mean"], mean[::2, ::2, ::-1], atol=1e-7)
    np.testing.assert_allclose(tensors["basis"], np.moveaxis(basis[::2, ::2, ::-1], 3, 0), atol=1e-7)


def test_check_says_what_is_there_what_not_and_where_from(assets, tmp_path):
    found = {one.asset.title: one for one in check_assets(assets, "paper")}
    assert found["FLAME head model"].state is State.PRESENT
    assert found["Stable Diffusion 1.5"].state is State.MISSING
    nothing = {one.asset.title: one for one in check_assets(tmp_path, "paper")}
    assert nothing["DECA networks"].state is State.MISSING
    assert "deca_model.tar" in nothing["DECA networks"].detail
    assert nothing["DECA detail mask"].state is State.OPTIONAL
    assert all(one.asset.licence and one.detail for one in nothing.values())
    assert not [one for one in check_assets(tmp_path, "tiny") if not one.asset.package]
    with pytest.raises(ValueError, match=r"no preset 'huge'.*'paper'"):
        check_assets(tmp_path, "huge")


def test_a_changed_file_is_noticed(tmp_path):
    (tmp_path / "downloads").mkdir()
    arrays = flame_arrays()
    write_flame(tmp_path / "downloads/generic_model.pkl", arrays)
    write_template(tmp_path / "downloads/head_template.obj", arrays["f"].astype(int))
    convert_assets(tmp_path / "downloads", tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    entry = record[f"{FACE3D}/{MODEL}"]
    assert entry["source"] == "generic_model.pkl"
    assert len(entry["sha256"]) == len(entry["source_sha256"]) == 64
    path = tmp_path / FACE3D / MODEL
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    states = {one.asset.file: one.state for one in check_assets(tmp_path, "paper")}
    assert states[f"{FACE3D}/{MODEL}"] is State.CHANGED
    assert states[f"{FACE3D}/{TEMPLATE}"] is State.PRESENT


def test_nothing_to_convert(tmp_path):
    with pytest.raises(MissingAsset, match=r"none of .*generic_model.pkl"):
        convert_assets(tmp_path, tmp_path / "out")


def test_missing_files_are_named(tmp_path):
    for load in (load_flame, load_detail_space, Deca.load):
        with pytest.raises(MissingAsset, match="instaface assets check"):
            load(tmp_path)


# -- pickles -------------------------------------------------------------------------------------------------


class _Attack:
    def __reduce__(self):
        return os.system, ("touch pwned",)


class _QuietAttack:
    def __reduce__(self):
        return eval, ("__import__('os').getpid()",)


@pytest.mark.parametrize("attack", [_Attack(), _QuietAttack(), np.random.default_rng])
def test_pickles_that_could_run_code_are_refused_by_name(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        path = tmp_path / "generic_model.pkl"
        path.write_bytes(pickle.dumps({"v_template": attack}, protocol=protocol))
        with pytest.raises(ValueError, match=r"generic_model.pkl: the pickle asks for \S+, .*refused"):
            conversion.convert_flame_pickle(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_an_attack_inside_a_torch_storage_is_refused(tmp_path, monkeypatch):
    """Upstream's _load_from_bytes unpickles freely; ours reads tensors only."""
    monkeypatch.chdir(tmp_path)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (pickle.dumps(_Attack(), protocol=2),)

    np.save(tmp_path / "landmark_embedding.npy", np.array({"a": Storage()}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"landmark_embedding.npy: a broken or refused pickle"):
        read_pickle(tmp_path / "landmark_embedding.npy")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_pickles(share, tmp_path):
    path = tmp_path / "generic_model.pkl"
    write_flame(path, flame_arrays())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"generic_model.pkl: a broken"):
        conversion.convert_flame_pickle(path, tmp_path / "out.safetensors")


def test_noise_instead_of_a_pickle(tmp_path):
    path = tmp_path / "generic_model.pkl"
    for seed in range(200):
        path.write_bytes(np.random.default_rng(seed).bytes(300))
        with pytest.raises(ValueError, match=r"generic_model.pkl"):
            conversion.convert_flame_pickle(path, tmp_path / "out.safetensors")


# -- contents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("v_template", None, "no 'v_template' in it"),
        ("posedirs", None, "no 'posedirs' in it"),
        ("posedirs", np.zeros((VERTICES, 3, 35)), "posedirs has shape"),
        ("shapedirs", np.zeros((VERTICES, 3, 100)), "shapedirs has 100 components"),
        ("shapedirs", np.zeros((VERTICES - 1, 3, 400)), "shapedirs has shape"),
        ("weights", np.full((VERTICES, 5), np.nan), "weights is empty or holds NaN"),
        ("f", np.full((9, 3), VERTICES, np.uint32), "f indexes"),
        ("J_regressor", "text", "J_regressor is of"),
    ],
)
def test_wrong_models_name_file_and_key(key, value, message, tmp_path):
    arrays = flame_arrays()
    if value is None:
        del arrays[key]
    else:
        arrays[key] = value
    path = tmp_path / "flame2023.pkl"
    dump_python2(arrays, path)
    with pytest.raises(ValueError, match=rf"flame2023.pkl: {message}"):
        conversion.convert_flame_pickle(path, tmp_path / "out.safetensors")


def test_swapped_files(originals, tmp_path):
    source, out = originals / "downloads", tmp_path / "out.safetensors"
    files = {
        "flame": "generic_model.pkl",
        "landmarks": "landmark_embedding.npy",
        "template": "head_template.obj",
        "texture": "FLAME_texture.npz",
        "displacement": "fixed_displacement_256.npy",
        "mask": "uv_face_eye_mask.png",
        "deca": "deca_model.tar",
    }
    for kind, convert in conversion.CONVERTERS.items():
        for other, name in files.items():
            if other != kind:
                with pytest.raises(ValueError, match=name):
                    convert(source / name, out)
                assert not out.exists()
        with pytest.raises(MissingAsset, match="nowhere"):
            convert(source / "nowhere", out)


def test_model_and_template_of_different_meshes(assets, tmp_path):
    folder = tmp_path / "face3d"
    for name in ("flame/landmarks.safetensors", MODEL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((assets / FACE3D / name).read_bytes())
    write_template(tmp_path / "head_template.obj", flame_arrays(seed=5)["f"].astype(int))
    conversion.convert_head_template(tmp_path / "head_template.obj", folder / TEMPLATE)
    with pytest.raises(ValueError, match=r"take head_template.obj and the model from the same FLAME"):
        load_flame(folder)


def test_landmarks_beyond_the_mesh(assets, tmp_path):
    for name in (MODEL, TEMPLATE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((assets / FACE3D / name).read_bytes())
    write_landmarks(tmp_path / "landmark_embedding.npy", faces=9000)
    conversion.convert_landmark_embedding(tmp_path / "landmark_embedding.npy", tmp_path / "flame/landmarks.safetensors")
    with pytest.raises(ValueError, match=r"landmarks.safetensors: static_faces names triangle"):
        load_flame(tmp_path)


def test_a_texture_of_odd_size(tmp_path):
    write_texture(tmp_path / "FLAME_texture.npz", side=15)
    with pytest.raises(ValueError, match=r"FLAME_texture.npz: a texture of .*512"):
        conversion.convert_texture(tmp_path / "FLAME_texture.npz", tmp_path / "out.safetensors")


def test_safetensors_that_are_not(tmp_path):
    (tmp_path / "flame").mkdir()
    (tmp_path / MODEL).write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match=r"model.safetensors: not a safetensors file"):
        load_flame(tmp_path)


# -- DECA's checkpoint ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> dict:
    return write_deca(tmp_path_factory.mktemp("deca") / "deca_model.tar")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda groups: groups["E_flame"].pop("encoder.conv1.weight"), r"E_flame: missing encoder.conv1.weight"),
        (lambda groups: groups["D_detail"].update(extra=torch.zeros(1)), r"D_detail: unexpected extra"),
        (
            lambda groups: groups["E_detail"].update({"layers.2.bias": torch.zeros(127)}),
            r"layers.2.bias has shape \(127,\)",
        ),
        (lambda groups: groups["E_flame"].update({"layers.2.bias": torch.full((236,), torch.nan)}), "holds NaN"),
        (lambda groups: groups.pop("E_detail"), "no E_detail in it"),
    ],
)
def test_wrong_checkpoints_name_the_tensor(checkpoint, damage, message, tmp_path):
    groups = {group: dict(state) for group, state in checkpoint.items()}
    damage(groups)
    torch.save(groups, tmp_path / "deca_model.tar")
    with pytest.raises(ValueError, match=rf"deca_model.tar: .*{message}"):
        conversion.convert_deca_checkpoint(tmp_path / "deca_model.tar", tmp_path / "out.safetensors")


def test_checkpoints_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "deca_model.tar"
    torch.save({"E_flame": _QuietAttack()}, path)
    with pytest.raises(ValueError, match=r"deca_model.tar: not a checkpoint of plain tensors"):
        conversion.convert_deca_checkpoint(path, tmp_path / "out.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"deca_model.tar: not a checkpoint"):
        conversion.convert_deca_checkpoint(path, tmp_path / "out.safetensors")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"deca_model.tar: holds a list"):
        conversion.convert_deca_checkpoint(path, tmp_path / "out.safetensors")
