"""Visible triangles for batches of heads in torch: one interface, three back ends.

A back end only says which triangle each pixel sees; that is not differentiable in any of them. Where in the
triangle (:func:`barycentric_of`) is computed from the vertices afterwards, the same way for all back ends and
differentiably. The pixel rule is that of models/face3d/rasterize.py.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.face3d.rasterize import rasterize

Backend = Literal["numba", "torch", "pytorch3d"]

_CANDIDATES = 1 << 22  # triangle-pixel pairs tested at once: about 0.5 GiB of temporaries
_SMALLEST_AREA = 1e-12  # as in models/face3d/scanline.py
_NEAR = 10.0  # added to z for pytorch3d, which drops what is behind z = 0


def visible_triangles(
    vertices_ndc: Tensor, faces: Tensor, height: int, width: int, backend: Backend = "numba"
) -> Tensor:
    """(B, V, 3) NDC and (F, 3) → (B, H, W) int64 triangle, −1 for background.

    "numba": compiled scanline on the CPU; "torch": any device, no compiler; "pytorch3d": its rasteriser, for
    those who have installed it (GPU). Raises ``ValueError`` for another name or when pytorch3d is not
    installed.
    """
    if backend == "numba":
        triangles = faces.cpu().numpy().astype(np.int32)
        heads = vertices_ndc.detach().cpu().numpy().astype(np.float32)
        seen = np.stack([rasterize(head, triangles, height, width).face for head in heads])
        return torch.from_numpy(seen).long().to(vertices_ndc.device)
    if backend == "torch":
        return _z_buffer(vertices_ndc.detach(), faces, height, width)
    if backend == "pytorch3d":
        return _pytorch3d(vertices_ndc.detach(), faces, height, width)
    raise ValueError(f"no rasteriser {backend!r}; there are numba, torch and pytorch3d")


def barycentric_of(vertices_ndc: Tensor, faces: Tensor, seen: Tensor) -> Tensor:
    """Weights (B, H, W, 3) of the corners of each pixel's triangle, linear on the screen; 0 on background."""
    height, width = seen.shape[1:]
    corners = gather_corners(vertices_ndc[..., :2], faces, seen)
    x = (torch.arange(width, dtype=corners.dtype, device=corners.device) * 2 + 1) / width - 1
    y = (torch.arange(height, dtype=corners.dtype, device=corners.device) * 2 + 1) / height - 1
    point = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    origin, first, second = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    u, v, p = first - origin, second - origin, point - origin
    area = u[..., 0] * v[..., 1] - v[..., 0] * u[..., 1]
    area = torch.where(seen >= 0, area, torch.ones_like(area))
    b = (p[..., 0] * v[..., 1] - v[..., 0] * p[..., 1]) / area
    c = (u[..., 0] * p[..., 1] - p[..., 0] * u[..., 1]) / area
    return torch.stack([1 - b - c, b, c], dim=-1) * (seen >= 0)[..., None]


def gather_corners(values: Tensor, faces: Tensor, seen: Tensor) -> Tensor:
    """Values (B, V, C) at the corners of each pixel's triangle → (B, H, W, 3, C); background shows triangle 0's."""
    batch = torch.arange(len(values), device=values.device)[:, None, None, None]
    return values[batch, faces[seen.clamp(min=0)]]


def interpolate_attributes(values: Tensor, faces: Tensor, seen: Tensor, barycentric: Tensor) -> Tensor:
    """Per-vertex values (B, V, C) → (B, H, W, C), 0 on background."""
    return (gather_corners(values, faces, seen) * barycentric[..., None].to(values.dtype)).sum(-2)


def _z_buffer(vertices_ndc: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Tests every triangle at every pixel of its bounding box, then keeps the nearest, in float64."""
    batch, device = len(vertices_ndc), vertices_ndc.device
    size = torch.tensor([width, height], dtype=torch.float64, device=device)
    screen = vertices_ndc.double()
    corners = ((screen[..., :2] + 1) * size - 1)[:, faces].flatten(0, 1) / 2  # pixel (i, j) centred at (j, i)
    depths = screen[..., 2][:, faces].flatten(0, 1)
    low = corners.amin(1).ceil().clamp(min=0)
    high = torch.minimum(corners.amax(1).floor(), size - 1)
    extent = (high - low + 1).clamp(min=0).long()
    counts = extent[:, 0] * extent[:, 1] * (_twice_area(corners).abs() > _SMALLEST_AREA)
    nearest = torch.full((batch * height * width,), torch.inf, dtype=torch.float64, device=device)
    hits: list[tuple[Tensor, Tensor, Tensor]] = []
    groups = counts.cumsum(0) // _CANDIDATES
    for chunk in torch.split(torch.arange(len(counts), device=device), torch.unique_consecutive(
        groups, return_counts=True
    )[1].tolist()):  # fmt: skip
        triangle = torch.repeat_interleave(chunk, counts[chunk])
        starts = counts[chunk].cumsum(0) - counts[chunk]
        step = torch.arange(len(triangle), device=device) - torch.repeat_interleave(starts, counts[chunk])
        column = low[triangle, 0] + step % extent[triangle, 0]
        row = low[triangle, 1] + step // extent[triangle, 0]
        weights = _weights(corners[triangle], column, row)
        inside = (weights >= 0).all(1)
        triangle = triangle[inside]
        depth = (weights[inside] * depths[triangle]).sum(1)
        pixel = (triangle // len(faces)) * (height * width) + (row[inside] * width + column[inside]).long()
        nearest.scatter_reduce_(0, pixel, depth, "amin")
        hits.append((pixel, depth, triangle % len(faces)))
    seen = torch.full_like(nearest, len(faces), dtype=torch.int64)
    for pixel, depth, triangle in hits:
        first = depth == nearest[pixel]
        seen.scatter_reduce_(0, pixel[first], triangle[first], "amin")
    return torch.where(seen == len(faces), -1, seen).view(batch, height, width)


def _twice_area(corners: Tensor) -> Tensor:
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return u[:, 0] * v[:, 1] - v[:, 0] * u[:, 1]


def _weights(corners: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """(N, 3, 2) corners and N points → (N, 3) barycentric weights, each from its own edge."""
    offset = corners - torch.stack([column, row], dim=1)[:, None]
    x, y = offset.unbind(-1)
    edges = [x[:, i] * y[:, j] - x[:, j] * y[:, i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return torch.stack(edges, dim=1) / _twice_area(corners)[:, None]


def _pytorch3d(vertices_ndc: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """pytorch3d's rasteriser: its NDC has x left and y up, and the picture's shorter side spans [-1, 1]."""
    try:
        from pytorch3d.renderer.mesh import rasterize_meshes
        from pytorch3d.structures import Meshes
    except ImportError as error:
        raise ValueError("the rasteriser pytorch3d is not installed: choose numba or torch") from error
    short = min(height, width)
    scale = vertices_ndc.new_tensor([-width / short, -height / short, 1.0])
    placed = vertices_ndc * scale + vertices_ndc.new_tensor([0.0, 0.0, _NEAR])
    seen, *_ = rasterize_meshes(
        Meshes(verts=placed.float(), faces=faces.long().expand(len(placed), -1, -1)),
        image_size=(height, width),
        blur_radius=0.0,
        faces_per_pixel=1,
        perspective_correct=False,
    )
    first = torch.arange(len(placed), device=seen.device)[:, None, None] * len(faces)
    return torch.where(seen[..., 0] < 0, -1, seen[..., 0] - first)
