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

_CANDIDATES = 1 << 23  # triangle-pixel pairs at once: under 0.5 GiB of temporaries
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
    """The scanline of models/face3d/scanline.py for all triangles at once: rows, then pixels, then the nearest of each."""
    batch, count, device = len(vertices_ndc), len(faces), vertices_ndc.device
    size = torch.tensor([width, height], dtype=torch.float64, device=device)
    screen = ((vertices_ndc[..., :2].double() + 1) * size - 1) / 2  # pixel (i, j) centred at (j, i)
    corners, depths = screen[:, faces].flatten(0, 1), vertices_ndc[..., 2].double()[:, faces].flatten(0, 1)
    low, high = corners.amin(1).ceil().clamp(min=0), torch.minimum(corners.amax(1).floor(), size - 1)
    side = corners[:, 1:] - corners[:, :1]
    area = side[:, 0, 0] * side[:, 1, 1] - side[:, 1, 0] * side[:, 0, 1]
    shown = (low <= high).all(1) & (area.abs() > _SMALLEST_AREA)
    z = depths[:, 1:] - depths[:, :1]
    dz_dx = (z[:, 0] * side[:, 1, 1] - z[:, 1] * side[:, 0, 1]) / area
    dz_dy = (z[:, 1] * side[:, 0, 0] - z[:, 0] * side[:, 1, 0]) / area
    plane = torch.stack([depths[:, 0] - dz_dx * corners[:, 0, 0] - dz_dy * corners[:, 0, 1], dz_dx, dz_dy])
    edges = torch.stack([_edge(screen, faces, pair) for pair in ((0, 1), (1, 2), (2, 0))])

    nearest = torch.full((batch * height * width,), torch.inf, dtype=torch.float64, device=device)
    hits: list[tuple[Tensor, Tensor, Tensor]] = []
    for triangles in _chunks(shown.nonzero()[:, 0], low, high):
        triangle, row = _expand(triangles, low[triangles, 1], high[triangles, 1])
        start, stop = _span(edges[:, :, triangle], row, width)
        segment, column = _expand(torch.arange(len(triangle), device=device), start, stop)
        triangle, row = triangle[segment], row[segment]
        depth = plane[0, triangle] + plane[1, triangle] * column + plane[2, triangle] * row
        pixel = (triangle // count) * (height * width) + (row * width + column).long()
        nearest.scatter_reduce_(0, pixel, depth, "amin")
        hits.append((pixel, depth, triangle % count))
    seen = torch.full_like(nearest, count, dtype=torch.int64)
    for pixel, depth, triangle in hits:
        first = depth == nearest[pixel]
        seen.scatter_reduce_(0, pixel[first], triangle[first], "amin")
    return torch.where(seen == count, -1, seen).view(batch, height, width)


def _edge(screen: Tensor, faces: Tensor, pair: tuple[int, int]) -> Tensor:
    """(5, B·F): start x, y, slope dx/dy and extent in y of one edge of every triangle, from lower to higher vertex index."""
    ends = faces[:, pair]
    first, last = (screen[:, index].flatten(0, 1) for index in (ends.amin(1), ends.amax(1)))
    slope = (last[:, 0] - first[:, 0]) / (last[:, 1] - first[:, 1])
    flat = last[:, 1] == first[:, 1]  # crosses no row
    low = torch.minimum(first[:, 1], last[:, 1]).masked_fill(flat, torch.inf)
    return torch.stack([first[:, 0], first[:, 1], slope, low, torch.maximum(first[:, 1], last[:, 1])])


def _span(edges: Tensor, row: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """First and last pixel between the crossings of a row with the three edges (3, 5, N)."""
    x, y, slope, low, high = edges.unbind(1)
    crossing = x + (row - y) * slope
    crosses = (low <= row) & (row <= high)
    left = crossing.masked_fill(~crosses, torch.inf).amin(0).ceil().clamp(min=0)
    right = crossing.masked_fill(~crosses, -torch.inf).amax(0).floor().clamp(max=width - 1)
    return left, right


def _expand(items: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Repeats each item for every whole number from first to last → items, numbers (float64)."""
    counts = (last - first + 1).clamp(min=0, max=2**31).long()
    starts = counts.cumsum(0) - counts
    steps = torch.arange(int(counts.sum()), device=items.device) - torch.repeat_interleave(starts, counts)
    return torch.repeat_interleave(items, counts), torch.repeat_interleave(first, counts) + steps


def _chunks(triangles: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
    """Triangles in groups whose bounding boxes have about ``_CANDIDATES`` pixels."""
    pixels = (high[triangles] - low[triangles] + 1).prod(1)
    _, sizes = torch.unique_consecutive(pixels.cumsum(0) // _CANDIDATES, return_counts=True)
    return torch.split(triangles, sizes.tolist())


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
