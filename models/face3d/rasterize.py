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
    depth: NDArray[np.float32]
    """(H, W) z in NDC units; infinity on background."""


class Canvas:
    """The buffers of one picture size, to be drawn on again and again: a tenth of the time goes into new memory."""

    def __init__(self, height: int, width: int) -> None:
        self.fragments = Fragments(
            face=np.empty((height, width), np.int32),
            barycentric=np.empty((height, width, 3), np.float32),
            depth=np.empty((height, width), np.float32),
        )

    def draw(self, vertices_ndc: NDArray[np.float32], faces: NDArray[np.int32]) -> Fragments:
        """As :func:`rasterize`; the fragments are valid until the next call."""
        if vertices_ndc.ndim != 2 or vertices_ndc.shape[1] != 3:
            raise ValueError(f"vertices have shape {vertices_ndc.shape}; one head is (V, 3)")
        vertices = np.ascontiguousarray(vertices_ndc, np.float32)
        triangles = np.ascontiguousarray(faces, np.int32)
        seen = self.fragments
        scan(vertices, triangles, seen.face, seen.depth)
        barycentric_coordinates(vertices, triangles, seen.face, seen.barycentric)
        return seen


def rasterize(vertices_ndc: NDArray[np.float32], faces: NDArray[np.int32], height: int, width: int) -> Fragments:
    """(V, 3) NDC [x right, y down, z smaller = nearer] and (F, 3) → fragments, by the compiled scanline."""
    return Canvas(height, width).draw(vertices_ndc, faces)
