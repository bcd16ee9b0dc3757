"""From what each pixel sees to its albedo, normal and render, in one compiled pass."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from models.face3d.lighting import SH_CONSTANTS

Floats = NDArray[np.float32]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _texel(picture_HW3: Floats, row: int, column: int, weight: float, out: Floats) -> None:
    """Adds a weighted texel to ``out``; texels outside the picture are zero."""
    if 0 <= row < picture_HW3.shape[0] and 0 <= column < picture_HW3.shape[1]:
        for c in range(3):
            out[c] += np.float32(weight) * picture_HW3[row, column, c]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sample(picture_HW3: Floats, u: float, v: float, out: Floats) -> None:
    """Bilinear sample at (u, v), v up; outermost texels fade to zero (grid_sample, align_corners=False)."""
    x = u * picture_HW3.shape[1] - 0.5
    y = (1.0 - v) * picture_HW3.shape[0] - 0.5
    column, row = math.floor(x), math.floor(y)
    fx, fy = x - column, y - row
    out[:] = 0.0
    _texel(picture_HW3, row, column, (1.0 - fx) * (1.0 - fy), out)
    _texel(picture_HW3, row, column + 1, fx * (1.0 - fy), out)
    _texel(picture_HW3, row + 1, column, (1.0 - fx) * fy, out)
    _texel(picture_HW3, row + 1, column + 1, fx * fy, out)


@numba.njit(cache=True, nogil=True, fastmath=True)
def shade_pixels(
    face_HW: NDArray[np.int32],
    barycentric_HW3: Floats,
    faces: NDArray[np.int32],
    normals: Floats,
    corner_uvs: Floats,
    texture_HW3: Floats,
    weighted_light: Floats,
    albedo_HW3: Floats,
    normal_HW3: Floats,
    render_HW3: Floats,
) -> None:
    """Fills the three maps (0 on background) from fragments, vertex normals (V, 3) and a UV albedo picture.

    ``weighted_light`` is (9, 3) light times the constants. Normals are interpolated, not renormalised;
    nothing is clamped.
    """
    colour = np.empty(3, np.float32)
    height, width = face_HW.shape
    for i in range(height):
        for j in range(width):
            f = face_HW[i, j]
            if f < 0:
                for c in range(3):
                    albedo_HW3[i, j, c] = normal_HW3[i, j, c] = render_HW3[i, j, c] = 0.0
                continue
            p, q, r = barycentric_HW3[i, j, 0], barycentric_HW3[i, j, 1], barycentric_HW3[i, j, 2]
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            x = p * normals[a, 0] + q * normals[b, 0] + r * normals[c, 0]
            y = p * normals[a, 1] + q * normals[b, 1] + r * normals[c, 1]
            z = p * normals[a, 2] + q * normals[b, 2] + r * normals[c, 2]
            normal_HW3[i, j, 0], normal_HW3[i, j, 1], normal_HW3[i, j, 2] = x, y, z
            u = p * corner_uvs[f, 0, 0] + q * corner_uvs[f, 1, 0] + r * corner_uvs[f, 2, 0]
            v = p * corner_uvs[f, 0, 1] + q * corner_uvs[f, 1, 1] + r * corner_uvs[f, 2, 1]
            _sample(texture_HW3, u, v, colour)
            xx_yy, zz = x * x - y * y, np.float32(3.0) * z * z - np.float32(1.0)
            for k in range(3):
                light = (
                    weighted_light[0, k]
                    + weighted_light[1, k] * x
                    + weighted_light[2, k] * y
                    + weighted_light[3, k] * z
                    + weighted_light[4, k] * (x * y)
                    + weighted_light[5, k] * (x * z)
                    + weighted_light[6, k] * (y * z)
                    + weighted_light[7, k] * xx_yy
                    + weighted_light[8, k] * zz
                )
                albedo_HW3[i, j, k] = colour[k]
                render_HW3[i, j, k] = colour[k] * light


def weighted_light(light: Floats) -> Floats:
    """(9, 3) light times the basis constants, as :func:`shade_pixels` takes it."""
    return np.ascontiguousarray(light * SH_CONSTANTS[:, None], dtype=np.float32)
