"""MorphableModel: a head as template + linear bases + joints, and its linear blend skinning.

The formulation is SMPL's (Loper et al. 2015, eqs. 2–10), as FLAME uses it (Li et al. 2017): blend shapes,
joints regressed from the shaped mesh, pose correctives linear in R − I, linear blend skinning. Metres; y up,
z towards the camera. :func:`lbs` is batched, differentiable torch for any device and float type;
:func:`pose_vertices` is the quick NumPy path for rendering.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.face3d.parameters import FaceParameters
from models.face3d.rotations import axis_angle_matrix, rodrigues
from models.face3d.skinning import skin_vertices
from models.face3d.texture import TextureSpace

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkSet:
    """Points on the surface: triangles and barycentric weights."""

    faces: Ints
    """(N,) triangle of each point."""
    barycentric: Floats
    """(N, 3) weights of the triangle's corners."""

    def __post_init__(self) -> None:
        if self.barycentric.shape != (*self.faces.shape, 3):
            raise ValueError(f"landmark weights {self.barycentric.shape} do not fit triangles {self.faces.shape}")


@dataclass(frozen=True, kw_only=True, eq=False)
class MorphableModel:
    """A head model, for example FLAME or the open head. Wrong shapes raise ``ValueError``."""

    name: str
    template: Floats
    """(V, 3) neutral mean head, metres."""
    faces: Ints
    """(F, 3) triangles."""
    shape_basis: Floats
    """(V, 3, S) displacement of one unit of each identity coefficient."""
    expression_basis: Floats
    """(V, 3, E)."""
    pose_basis: Floats | None
    """(V, 3, 9·(J − 1)) pose correctives for flatten(R[1:] − I), or None."""
    joint_regressor: Floats
    """(J, V): rest joints from shaped vertices."""
    parents: tuple[int, ...]
    """(J,) parent of each joint, −1 for the root, always smaller than the joint's own index."""
    skinning_weights: Floats
    """(V, J)."""
    uvs: Floats
    """(U, 2) texture coordinates, v up."""
    uv_faces: Ints
    """(F, 3) indices into ``uvs``."""
    landmarks: Mapping[str, LandmarkSet]
    """"static51", "full68", "mesh468", …; what a model has of them."""
    joint_names: tuple[str, ...] = ("root", "neck", "jaw", "left_eye", "right_eye")
    """Joint 0 takes the global rotation, the one called "jaw" (if any) the jaw rotation."""
    contour: LandmarkSet | None = None
    """(79, 17) landmark table of the face's outline as seen under 79 yaw angles (FLAME), or None."""
    texture: TextureSpace | None = None
    expression_names: tuple[str, ...] = ()
    """(E,) names of expression units such as "jawOpen", or () when components are unlabelled."""
    expression_bounds: tuple[float, float] | None = None
    """Range of each expression coefficient: (0, 1) for units, None for principal components."""
    expression_rotations: Floats | None = None
    """(E, J, 3) axis-angle that one unit adds to joints: jawOpen turning the jaw, eyeLookUpLeft an eye."""
    expression_presets: Mapping[str, Floats] = field(default_factory=dict)
    """Named (E,) vectors for models without named units; users make them."""
    camera_distance: float | None = None
    """None: weak perspective; a number: perspective from so many metres (models/face3d/camera.py)."""

    def __post_init__(self) -> None:
        vertices, joints = len(self.template), len(self.parents)
        expressions = self.expression_basis.shape[-1]
        self._require("template", (vertices, 3))
        self._require("faces", (len(self.faces), 3))
        self._require("uv_faces", (len(self.faces), 3))
        self._require("uvs", (len(self.uvs), 2))
        self._require("shape_basis", (vertices, 3, self.shape_basis.shape[-1]))
        self._require("expression_basis", (vertices, 3, expressions))
        self._require("joint_regressor", (joints, vertices))
        self._require("skinning_weights", (vertices, joints))
        if self.pose_basis is not None:
            self._require("pose_basis", (vertices, 3, 9 * (joints - 1)))
        if self.expression_rotations is not None:
            self._require("expression_rotations", (expressions, joints, 3))
        if self.expression_names and len(self.expression_names) != expressions:
            raise ValueError(f"{len(self.expression_names)} expression names for {expressions} expression units")
        if len(self.joint_names) != joints:
            raise ValueError(f"{len(self.joint_names)} joint names for {joints} joints")
        if any(not -1 <= parent < max(joint, 0) for joint, parent in enumerate(self.parents)):
            raise ValueError(f"parents {self.parents}: each joint needs a parent before it, the root −1")
        for name, indices, bound in (
            ("faces", self.faces, vertices),
            ("uv_faces", self.uv_faces, len(self.uvs)),
        ):
            if indices.size and not 0 <= indices.min() <= indices.max() < bound:
                raise ValueError(f"{name} indexes {indices.min()}…{indices.max()}, outside 0…{bound - 1}")

    def _require(self, name: str, shape: tuple[int, ...]) -> None:
        value = getattr(self, name)
        if value.shape != shape:
            raise ValueError(f"{self.name}: {name} has shape {value.shape}; it must be {shape}")

    # -- derived -------------------------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """blake2b (16 hex digits) of everything that changes what is rendered."""
        state = hashlib.blake2b(digest_size=8)
        extra = (self.name, self.parents, self.joint_names, self.expression_names, self.camera_distance)
        state.update(repr(extra).encode())
        arrays = [
            self.template, self.faces, self.shape_basis, self.expression_basis, self.pose_basis,
            self.joint_regressor, self.skinning_weights, self.uvs, self.uv_faces, self.expression_rotations,
            None if self.texture is None else self.texture.mean,
            None if self.texture is None else self.texture.basis,
        ]  # fmt: skip
        for array in arrays:
            state.update(b"-" if array is None else repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    @cached_property
    def jaw(self) -> int | None:
        """Index of the jaw joint, or None."""
        return self.joint_names.index("jaw") if "jaw" in self.joint_names else None

    @cached_property
    def corner_uvs(self) -> Floats:
        """(F, 3, 2) texture coordinates of each triangle's corners."""
        return np.ascontiguousarray(self.uvs[self.uv_faces])

    @cached_property
    def _basis_rows(self) -> Floats:
        """(S + E, V·3): both bases, a coefficient a row, as one matrix product wants them."""
        stacked = np.concatenate([self.shape_basis, self.expression_basis], axis=2)
        return np.ascontiguousarray(stacked.reshape(-1, stacked.shape[2]).T)

    @cached_property
    def _pose_rows(self) -> Floats | None:
        """(9·(J − 1), V·3)."""
        if self.pose_basis is None:
            return None
        return np.ascontiguousarray(self.pose_basis.reshape(-1, self.pose_basis.shape[2]).T)

    @cached_property
    def _joint_template(self) -> Floats:
        return np.asarray(self.joint_regressor @ self.template, np.float32)

    @cached_property
    def _joint_rows(self) -> Floats:
        """(S + E, J·3): joints are linear in the coefficients too."""
        rows = self._basis_rows.reshape(-1, len(self.template), 3)
        joints = np.einsum("jv,cvk->cjk", self.joint_regressor, rows)
        return np.asarray(joints.reshape(len(rows), -1), np.float32)

    def check(self, parameters: FaceParameters) -> None:
        """Raises ``ValueError`` when parameters are another model's or of other lengths."""
        if parameters.model != self.name:
            raise ValueError(f"parameters of the model {parameters.model!r} given to the model {self.name!r}")
        expected = {"shape": self.shape_basis.shape[2], "expression": self.expression_basis.shape[2]}
        for name, size in expected.items():
            if getattr(parameters, name).size != size:
                raise ValueError(f"{name} has {getattr(parameters, name).size} coefficients; {self.name} has {size}")

    def joint_rotations(self, pose: Tensor, expression: Tensor, eyes: Tensor | None = None) -> Tensor:
        """(B, 6) [global, jaw], (B, E) and (B, 6) of the eyes → (B, J, 3) axis-angles of :func:`lbs`.

        The neck stays at rest, as in DECA; ``expression_rotations`` add what units do to joints.
        """
        full = pose.new_zeros(len(pose), len(self.parents), 3)
        full[:, 0] = pose[:, :3]
        if self.jaw is not None:
            full[:, self.jaw] = pose[:, 3:]
        if eyes is not None:
            full[:, self.joint_names.index("left_eye")] = eyes[:, :3]
            full[:, self.joint_names.index("right_eye")] = eyes[:, 3:]
        if self.expression_rotations is not None:
            rotations = torch.from_numpy(self.expression_rotations).to(pose)
            full = full + torch.einsum("be,ejk->bjk", expression, rotations)
        return full

    def tensors(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> ModelTensors:
        """What :func:`lbs` needs, on a device and in a float type."""

        def tensor(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)

        return ModelTensors(
            template=tensor(self.template),
            shape_basis=tensor(self.shape_basis),
            expression_basis=tensor(self.expression_basis),
            pose_basis=None if self.pose_basis is None else tensor(self.pose_basis),
            joint_regressor=tensor(self.joint_regressor),
            skinning_weights=tensor(self.skinning_weights),
            parents=self.parents,
        )


# -- torch ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelTensors:
    """The part of a :class:`MorphableModel` that deforms, as tensors."""

    template: Tensor
    shape_basis: Tensor
    expression_basis: Tensor
    pose_basis: Tensor | None
    joint_regressor: Tensor
    skinning_weights: Tensor
    parents: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posed:
    """What skinning yields; the intermediates are there to be tested and built upon."""

    vertices: Tensor
    """(B, V, 3) metres."""
    joints: Tensor
    """(B, J, 3) posed joints."""
    rest_joints: Tensor
    """(B, J, 3)."""
    shaped: Tensor
    """(B, V, 3) template with blend shapes."""
    rotations: Tensor
    """(B, J, 3, 3) of each joint relative to its parent."""
    transforms: Tensor
    """(B, J, 4, 4) rest pose → posed, of each joint."""


def blend_shapes(model: ModelTensors, shape: Tensor, expression: Tensor) -> Tensor:
    """(B, V, 3): T̄ + Σ β·S + Σ ψ·E (Li et al. 2017, eqs. 2, 4)."""
    offsets = torch.einsum("vkc,bc->bvk", model.shape_basis, shape)
    return model.template + offsets + torch.einsum("vkc,bc->bvk", model.expression_basis, expression)


def pose_feature(rotations: Tensor) -> Tensor:
    """(B, J, 3, 3) → (B, 9·(J − 1)): flatten(R[1:] − I)."""
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    return (rotations[:, 1:] - identity).flatten(1)


def rigid_transforms(rotations: Tensor, joints: Tensor, parents: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Chain of joints (Loper et al. 2015, eq. 4) → posed joints (B, J, 3), rest-to-pose (B, J, 4, 4)."""
    bottom = rotations.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(rotations), 1, 4)
    chain: list[Tensor] = []
    for joint, parent in enumerate(parents):
        offset = joints[:, joint] - (joints[:, parent] if parent >= 0 else 0.0)
        local = torch.cat([torch.cat([rotations[:, joint], offset[..., None]], dim=2), bottom], dim=1)
        chain.append(local if parent < 0 else chain[parent] @ local)
    world = torch.stack(chain, dim=1)
    moved = (world[..., :3, :3] @ joints[..., None]).squeeze(-1)
    translation = world[..., :3, 3] - moved
    relative = torch.cat([world[..., :3], torch.cat([translation, world[..., 3, 3:]], dim=-1)[..., None]], dim=-1)
    return world[..., :3, 3], relative


def lbs(model: ModelTensors, shape: Tensor, expression: Tensor, pose: Tensor) -> Posed:
    """Linear blend skinning of (B, S), (B, E) and axis-angles (B, J, 3)."""
    shaped = blend_shapes(model, shape, expression)
    rest_joints = torch.einsum("jv,bvk->bjk", model.joint_regressor, shaped)
    rotations = rodrigues(pose)
    posed = shaped
    if model.pose_basis is not None:
        posed = shaped + torch.einsum("vkc,bc->bvk", model.pose_basis, pose_feature(rotations))
    joints, transforms = rigid_transforms(rotations, rest_joints, model.parents)
    blended = torch.einsum("vj,bjrc->bvrc", model.skinning_weights, transforms)
    vertices = (blended[..., :3, :3] @ posed[..., None]).squeeze(-1) + blended[..., :3, 3]
    return Posed(
        vertices=vertices,
        joints=joints,
        rest_joints=rest_joints,
        shaped=shaped,
        rotations=rotations,
        transforms=transforms,
    )


def surface_points(vertices: Tensor, faces: Tensor, triangles: Tensor, barycentric: Tensor) -> Tensor:
    """(B, V, 3), (F, 3), triangles (N,) or (B, N), weights (…, N, 3) → (B, N, 3) points on the surface."""
    corners = faces[triangles]
    if corners.ndim == 2:
        picked = vertices[:, corners]
    else:
        batch = torch.arange(len(vertices), device=vertices.device)[:, None, None]
        picked = vertices[batch, corners]
    return (picked * barycentric.to(vertices)[..., None]).sum(-2)


def contour_row(rotations: Tensor) -> Tensor:
    """(B, J, 3, 3) → (B,) row of the 79-row contour table for the head's yaw, by R = R_root · R_neck.

    Yaw in degrees = atan2(−R20, √(R00² + R10²)), rounded half to even, at most 39; negative angles use rows
    39 − angle, below −39 row 78.
    """
    head = rotations[:, 0] @ rotations[:, 1]
    yaw = torch.atan2(-head[:, 2, 0], torch.sqrt(head[:, 0, 0] ** 2 + head[:, 1, 0] ** 2))
    degrees = torch.round(torch.rad2deg(yaw)).clamp(max=39).long()
    return torch.where(degrees < -39, 78, torch.where(degrees < 0, 39 - degrees, degrees))


# -- NumPy ---------------------------------------------------------------------------------------------------


def landmark_points(model: MorphableModel, vertices: Floats, name: str) -> Floats:
    """(V, 3) → (N, 3): one landmark set on one head. Raises ``ValueError`` for a set the model lacks."""
    if name not in model.landmarks:
        raise ValueError(f"the model {model.name!r} has no landmarks {name!r}; it has {sorted(model.landmarks)}")
    points = model.landmarks[name]
    corners = vertices[model.faces[points.faces]]
    return np.asarray((corners * points.barycentric[..., None]).sum(axis=1), np.float32)


def pose_vertices(model: MorphableModel, parameters: Sequence[FaceParameters]) -> Floats:
    """(B, V, 3) world vertices of faces, their ``shift`` included: :func:`lbs` in float32 NumPy.

    Blend shapes and joints of the batch are one matrix product each; skinning is one compiled pass over
    vertices.
    """
    for one in parameters:
        model.check(one)
    joints_count = len(model.parents)
    codes = np.stack([np.concatenate([one.shape, one.expression]) for one in parameters])
    posed = codes @ model._basis_rows
    posed += model.template.reshape(-1)
    joints = (codes @ model._joint_rows).reshape(-1, joints_count, 3) + model._joint_template
    rotations = _rotations(model, parameters)
    if model._pose_rows is not None:
        feature = (rotations[:, 1:] - np.eye(3)).reshape(len(codes), -1).astype(np.float32)
        if np.any(feature):
            posed += feature @ model._pose_rows
    posed = posed.reshape(len(codes), -1, 3)
    for index, one in enumerate(parameters):
        transforms = _chain(rotations[index], joints[index].astype(np.float64), model.parents)
        transforms[:, :, 3] += one.shift
        skin_vertices(posed[index], model.skinning_weights, transforms.astype(np.float32))
    return posed


def _rotations(model: MorphableModel, parameters: Sequence[FaceParameters]) -> NDArray[np.float64]:
    """(B, J, 3, 3) joint rotations of faces."""
    full = np.zeros((len(parameters), len(model.parents), 3))
    for index, one in enumerate(parameters):
        full[index, 0] = one.pose[:3]
        if model.jaw is not None:
            full[index, model.jaw] = one.pose[3:]
        if model.expression_rotations is not None:
            full[index] += np.einsum("e,ejk->jk", one.expression, model.expression_rotations)
    return axis_angle_matrix(full.reshape(-1, 3)).reshape(*full.shape, 3)


def _chain(rotations: NDArray[np.float64], joints: NDArray[np.float64], parents: Sequence[int]) -> NDArray[np.float64]:
    """(J, 3, 4) rest pose → pose, as :func:`rigid_transforms` for one head."""
    out = np.empty((len(parents), 3, 4))
    for joint, parent in enumerate(parents):
        rotation, place = rotations[joint], joints[joint]
        if parent >= 0:
            place = out[parent, :, :3] @ place + out[parent, :, 3]
            rotation = out[parent, :, :3] @ rotation
        out[joint, :, :3] = rotation
        out[joint, :, 3] = place - rotation @ joints[joint]
    return out
