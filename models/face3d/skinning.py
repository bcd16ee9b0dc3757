"""Compiled passes over vertices: skinning and vertex normals of one head."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@numba.njit(cache=True, nogil=True, fastmath=True)
def skin_vertices(vertices: Floats, weights: Floats, transforms: Floats) -> None:
    """Linear blend skinning in place: (V, 3) by weights (V, J) of transforms (J, 3, 4)."""
    joints = weights.shape[1]
    blended = np.empty(12, np.float32)
    flat = transforms.reshape(joints, 12)
    for v in range(vertices.shape[0]):
        blended[:] = 0.0
        for j in range(joints):
            weight = weights[v, j]
            if weight != 0.0:
                for k in range(12):
                    blended[k] += weight * flat[j, k]
        x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        for r in range(3):
            a, b, c, d = blended[4 * r], blended[4 * r + 1], blended[4 * r + 2], blended[4 * r + 3]
            vertices[v, r] = a * x + b * y + c * z + d


@numba.njit(cache=True, nogil=True)
def vertex_normals(vertices: Floats, faces: NDArray[np.int32]) -> Floats:
    """(V, 3), (F, 3) → (V, 3): sum of the triangles' cross products (so weighted by area), normalised.

    Lengths below 1e-6 are treated as 1e-6, so unreferenced vertices have normal 0.
    """
    sums = np.zeros((vertices.shape[0], 3), np.float32)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x, y, z = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        ux, uy, uz = vertices[b, 0] - x, vertices[b, 1] - y, vertices[b, 2] - z
        vx, vy, vz = vertices[c, 0] - x, vertices[c, 1] - y, vertices[c, 2] - z
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            sums[corner, 0] += nx
            sums[corner, 1] += ny
            sums[corner, 2] += nz
    for v in range(sums.shape[0]):
        x, y, z = sums[v, 0], sums[v, 1], sums[v, 2]
        scale = np.float32(1.0) / max(np.sqrt(x * x + y * y + z * z), np.float32(1e-6))
        sums[v, 0] = x * scale
        sums[v, 1] = y * scale
        sums[v, 2] = z * scale
    return sums
