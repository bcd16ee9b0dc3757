"""Rasterising: which triangle each pixel sees, and where in it.

One rule for all back ends, DECA's: pixel (i, j) of an H × W picture has its centre at NDC x = −1 + (2j +
1)/W, y = −1 + (2i + 1)/H; the triangle with the smallest z there wins; one triangle a pixel, no culling, no
blur; barycentric weights are linear on the screen (no perspective correction).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.face3d.scanline import barycentric_coordinates, scan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fragments:
    """What :func:`rasterize` saw, a pixel each."""

    face: NDArray[np.int32]
    """(H, W) triangle, −1 for background."""
    barycentric: NDArray[np.float32]
    """(H, W, 3) weights of its corners; 0 on background."""
    depth: NDArray[np.float64]
    """(H, W) z in NDC units; infinity on background."""


def rasterize(
    vertices_ndc: NDArray[np.float32], faces: NDArray[np.int32], height: int, width: int
) -> Fragments:
    """(V, 3) NDC [x right, y down, z smaller = nearer] and (F, 3) → fragments, by the compiled scanline."""
    if vertices_ndc.ndim != 2 or vertices_ndc.shape[1] != 3:
        raise ValueError(f"vertices have shape {vertices_ndc.shape}; one head is (V, 3)")
    vertices = np.ascontiguousarray(vertices_ndc, np.float32)
    triangles = np.ascontiguousarray(faces, np.int32)
    face = np.empty((height, width), np.int32)
    depth = np.empty((height, width), np.float64)
    barycentric = np.empty((height, width, 3), np.float32)
    scan(vertices, triangles, face, depth)
    barycentric_coordinates(vertices, triangles, face, barycentric)
    return Fragments(face=face, barycentric=barycentric, depth=depth)
