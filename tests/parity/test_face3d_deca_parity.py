"""DECA's networks, its 236 numbers and its crops."""

import json
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.face3d.asset_conversion import convert_deca_checkpoint
from models.face3d.deca import (
    D_DETAIL,
    E_DETAIL,
    E_FLAME,
    NETWORKS,
    Deca,
    DetailDecoder,
    Regressor,
    build_network,
    network_shapes,
)
from models.face3d.deca_crop import crop, crop_transform, landmark_box, whole_picture_transform
from models.face3d.parameters import FaceParameters


def read(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / f"{name}.npz") as file:
        return dict(file)


def upcast(path: Path) -> dict[str, torch.Tensor]:
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}


def hashed_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """The integer-hash recipe of the golden README: full-size weights without a full-size file."""
    out = {}
    for name, shape in shapes.items():
        count, kind = int(np.prod(shape)), name.rsplit(".", 1)[1]
        if kind == "num_batches_tracked":
            out[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        with np.errstate(over="ignore"):
            z = np.uint64((zlib.crc32(name.encode()) << 32) | seed) + np.arange(
                1, count + 1, dtype=np.uint64
            ) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        u = (((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) + 0.5) / 2**24
        if kind == "running_mean":
            value = 0.2 * (u - 0.5)
        elif kind == "bias":
            value = 0.1 * (u - 0.5)
        elif kind == "running_var" or len(shape) == 1:
            value = 0.5 + u
        else:
            value = (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:])) * 0.8
        out[name] = torch.from_numpy(value.astype(np.float32)).reshape(shape)
    return out


@pytest.fixture(scope="module")
def seed(golden) -> int:
    return int(read(golden, "networks/encoder_full_io")["hash_seed"])


def test_layout_is_that_of_the_original_checkpoint(golden):
    layout = json.loads((golden / "networks/deca_model_layout.json").read_text())
    for group in (E_FLAME, E_DETAIL, D_DETAIL):
        expected = {name: tuple(entry["shape"]) for name, entry in layout[group]["tensors"].items()}
        assert network_shapes(group) == expected
        parameters = sum(value.numel() for value in build_network(group).parameters())
        assert parameters == layout[group]["n_parameters"]


@torch.inference_mode()
def test_narrow_encoder(golden):
    g = read(golden, "networks/encoder_w8_io")
    network = Regressor(g["output"].shape[1], width=8, hidden=64).eval()
    network.load_state_dict(upcast(golden / "networks/encoder_w8.safetensors"))
    images = torch.from_numpy(g["images_u8"]).float() / 255
    np.testing.assert_allclose(network.encoder(images), g["features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(network(images), g["output"], atol=1e-4, rtol=0)


def test_hash_recipe(golden, seed):
    checks = json.loads((golden / "networks/encoder_hash_checks.json").read_text())
    assert checks["hash_seed"] == seed
    for group, entries in ((E_FLAME, checks["E_flame"]), (E_DETAIL, checks["E_detail_first_and_last"])):
        weights = hashed_weights(network_shapes(group), seed)
        for name, entry in entries.items():
            value = weights[name].double()
            np.testing.assert_allclose(value.reshape(-1)[:4], entry["first4"], rtol=1e-6)
            np.testing.assert_allclose(value.sum(), entry["sum_f64"], rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(value.abs().sum(), entry["sum_abs_f64"], rtol=1e-6)


@torch.inference_mode()
def test_full_size_encoders(golden, seed):
    g = read(golden, "networks/encoder_full_io")
    images = torch.from_numpy(g["images_u8"]).float() / 255
    for group in (E_FLAME, E_DETAIL):
        network = build_network(group).eval()
        network.load_state_dict(hashed_weights(network_shapes(group), seed))
        np.testing.assert_allclose(network(images), g[f"{group}_out"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(network(images), g[f"{group}_out_f64"], atol=1e-4, rtol=0)
        if group == E_FLAME:
            np.testing.assert_allclose(network.encoder(images), g["E_flame_features"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_detail_decoder(golden):
    g = read(golden, "networks/D_detail_io")
    network = DetailDecoder().eval()
    network.load_state_dict(upcast(golden / "networks/D_detail.safetensors"))
    displacement = network(torch.from_numpy(g["z"])).numpy()
    np.testing.assert_allclose(displacement, g["output"], atol=1e-6, rtol=0)
    assert np.abs(displacement).max() < 0.01
    layout = json.loads((golden / "networks/deca_model_layout.json").read_text())
    norms = {name: module.eps for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert norms == layout[D_DETAIL]["batchnorm_eps"]


def test_code_split_is_exact(golden):
    g = read(golden, "networks/decompose_code")
    names = {"shape": "shape", "tex": "texture", "exp": "expression", "pose": "pose", "cam": "camera", "light": "light"}
    for row, code in enumerate(g["code"]):
        parameters = FaceParameters.from_vector236(code)
        for ours, theirs in ((names[key], g[key][row]) for key in names):
            np.testing.assert_array_equal(getattr(parameters, ours), theirs)
        np.testing.assert_array_equal(parameters.to_vector236(), code)


def test_a_converted_checkpoint_encodes_like_the_networks_in_it(golden, seed, tmp_path):
    """End to end as a user has it: deca_model.tar → safetensors → codes, trainer's leftovers dropped."""
    weights = {group: hashed_weights(network_shapes(group), seed) for group in (E_FLAME, E_DETAIL)}
    weights[D_DETAIL] = upcast(golden / "networks/D_detail.safetensors")
    torch.save(weights | {"opt": {"state": {}}, "global_step": 3, "batch_size": 2}, tmp_path / "deca_model.tar")
    convert_deca_checkpoint(tmp_path / "deca_model.tar", tmp_path / NETWORKS)
    deca = Deca.load(tmp_path)
    g = read(golden, "networks/encoder_full_io")
    crops = [(image.transpose(1, 2, 0) / 255).astype(np.float32) for image in g["images_u8"]]
    tform = np.diag([0.5, 0.5, 1.0])
    faces = deca.encode(crops, [tform] * len(crops))
    np.testing.assert_allclose([face.to_vector236() for face in faces], g["E_flame_out"], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(faces[0].tform, tform.astype(np.float32))
    details = deca.encode_detail(crops)
    np.testing.assert_allclose(details, g["E_detail_out"], atol=1e-4, rtol=0)
    assert deca.decode_detail(faces, details).shape == (len(crops), 256, 256)


def test_crop_transforms(golden):
    g = read(golden, "deca_crop/tforms")
    for kind in ("kpt68", "bbox"):
        for row, box in enumerate(g[f"{kind}_ltrb"]):
            tform = crop_transform(box, kind)
            np.testing.assert_allclose(tform, g[f"{kind}_tform_f64"][row], atol=1e-9, rtol=0)
            np.testing.assert_allclose(tform, g[f"{kind}_tform"][row], atol=1e-3, rtol=1e-5)
            corners = np.concatenate([g[f"{kind}_src_pts"][row], np.ones((3, 1))], axis=1) @ tform.T
            np.testing.assert_allclose(corners[:, :2], [[0, 0], [0, 223], [223, 0]], atol=1e-9)
            centre = tform @ [*g[f"{kind}_center"][row], 1]
            np.testing.assert_allclose(centre[:2], 111.5, atol=1e-9)
            assert tform[0, 0] == pytest.approx(223 / g[f"{kind}_size"][row])
            assert g[f"{kind}_size"][row] == int(g[f"{kind}_old_size"][row] * 1.25)
    np.testing.assert_allclose(crop_transform(g["scale1p6_ltrb"], scale=1.6), g["scale1p6_tform"], atol=1e-3, rtol=1e-5)
    np.testing.assert_allclose(whole_picture_transform(*g["nocrop_hw"]), g["nocrop_tform"], atol=1e-5, rtol=1e-5)


def test_warped_crops(golden):
    g = read(golden, "deca_crop/warps")
    image = cv2.imread(str(golden / "deca_crop/image.png"))[..., ::-1]
    landmarks = np.loadtxt(golden / "deca_crop/image_lm68.txt")
    np.testing.assert_allclose(landmarks, g["lm68"], atol=1e-9)
    tform = crop_transform(landmark_box(landmarks))
    np.testing.assert_allclose(tform, g["lm_tform"], atol=1e-3, rtol=1e-5)
    cropped = crop(image, tform).transpose(2, 0, 1)
    np.testing.assert_allclose(cropped[:, ::2, 1::2], g["lm_crop_sub2"], atol=1e-5)
    np.testing.assert_allclose(cropped[:, 100:104], g["lm_crop_rows"], atol=1e-5)
    tform = crop_transform(g["bbox_ltrb"], "bbox")
    np.testing.assert_allclose(tform, g["bbox_tform"], atol=1e-3, rtol=1e-5)
    np.testing.assert_allclose(crop(image, tform).transpose(2, 0, 1)[:, 1::4, 2::4], g["bbox_crop_sub4"], atol=1e-5)


def test_crop_of_a_resized_picture(golden):
    g = read(golden, "deca_crop/diffusionrig_resize")
    tform = crop_transform(g["ltrb"])
    np.testing.assert_allclose(tform, g["tform"], atol=1e-3, rtol=1e-5)
    picture = g["original_image_u8"].transpose(1, 2, 0)
    np.testing.assert_allclose(crop(picture, tform).transpose(2, 0, 1)[:, ::4, ::4], g["crop_sub4"], atol=1e-5)
