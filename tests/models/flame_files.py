"""Files in the genuine formats of FLAME and DECA, filled with random numbers."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import torch

from models.face3d.deca import D_DETAIL, E_DETAIL, E_FLAME, build_network

VERTICES, FACES, UVS = 60, 90, 70


class Ch:
    """Pickles like an array of chumpy, which is not installed."""

    def __init__(self, array: np.ndarray) -> None:
        self.x, self._dirty_vars, self._itr = array, set(), None


class SparseColumns:
    """Pickles like a sparse matrix of an old SciPy."""

    def __init__(self, matrix: np.ndarray) -> None:
        rows, columns = matrix.shape
        self._shape, self.data = matrix.shape, matrix.T.reshape(-1)
        self.indices = np.tile(np.arange(rows, dtype=np.int32), columns)
        self.indptr = np.arange(0, rows * columns + 1, rows, dtype=np.int32)


def dump_python2(value: object, path: Path) -> None:
    """A protocol-2 pickle whose classes carry the names that FLAME's files were written under."""
    data = pickle.dumps(value, protocol=2)
    for ours, theirs in (
        (f"c{Ch.__module__}\nCh\n", "cchumpy.ch\nCh\n"),
        (f"c{SparseColumns.__module__}\nSparseColumns\n", "cscipy.sparse.csc\ncsc_matrix\n"),
        ("cnumpy._core.multiarray\n", "cnumpy.core.multiarray\n"),
    ):
        data = data.replace(ours.encode(), theirs.encode())
    path.write_bytes(data)


def flame_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights, regressor = rng.random((VERTICES, 5)), rng.random((5, VERTICES))
    return {
        "v_template": rng.normal(size=(VERTICES, 3)) * 0.1,
        "shapedirs": rng.normal(size=(VERTICES, 3, 400)) * 1e-3,
        "posedirs": rng.normal(size=(VERTICES, 3, 36)) * 1e-4,
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
        "f": rng.integers(0, VERTICES, (FACES, 3)).astype(np.uint32),
    }


def write_flame(path: Path, arrays: dict[str, np.ndarray], *, python2: bool = True) -> None:
    """``generic_model.pkl`` of FLAME 2020 (with chumpy and old SciPy objects), or the plain arrays of FLAME 2023."""
    values: dict[str, object] = dict(arrays) | {"bs_style": "lbs", "bs_type": "lrotmin"}
    if python2:
        values |= {"J_regressor": SparseColumns(arrays["J_regressor"]), "shapedirs": Ch(arrays["shapedirs"])}
    dump_python2(values, path)


def write_landmarks(path: Path, faces: int = FACES) -> None:
    rng = np.random.default_rng(1)
    values = {}
    for kind, shape, wrap in (
        ("static", (51,), np.asarray),
        ("dynamic", (79, 17), torch.tensor),
        ("full", (1, 68), np.asarray),
    ):
        weights = rng.random((*shape, 3))
        values[f"{kind}_lmk_faces_idx"] = wrap(rng.integers(0, faces, shape))
        values[f"{kind}_lmk_bary_coords"] = wrap(weights / weights.sum(-1, keepdims=True))
    np.save(path, np.array(values, dtype=object), allow_pickle=True)


def write_template(path: Path, faces: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in rng.normal(size=(VERTICES, 3))]
    lines += [f"vt {u:.5f} {v:.5f}" for u, v in rng.random((UVS, 2))]
    lines += [
        "f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, rng.integers(0, UVS, 3), strict=True))
        for face in faces
    ]
    path.write_text("\n".join(lines) + "\n")


def write_texture(path: Path, side: int = 16) -> None:
    rng = np.random.default_rng(3)
    mean = rng.uniform(60, 200, (side, side, 3)).astype(np.float32)
    np.savez(path, mean=mean, tex_dir=rng.normal(size=(side, side, 3, 60)).astype(np.float32))


def write_deca(path: Path, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    groups = {group: build_network(group).state_dict() for group in (E_FLAME, E_DETAIL, D_DETAIL)}
    torch.save(groups | {"opt": {"lr": 1e-4}, "global_step": 1}, path)
    return groups


def write_all(folder: Path) -> None:
    """Every file that a user of the preset "paper" brings for the 3D face."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = flame_arrays()
    write_flame(folder / "generic_model.pkl", arrays)
    write_landmarks(folder / "landmark_embedding.npy")
    write_template(folder / "head_template.obj", arrays["f"].astype(int))
    write_texture(folder / "FLAME_texture.npz")
    np.save(folder / "fixed_displacement_256.npy", np.zeros((256, 256)))
    cv2.imwrite(str(folder / "uv_face_eye_mask.png"), np.full((256, 256, 4), 255, np.uint8))
    write_deca(folder / "deca_model.tar")
