"""The files that users download (pickles, npz, obj, png) → safetensors that the program reads.

Each function reads one genuine file, checks every key and shape, writes ``out`` and returns its sha256. All
raise ``ValueError`` naming file, key and remedy. Nothing here runs code from a file
(models/face3d/pickles.py).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.face3d.deca import D_DETAIL, E_DETAIL, E_FLAME, network_shapes
from models.face3d.pickles import read_pickle
from models.face3d.weight_files import check_tensors, existing, write_tensors

ROOT_PARENT = 2**32 - 1
"""How FLAME's ``kintree_table`` writes "no parent" in uint32."""

TEXTURE_COMPONENTS = 50
"""Texture components that DECA's code speaks of; the files hold up to 200."""


def convert_flame_pickle(path: Path, out: Path) -> str:
    """``generic_model.pkl`` (FLAME 2020) or ``flame2023*.pkl`` (2023, also the Open variant).

    Kept: template, identity and expression bases, pose correctives, joint regressor, parents, weights, faces;
    float32.
    """
    values = _mapping(path)
    template = _array(values, "v_template", path, (None, 3))
    count = len(template)
    regressor = _array(values, "J_regressor", path, (None, count))
    joints = len(regressor)
    shapes = _array(values, "shapedirs", path, (count, 3, None))
    if shapes.shape[2] < 350:
        raise ValueError(f"{path}: shapedirs has {shapes.shape[2]} components; FLAME has 300 identity + 100 expression")
    faces = _array(values, "f", path, (None, 3)).astype(np.int64)
    if faces.min() < 0 or faces.max() >= count:
        raise ValueError(f"{path}: f indexes {faces.min()}…{faces.max()}, but there are {count} vertices")
    parents = _array(values, "kintree_table", path, (2, joints))[0].astype(np.int64)
    parents[parents == ROOT_PARENT] = -1
    tensors = {
        "v_template": template,
        "shapedirs": shapes,
        "posedirs": _array(values, "posedirs", path, (count, 3, 9 * (joints - 1))),
        "J_regressor": regressor,
        "weights": _array(values, "weights", path, (count, joints)),
    }
    floats: dict[str, NDArray[Any]] = {name: value.astype(np.float32) for name, value in tensors.items()}
    return write_tensors(out, floats | {"parents": parents, "faces": faces}, path)


def convert_landmark_embedding(path: Path, out: Path) -> str:
    """``landmark_embedding.npy``: 51 static landmarks, the 79 × 17 contour table, all 68."""
    values = _mapping(path)
    tensors: dict[str, NDArray[Any]] = {}
    for kind, shape in (("static", (51,)), ("dynamic", (79, 17)), ("full", (1, 68))):
        tensors[f"{kind}_faces"] = _array(values, f"{kind}_lmk_faces_idx", path, shape).astype(np.int64)
        weights = _array(values, f"{kind}_lmk_bary_coords", path, (*shape, 3))
        tensors[f"{kind}_barycentric"] = weights.astype(np.float32)
    return write_tensors(out, tensors, path)


def convert_head_template(path: Path, out: Path) -> str:
    """``head_template.obj``: texture coordinates and the two triangulations; its vertex positions are not used."""
    uvs: list[list[float]] = []
    faces: list[list[int]] = []
    uv_faces: list[list[int]] = []
    existing(path)
    try:
        for line in path.read_text("utf-8").splitlines():
            kind, *words = line.split() or [""]
            if kind == "vt":
                uvs.append([float(word) for word in words[:2]])
            elif kind == "f":
                corners = [word.split("/") for word in words]
                faces.append([int(corner[0]) - 1 for corner in corners])
                uv_faces.append([int(corner[1]) - 1 for corner in corners])
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: not an .obj file with 'vt' and 'f v/vt' lines ({error})") from error
    values = {"vt": np.array(uvs, np.float32), "f v": np.array(faces), "f vt": np.array(uv_faces)}
    checked = {
        "uvs": _array(values, "vt", path, (None, 2)),
        "faces": _array(values, "f v", path, (None, 3)).astype(np.int64),
        "uv_faces": _array(values, "f vt", path, (None, 3)).astype(np.int64),
    }
    if checked["uv_faces"].max() >= len(uvs):
        raise ValueError(f"{path}: a face asks for texture coordinate {checked['uv_faces'].max() + 1} of {len(uvs)}")
    return write_tensors(out, checked, path)


def convert_texture(path: Path, out: Path) -> str:
    """``FLAME_texture.npz`` (keys mean, tex_dir; 0…255) or ``FLAME_albedo_from_BFM.npz`` (MU, PC; 0…1).

    Both store BGR at 512². DECA decodes at 512² and keeps every second texel (nearest), so those alone are
    kept: the first 50 components of 256², RGB, 0…1.
    """
    with _arrays(path) as file:
        if "tex_dir" in file:
            mean, basis, scale = _array(file, "mean", path), _array(file, "tex_dir", path), 255.0
        else:
            mean, basis, scale = _array(file, "MU", path), _array(file, "PC", path), 1.0
    side = round((mean.size / 3) ** 0.5)
    if mean.size != side * side * 3 or side % 2 or basis.size % mean.size:
        raise ValueError(f"{path}: a texture of {mean.shape} with a basis of {basis.shape}; 512 × 512 × 3 is expected")
    mean = mean.reshape(side, side, 3)[::2, ::2, ::-1] / scale
    components = min(basis.size // (side * side * 3), TEXTURE_COMPONENTS)
    basis = basis.reshape(side, side, 3, -1)[::2, ::2, ::-1, :components] / scale
    tensors: dict[str, NDArray[Any]] = {
        "mean": mean.astype(np.float32),
        "basis": np.moveaxis(basis, 3, 0).astype(np.float32),
    }
    return write_tensors(out, tensors, path)


def convert_displacement(path: Path, out: Path) -> str:
    """``fixed_displacement_256.npy``: metres by which FLAME's mesh is displaced under the detail map."""
    existing(path)
    try:
        values = {path.name: np.load(path, allow_pickle=False)}
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a .npy file of numbers ({error})") from error
    displacement = _array(values, path.name, path, (256, 256))
    return write_tensors(out, {"displacement": displacement.astype(np.float32)}, path)


def convert_mask(path: Path, out: Path) -> str:
    """``uv_face_eye_mask.png``: where, in UV, detail applies; channel 0 over 255."""
    picture = cv2.imdecode(np.frombuffer(existing(path).read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[:2] != (256, 256):
        raise ValueError(f"{path}: not a 256 × 256 colour PNG; download it again")
    return write_tensors(out, {"mask": picture[:, :, 2].astype(np.float32) / np.float32(255)}, path)


def convert_deca_checkpoint(path: Path, out: Path) -> str:
    """``deca_model.tar``: E_flame, E_detail and D_detail; what a trainer added (opt, global_step, …) is dropped."""
    existing(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a checkpoint of plain tensors ({error}); download it again") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: holds a {type(checkpoint).__name__}, not the dict of a DECA checkpoint")
    tensors: dict[str, torch.Tensor] = {}
    for group in (E_FLAME, E_DETAIL, D_DETAIL):
        state = checkpoint.get(group)
        if not isinstance(state, dict):
            raise ValueError(f"{path}: no {group} in it, only {sorted(map(str, checkpoint))}; is it deca_model.tar?")
        check_tensors(state, network_shapes(group), path, group)
        tensors |= {f"{group}.{name}": value for name, value in state.items()}
    return write_tensors(out, tensors, path)


CONVERTERS: Mapping[str, Callable[[Path, Path], str]] = {
    "flame": convert_flame_pickle,
    "landmarks": convert_landmark_embedding,
    "template": convert_head_template,
    "texture": convert_texture,
    "displacement": convert_displacement,
    "mask": convert_mask,
    "deca": convert_deca_checkpoint,
}
"""By the ``converter`` of an asset in models/face3d/assets.py."""


def _mapping(path: Path) -> Mapping[str, Any]:
    values = read_pickle(path)
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: holds a {type(values).__name__}, not a dict; is it the right file?")
    return values


def _arrays(path: Path) -> Any:
    existing(path)
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an .npz file of arrays ({error}); download it again") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: a single array, not an .npz file; is it the right file?")
    return file


def _array(
    values: Mapping[str, Any], key: str, path: Path, shape: tuple[int | None, ...] | None = None
) -> NDArray[Any]:
    """One array, numeric, finite and of ``shape`` (None: any length); otherwise ``ValueError`` naming file and key."""
    if key not in values:
        raise ValueError(f"{path}: no {key!r} in it, only {sorted(map(str, values))}; is it the right file?")
    value = np.asarray(values[key])
    if value.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {key} is of {value.dtype}, not numbers; is it the right file?")
    if shape is not None and (
        value.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, value.shape, strict=True))
    ):
        raise ValueError(
            f"{path}: {key} has shape {value.shape}; it must be {shape} (None: any). Is it the right file?"
        )
    if value.size == 0 or (value.dtype.kind == "f" and not np.isfinite(value).all()):
        raise ValueError(f"{path}: {key} is empty or holds NaN or infinity; download the file again")
    return value
