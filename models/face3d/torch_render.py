"""Rendering batches of heads in torch: differentiable, any device, every intermediate picture DECA speaks of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.face3d.lighting import shade
from models.face3d.torch_rasterize import (
    Backend,
    barycentric_of,
    interpolate_attributes,
    visible_triangles,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rendering:
    """Pictures (B, C, H, W); nothing is clamped. Background is 0 except in ``shading``, which only alpha masks."""

    alpha: Tensor
    """(B, 1, H, W) bool."""
    grid: Tensor
    """(B, H, W, 2) texture lookup as grid_sample takes it: 2u − 1, 1 − 2v."""
    normal: Tensor
    """World normals, interpolated, not renormalised."""
    albedo: Tensor
    shading: Tensor
    lit: Tensor
    """albedo · shading · alpha."""
    facing: Tensor
    """(B, 1, H, W) bool: the projected head's normal has z < −0.05, so the surface faces the camera."""


def torch_vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(B, V, 3), (F, 3) → (B, V, 3): area-weighted, normalised with eps 1e-6; differentiable."""
    a, b, c = (vertices[:, faces[:, corner]] for corner in range(3))
    crosses = torch.cross(b - a, c - a, dim=-1)
    sums = torch.zeros_like(vertices)
    for corner in range(3):
        sums = sums.index_add(1, faces[:, corner], crosses)
    return torch.nn.functional.normalize(sums, eps=1e-6, dim=-1)


def render(
    vertices: Tensor,
    vertices_ndc: Tensor,
    faces: Tensor,
    corner_uvs: Tensor,
    texture: Tensor,
    light: Tensor,
    size: tuple[int, int],
    backend: Backend = "numba",
) -> Rendering:
    """World and NDC vertices (B, V, 3), faces (F, 3), (F, 3, 2) UVs, (B, 3, h, w) albedo in UV, (B, 9, 3) light."""
    seen = visible_triangles(vertices_ndc, faces, *size, backend)
    where = barycentric_of(vertices_ndc, faces, seen)
    normals = interpolate_attributes(torch_vertex_normals(vertices, faces), faces, seen, where)
    facing = interpolate_attributes(torch_vertex_normals(vertices_ndc, faces), faces, seen, where)[..., 2] < -0.05
    alpha = seen >= 0
    uv = (corner_uvs[seen.clamp(min=0)] * where[..., None]).sum(-2)
    flip = torch.tensor([1.0, -1.0], dtype=uv.dtype, device=uv.device)
    grid = (uv * 2 - 1) * flip * alpha[..., None]
    albedo = torch.nn.functional.grid_sample(texture, grid, align_corners=False) * alpha[:, None]
    shading = shade(normals, light).permute(0, 3, 1, 2)
    return Rendering(
        alpha=alpha[:, None],
        grid=grid,
        normal=normals.permute(0, 3, 1, 2),
        albedo=albedo,
        shading=shading,
        lit=albedo * shading * alpha[:, None],
        facing=(facing & alpha)[:, None],
    )
