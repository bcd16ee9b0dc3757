"""FLAME parameters → geometry, landmarks and pictures, for batches, in the crop's frame or the picture's: DECA's decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.face3d.camera import CROP, crop_to_picture, project
from models.face3d.flame import flame_landmarks
from models.face3d.morphable import MorphableModel, lbs, surface_points
from models.face3d.parameters import FaceParameters
from models.face3d.torch_rasterize import Backend
from models.face3d.torch_render import Rendering, render, torch_vertex_normals


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decoded:
    """A batch of posed heads. NDC are those of the frame asked for: x right, y down, z smaller = nearer."""

    vertices: Tensor
    """(B, V, 3) world, metres, shifted."""
    vertices_ndc: Tensor
    """(B, V, 3)."""
    landmarks2d: Tensor
    """(B, 68, 2) NDC: 17 sliding contour points and 51 static ones."""
    landmarks3d: Tensor
    """(B, 68, 3) NDC: the full set."""
    landmarks3d_world: Tensor
    """(B, 68, 3) metres."""
    visible: Tensor
    """(B, 68) bool: the projected normal at each of ``landmarks3d`` has z < 0.1."""
    normals: Tensor
    """(B, V, 3) of the world."""
    projected_normals: Tensor
    """(B, V, 3) of the projected head."""
    pictures: Rendering


def decode(
    model: MorphableModel,
    parameters: Sequence[FaceParameters],
    *,
    frame: tuple[int, int] | None = None,
    backend: Backend = "numba",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoded:
    """Decodes faces of one model; ``frame`` None: the 224-pixel crop, else (height, width) of the original picture.

    Raises ``ValueError`` for parameters of another model or for a model without texture space or contour.
    """
    for one in parameters:
        model.check(one)

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(one, name) for one in parameters])).to(device, dtype)

    expression = stacked("expression")
    pose = model.joint_rotations(stacked("pose"), expression)
    posed = lbs(model.tensors(device, dtype), stacked("shape"), expression, pose)
    shift = stacked("shift")[:, None]
    vertices = posed.vertices + shift
    contour, full = (points + shift for points in flame_landmarks(model, posed))
    camera, tform = stacked("camera"), stacked("tform")

    def placed(points: Tensor) -> Tensor:
        ndc = project(points, camera, model.camera_distance)
        return ndc if frame is None else crop_to_picture(ndc, tform, frame)

    vertices_ndc = placed(vertices)
    faces = torch.from_numpy(model.faces).long().to(device)
    pictures = render(
        vertices,
        vertices_ndc,
        faces,
        torch.from_numpy(model.corner_uvs).to(device, dtype),
        decode_texture(model, stacked("texture")),
        stacked("light"),
        frame or (CROP, CROP),
        backend,
    )
    projected_normals = torch_vertex_normals(vertices_ndc, faces)
    return Decoded(
        vertices=vertices,
        vertices_ndc=vertices_ndc,
        landmarks2d=placed(contour)[..., :2],
        landmarks3d=placed(full),
        landmarks3d_world=full,
        visible=landmarks_of(model, projected_normals, faces, "full68")[..., 2] < 0.1,
        normals=torch_vertex_normals(vertices, faces),
        projected_normals=projected_normals,
        pictures=pictures,
    )


def decode_texture(model: MorphableModel, codes: Tensor) -> Tensor:
    """(B, T) → (B, 3, H, W) albedo in UV layout, unclamped. Raises ``ValueError`` without a texture space."""
    if model.texture is None:
        raise ValueError(f"the model {model.name!r} has no texture space; convert one of FLAME's texture files")
    mean, basis = model.texture.tensors(codes.device, codes.dtype)
    height, width, _ = model.texture.mean.shape
    return (mean + codes @ basis).view(-1, height, width, 3).permute(0, 3, 1, 2)


def landmarks_of(model: MorphableModel, values: Tensor, faces: Tensor, name: str) -> Tensor:
    """Per-vertex values (B, V, 3) at one landmark set → (B, N, 3)."""
    points = model.landmarks[name]
    triangles = torch.from_numpy(points.faces).long().to(values.device)
    return surface_points(values, faces, triangles, torch.from_numpy(points.barycentric))
