"""The scanline z-buffer: the CPU rasteriser's compiled kernel.

Pixel rule (DECA's, see models/face3d/rasterize.py): a triangle covers a pixel when the pixel's centre lies in
it or on its edge, whichever way it winds; the smallest z wins, the first triangle among equals; degenerate
triangles cover nothing.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]

_SMALLEST_AREA = 1e-12  # twice the area, square pixels: a triangle below it has no inside a pixel centre could be in


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _edge(x: Doubles, y: Doubles, a: int, b: int) -> tuple[float, float, float, float, float]:
    """Start (x, y), slope dx/dy and extent in y of an edge; nothing crosses a horizontal one.

    It is always taken from its lower to its higher vertex index, so that both triangles at an edge compute
    the same crossings bit for bit and no crack opens between them.
    """
    first, last = min(a, b), max(a, b)
    start, stop = y[first], y[last]
    if start == stop:
        return x[first], start, 0.0, np.inf, -np.inf
    return x[first], start, (x[last] - x[first]) / (stop - start), min(start, stop), max(start, stop)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def scan(vertices: Floats, faces: Ints, face_HW: Ints, depth_HW: Floats) -> None:
    """Fills ``face_HW`` (−1 where nothing) and ``depth_HW`` from (V, 3) NDC and (F, 3); geometry in float64."""
    height, width = face_HW.shape
    count = vertices.shape[0]
    x, y = np.empty(count), np.empty(count)
    for v in range(count):  # so that pixel (i, j) has its centre at y = i, x = j
        x[v] = ((np.float64(vertices[v, 0]) + 1.0) * width - 1.0) * 0.5
        y[v] = ((np.float64(vertices[v, 1]) + 1.0) * height - 1.0) * 0.5
    face_HW[:] = -1
    depth_HW[:] = np.inf
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        xa, xb, xc = x[a], x[b], x[c]
        ya, yb, yc = y[a], y[b], y[c]
        first, last = max(np.ceil(min(xa, xb, xc)), 0.0), min(np.floor(max(xa, xb, xc)), width - 1.0)
        top, bottom = max(np.ceil(min(ya, yb, yc)), 0.0), min(np.floor(max(ya, yb, yc)), height - 1.0)
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if not (first <= last and top <= bottom and abs(area) > _SMALLEST_AREA):
            continue
        za = np.float64(vertices[a, 2])
        zb, zc = vertices[b, 2] - za, vertices[c, 2] - za
        per_area = 1.0 / area
        dz_dx = (zb * (yc - ya) - zc * (yb - ya)) * per_area
        dz_dy = (zc * (xb - xa) - zb * (xc - xa)) * per_area
        z_origin = za - dz_dy * ya - dz_dx * xa
        x0, y0, slope0, low0, high0 = _edge(x, y, a, b)
        x1, y1, slope1, low1, high1 = _edge(x, y, b, c)
        x2, y2, slope2, low2, high2 = _edge(x, y, c, a)
        for row in range(int(top), int(bottom) + 1):
            left, right = np.inf, -np.inf
            if low0 <= row <= high0:
                left = right = x0 + (row - y0) * slope0
            if low1 <= row <= high1:
                crossing = x1 + (row - y1) * slope1
                left, right = min(left, crossing), max(right, crossing)
            if low2 <= row <= high2:
                crossing = x2 + (row - y2) * slope2
                left, right = min(left, crossing), max(right, crossing)
            start, stop = max(np.ceil(left), 0.0), min(np.floor(right), width - 1.0)
            if not start <= stop:
                continue
            z_row = z_origin + dz_dy * row
            for column in range(int(start), int(stop) + 1):
                z = np.float32(z_row + dz_dx * column)
                if z < depth_HW[row, column]:
                    depth_HW[row, column] = z
                    face_HW[row, column] = f


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def weights_at(vertices: Floats, a: int, b: int, c: int, px: float, py: float) -> tuple[float, float, float]:
    """Barycentric weights of the point (px, py) in triangle a, b, c of NDC vertices, in float64."""
    ax, ay = np.float64(vertices[a, 0]), np.float64(vertices[a, 1])
    bx, by = vertices[b, 0] - ax, vertices[b, 1] - ay
    cx, cy = vertices[c, 0] - ax, vertices[c, 1] - ay
    qx, qy = px - ax, py - ay
    scale = 1.0 / (bx * cy - cx * by)
    second = (qx * cy - cx * qy) * scale
    third = (bx * qy - qx * by) * scale
    return 1.0 - second - third, second, third


@numba.njit(cache=True, nogil=True, error_model="numpy")
def barycentric_coordinates(vertices: Floats, faces: Ints, face_HW: Ints, out_HW3: Floats) -> None:
    """Weights of the corners of each pixel's triangle, linear on the screen; 0 where there is none."""
    height, width = face_HW.shape
    for i in range(height):
        py = -1.0 + (2.0 * i + 1.0) / height
        for j in range(width):
            f = face_HW[i, j]
            if f < 0:
                out_HW3[i, j, :] = 0.0
            else:
                px = -1.0 + (2.0 * j + 1.0) / width
                weights = weights_at(vertices, faces[f, 0], faces[f, 1], faces[f, 2], px, py)
                out_HW3[i, j, 0], out_HW3[i, j, 1], out_HW3[i, j, 2] = weights
