"""From what each pixel sees to its albedo, normal and render, in one compiled pass."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from models.face3d.lighting import SH_CONSTANTS

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Pixels = NDArray[np.uint8]

ONE = np.float32(1.0)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sample(picture_HW3: Floats | Pixels, u: np.float32, v: np.float32) -> tuple[np.float32, np.float32, np.float32]:
    """Bilinear sample at (u, v), v up; the outside is zero, so outermost texels fade (grid_sample's default)."""
    height, width = picture_HW3.shape[0], picture_HW3.shape[1]
    x = u * np.float32(width) - np.float32(0.5)
    y = (ONE - v) * np.float32(height) - np.float32(0.5)
    if not (-ONE < x < np.float32(width) and -ONE < y < np.float32(height)):
        return np.float32(0.0), np.float32(0.0), np.float32(0.0)
    left, top = int(x + ONE) - 1, int(y + ONE) - 1
    right, bottom = left + 1, top + 1
    fx, fy = x - np.float32(left), y - np.float32(top)
    west, east, north, south = ONE - fx, fx, ONE - fy, fy
    if left < 0:
        left, west = 0, np.float32(0.0)
    if top < 0:
        top, north = 0, np.float32(0.0)
    if right == width:
        right, east = left, np.float32(0.0)
    if bottom == height:
        bottom, south = top, np.float32(0.0)
    a, b, c, d = north * west, north * east, south * west, south * east
    nw, ne = picture_HW3[top, left], picture_HW3[top, right]
    sw, se = picture_HW3[bottom, left], picture_HW3[bottom, right]
    return (
        a * nw[0] + b * ne[0] + c * sw[0] + d * se[0],
        a * nw[1] + b * ne[1] + c * sw[1] + d * se[1],
        a * nw[2] + b * ne[2] + c * sw[2] + d * se[2],
    )


@numba.njit(cache=True, nogil=True, fastmath=True, inline="always")
def _shade(light: Floats, k: int, x: np.float32, y: np.float32, z: np.float32) -> np.float32:
    """Σ light · basis of one colour (models/face3d/lighting.py); the constants are in ``light`` already."""
    linear = light[0, k] + light[1, k] * x + light[2, k] * y + light[3, k] * z
    mixed = light[4, k] * (x * y) + light[5, k] * (x * z) + light[6, k] * (y * z)
    squared = light[7, k] * (x * x - y * y) + light[8, k] * (np.float32(3.0) * z * z - ONE)
    return np.float32(linear + mixed + squared)


@numba.njit(cache=True, nogil=True, fastmath=True)
def shade_pixels(
    face_HW: Ints,
    barycentric_HW3: Floats,
    faces: Ints,
    normals: Floats,
    corner_uvs: Floats,
    texture_HW3: Floats | Pixels,
    light: Floats,
    detail_HW3: Floats,
    albedo_HW3: Floats,
    normal_HW3: Floats,
    render_HW3: Floats,
) -> None:
    """Fills the three maps (0 on background) from fragments, vertex normals (V, 3), a UV albedo picture (0…1 or bytes).

    ``light`` comes from :func:`weighted_light`. ``detail_HW3`` is a UV picture of world normals, which then
    take the place of the vertex normals, or has no rows. Normals are interpolated, not renormalised; nothing
    is clamped.
    """
    height, width = face_HW.shape
    scale = np.float32(1 / 255) if texture_HW3.itemsize == 1 else ONE
    for i in range(height):
        for j in range(width):
            f = face_HW[i, j]
            if f < 0:
                for k in range(3):
                    albedo_HW3[i, j, k] = normal_HW3[i, j, k] = render_HW3[i, j, k] = 0.0
                continue
            p, q, r = barycentric_HW3[i, j, 0], barycentric_HW3[i, j, 1], barycentric_HW3[i, j, 2]
            u = p * corner_uvs[f, 0, 0] + q * corner_uvs[f, 1, 0] + r * corner_uvs[f, 2, 0]
            v = p * corner_uvs[f, 0, 1] + q * corner_uvs[f, 1, 1] + r * corner_uvs[f, 2, 1]
            if detail_HW3.shape[0]:
                x, y, z = _sample(detail_HW3, u, v)
            else:
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                x = p * normals[a, 0] + q * normals[b, 0] + r * normals[c, 0]
                y = p * normals[a, 1] + q * normals[b, 1] + r * normals[c, 1]
                z = p * normals[a, 2] + q * normals[b, 2] + r * normals[c, 2]
            red, green, blue = _sample(texture_HW3, u, v)
            red, green, blue = scale * red, scale * green, scale * blue
            normal_HW3[i, j, 0], normal_HW3[i, j, 1], normal_HW3[i, j, 2] = x, y, z
            albedo_HW3[i, j, 0], albedo_HW3[i, j, 1], albedo_HW3[i, j, 2] = red, green, blue
            render_HW3[i, j, 0] = red * _shade(light, 0, x, y, z)
            render_HW3[i, j, 1] = green * _shade(light, 1, x, y, z)
            render_HW3[i, j, 2] = blue * _shade(light, 2, x, y, z)


def weighted_light(light: Floats) -> Floats:
    """(9, 3) light times the basis constants, as :func:`shade_pixels` takes it."""
    return np.ascontiguousarray(light * SH_CONSTANTS[:, None], dtype=np.float32)
