"""The scanline z-buffer: the CPU rasteriser's compiled kernel.

Pixel rule (DECA's, see models/face3d/rasterize.py): a triangle covers a pixel when the pixel's centre lies in
it or on its edge, whichever way it winds; the smallest z wins, the first triangle among equals; degenerate
triangles cover nothing.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_SMALLEST_AREA = (
    1e-12  # twice the area, square pixels: a triangle below it has no inside a pixel centre could be in
)


@numba.njit(cache=True, nogil=True)
def _widen(
    x: NDArray[np.float64], y: NDArray[np.float64], a: int, b: int, row: int, span: NDArray[np.float64]
) -> None:
    """Widens ``span`` [left, right] by the place where edge a–b crosses a row of pixel centres.

    The edge is always walked from its lower to its higher vertex index, so that the two triangles at an edge
    compute the same crossing bit for bit and no crack opens between them.
    """
    if a > b:
        a, b = b, a
    ya, yb = y[a], y[b]
    if ya == yb or row < min(ya, yb) or row > max(ya, yb):
        return
    crossing = x[a] + (row - ya) * (x[b] - x[a]) / (yb - ya)
    span[0] = min(span[0], crossing)
    span[1] = max(span[1], crossing)


@numba.njit(cache=True, nogil=True)
def scan(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    face_HW: NDArray[np.int32],
    depth_HW: NDArray[np.float64],
) -> None:
    """Fills ``face_HW`` (−1 where nothing) and ``depth_HW`` from (V, 3) NDC and (F, 3); float64 inside."""
    height, width = face_HW.shape
    count = vertices.shape[0]
    x, y = np.empty(count), np.empty(count)
    for v in range(count):  # so that pixel (i, j) has its centre at y = i, x = j
        x[v] = ((np.float64(vertices[v, 0]) + 1.0) * width - 1.0) * 0.5
        y[v] = ((np.float64(vertices[v, 1]) + 1.0) * height - 1.0) * 0.5
    span = np.empty(2)
    face_HW[:] = -1
    depth_HW[:] = np.inf
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        top = max(np.ceil(min(y[a], y[b], y[c])), 0.0)
        bottom = min(np.floor(max(y[a], y[b], y[c])), height - 1.0)
        if not top <= bottom:
            continue
        area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
        if not abs(area) > _SMALLEST_AREA:
            continue
        za, zb, zc = np.float64(vertices[a, 2]), np.float64(vertices[b, 2]), np.float64(vertices[c, 2])
        dz_dx = ((zb - za) * (y[c] - y[a]) - (zc - za) * (y[b] - y[a])) / area
        dz_dy = ((zc - za) * (x[b] - x[a]) - (zb - za) * (x[c] - x[a])) / area
        for row in range(int(top), int(bottom) + 1):
            span[0], span[1] = np.inf, -np.inf
            _widen(x, y, a, b, row, span)
            _widen(x, y, b, c, row, span)
            _widen(x, y, c, a, row, span)
            left = max(np.ceil(span[0]), 0.0)
            right = min(np.floor(span[1]), width - 1.0)
            if not left <= right:
                continue
            z_row = za + dz_dy * (row - y[a]) - dz_dx * x[a]
            for column in range(int(left), int(right) + 1):
                z = z_row + dz_dx * column
                if z < depth_HW[row, column]:
                    depth_HW[row, column] = z
                    face_HW[row, column] = f


@numba.njit(cache=True, nogil=True)
def barycentric_coordinates(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    face_HW: NDArray[np.int32],
    out_HW3: NDArray[np.float32],
) -> None:
    """Weights of the corners of each pixel's triangle, linear on the screen; 0 where there is none."""
    height, width = face_HW.shape
    for i in range(height):
        py = -1.0 + (2.0 * i + 1.0) / height
        for j in range(width):
            f = face_HW[i, j]
            if f < 0:
                out_HW3[i, j, 0] = out_HW3[i, j, 1] = out_HW3[i, j, 2] = 0.0
                continue
            px = -1.0 + (2.0 * j + 1.0) / width
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay = np.float64(vertices[a, 0]), np.float64(vertices[a, 1])
            bx, by = vertices[b, 0] - ax, vertices[b, 1] - ay
            cx, cy = vertices[c, 0] - ax, vertices[c, 1] - ay
            qx, qy = px - ax, py - ay
            scale = 1.0 / (bx * cy - cx * by)
            second = (qx * cy - cx * qy) * scale
            third = (bx * qy - qx * by) * scale
            out_HW3[i, j, 0] = 1.0 - second - third
            out_HW3[i, j, 1] = second
            out_HW3[i, j, 2] = third
