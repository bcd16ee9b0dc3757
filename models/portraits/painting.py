"""From what each fine pixel sees to the portrait: textures, light, gloss, eyes, hair's ends and lenses, compiled."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from models.face3d.scanline import weights_at
from models.portraits.skin import EYE_CENTRES, EYE_EXTENT

__all__ = ["paint_pixels"]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

# As in models/portraits/figure.py.
_EYE, _MOUTH, _HAIR, _WHISKERS, _CLOTH, _FRAME = 1, 2, 3, 4, 5, 6
_LEFT_U, _RIGHT_U, _EYE_V = EYE_CENTRES[0][0], EYE_CENTRES[1][0], EYE_CENTRES[0][1]
_EYE_SCALE = np.pi / EYE_EXTENT


@numba.njit(cache=True, nogil=True, fastmath=True, inline="always")
def _texel(picture: Bytes, x: float, y: float, k: int) -> float:
    height, width = picture.shape[0], picture.shape[1]
    x, y = min(max(x, 0.0), width - 1.001), min(max(y, 0.0), height - 1.001)
    left, top = int(x), int(y)
    fx, fy = x - left, y - top
    above = picture[top, left, k] * (1 - fx) + picture[top, left + 1, k] * fx
    below = picture[top + 1, left, k] * (1 - fx) + picture[top + 1, left + 1, k] * fx
    return float((above * (1 - fy) + below * fy) * (1.0 / 255.0))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _eye(u: float, v: float, iris: Floats, radius: float, out: Floats) -> None:
    """Colour of the eye at (u, v) of the head's picture: pupil, fibrous iris with a dark rim, sclera."""
    centre = _LEFT_U if u > 0.5 else _RIGHT_U
    du, dv = u - centre, v - _EYE_V
    angle = np.sqrt(du * du + dv * dv) * _EYE_SCALE
    turn = np.arctan2(dv, du)
    white = 0.86 - 0.14 * min(max((angle - 0.55) / 0.8, 0.0), 1.0)
    out[0], out[1], out[2] = white, white * 0.955, white * 0.93
    inside = min(max((radius - angle) / 0.035 + 0.5, 0.0), 1.0)
    fibre = 1.0 + 0.16 * np.sin(turn * 23.0 + 3.0 * np.sin(turn * 5.0)) + 0.10 * np.sin(turn * 41.0)
    ring = 1.0 - 0.55 * min(max((angle - 0.72 * radius) / (0.26 * radius), 0.0), 1.0)
    glow = 1.0 + 0.5 * min(max((0.62 * radius - angle) / (0.4 * radius), 0.0), 1.0)
    pupil = min(max((angle - 0.155) / 0.03 + 0.5, 0.0), 1.0)
    for k in range(3):
        colour = min(iris[k] * fibre * ring * glow, 1.0) * pupil + 0.015 * (1 - pupil)
        out[k] += inside * (colour - out[k])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _gloss(kind: int, x: float, y: float, z: float, key: Floats) -> tuple[float, float]:
    """Share that gloss adds to the material's own colour, and to it in the light's colour, at normal (x, y, z)."""
    aim = max(x * key[0] + y * key[1] + z * key[2], 0.0)
    rim = (1.0 - z) ** 4
    if kind == _EYE:
        return 0.0, 1.8 * aim**180 + 0.05 * rim
    if kind in (_HAIR, _WHISKERS):
        # Strands run down: light spreads across them (Kajiya and Kay 1989).
        tx, ty, tz = x * y, -1.0 + y * y, y * z
        along = (tx * key[0] + ty * key[1] + tz * key[2]) / max(np.sqrt(tx * tx + ty * ty + tz * tz), 1e-3)
        sheen = max(1.0 - along * along, 0.0) ** 14 * max(z + 0.3, 0.0)
        return (0.38 if kind == _HAIR else 0.15) * sheen, 0.025 * sheen
    if kind == _FRAME:
        return 0.0, 0.6 * aim**40 + 0.1 * rim
    if kind == _MOUTH:
        return 0.0, 0.25 * aim**50
    if kind == _CLOTH:
        return 0.0, 0.02 * rim
    return 0.0, 0.08 * aim**12 + 0.08 * aim**60 + 0.05 * rim


@numba.njit(cache=True, nogil=True, fastmath=True)
def _seen(
    f: int, px: float, py: float, vertices: Floats, faces: Ints, normals: Floats, received: Floats, corner_uvs: Floats,
    kind: int, albedo: Bytes, atlas: Bytes, light: Floats, key: Floats, key_colour: Floats, iris: Floats,
    iris_radius: float, out: Floats, lit: Floats,
) -> float:  # fmt: skip
    """Colour of triangle f at (px, py) into out (3,); returns its opacity (strands thin out towards their ends)."""
    v0, v1, v2 = faces[f, 0], faces[f, 1], faces[f, 2]
    p, q, r = weights_at(vertices, v0, v1, v2, px, py)
    u = p * corner_uvs[f, 0, 0] + q * corner_uvs[f, 1, 0] + r * corner_uvs[f, 2, 0]
    v = p * corner_uvs[f, 0, 1] + q * corner_uvs[f, 1, 1] + r * corner_uvs[f, 2, 1]
    x = p * normals[v0, 0] + q * normals[v1, 0] + r * normals[v2, 0]
    y = p * normals[v0, 1] + q * normals[v1, 1] + r * normals[v2, 1]
    z = p * normals[v0, 2] + q * normals[v1, 2] + r * normals[v2, 2]
    scale = 1.0 / max(np.sqrt(x * x + y * y + z * z), 1e-6)
    x, y, z = x * scale, y * scale, z * scale
    dim = 1.0
    if z < 0 and kind >= _HAIR:
        # The inside of hair and cloth: turned to the camera, in its own shade.
        x, y, z, dim = -x, -y, -z, 0.4
    arriving = 0.0
    for k in range(3):
        shade = (
            light[0, k] + light[1, k] * x + light[2, k] * y + light[3, k] * z
            + light[4, k] * x * y + light[5, k] * x * z + light[6, k] * y * z
            + light[7, k] * (x * x - y * y) + light[8, k] * (3 * z * z - 1)
        )  # fmt: skip
        share = p * received[v0, k] + q * received[v1, k] + r * received[v2, k]
        arriving += share / 3
        lit[k] = max(shade, 0.04) * share * dim
    opacity = 1.0
    if kind == _EYE:
        _eye(u, v, iris, iris_radius, out)
    elif kind < _HAIR:
        height, width = albedo.shape[0], albedo.shape[1]
        for k in range(3):
            out[k] = _texel(albedo, u * width - 0.5, (1 - v) * height - 0.5, k)
    else:
        side = atlas.shape[0]
        for k in range(3):
            out[k] = _texel(atlas, u * side - 0.5, v * side - 0.5, k)
        if kind == _HAIR:
            opacity = _texel(atlas, u * side - 0.5, v * side - 0.5, 3)
    tinted, gloss = _gloss(kind, x, y, z, key)
    for k in range(3):
        out[k] = out[k] * lit[k] * (1 + tinted) + gloss * key_colour[k] * arriving * dim
    return opacity


@numba.njit(cache=True, nogil=True, fastmath=True)
def paint_pixels(
    face: Ints, depth: Floats, hair: Ints, hair_depth: Floats, lens: Ints, lens_depth: Floats, vertices: Floats,
    faces: Ints, hair_start: int, loose: bool, normals: Floats, received: Floats, corner_uvs: Floats, material: Bytes,
    facial: npt.NDArray[np.bool_], albedo: Bytes, atlas: Bytes, light: Floats, key: Floats, key_colour: Floats,
    iris: Floats, iris_radius: float, background: Floats, fine: int, out: Floats, head: Floats, front: Floats,
) -> None:  # fmt: skip
    """Fills out (S, S, 3), head and front (S, S; shares of each pixel) from fragments (S · fine, S · fine).

    `hair` numbers triangles from `hair_start` (`loose`: the background shows through its ends); `lens` may be empty.
    `received` (V, 3) is the share of light that is not shaded, `light` comes from `weighted_light`, `key` is the unit
    vector half between main light and camera.
    """
    size = out.shape[0]
    share = np.float32(1.0 / (fine * fine))
    # Zeros: what is never looked at is still multiplied by 0, and 0 times whatever lay in memory may be no number.
    colour, over, lit = np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    for i in range(size * fine):
        py = -1.0 + (2.0 * i + 1.0) / (size * fine)
        for j in range(size * fine):
            a, b = i // fine, j // fine
            px = -1.0 + (2.0 * j + 1.0) / (size * fine)
            f, kind, opacity = face[i, j], -1, 0.0
            if hair[i, j] >= 0 and hair_depth[i, j] < depth[i, j]:
                opacity = _seen(
                    hair[i, j] + hair_start, px, py, vertices, faces, normals, received, corner_uvs, _HAIR, albedo,
                    atlas, light, key, key_colour, iris, iris_radius, over, lit,
                )  # fmt: skip
            if f < 0 and opacity > 0 and not loose:
                opacity = 1.0
            if opacity < 0.99:
                if f < 0:
                    for k in range(3):
                        colour[k] = background[a, b, k]
                else:
                    kind = material[f]
                    _seen(
                        f, px, py, vertices, faces, normals, received, corner_uvs, kind, albedo, atlas, light, key,
                        key_colour, iris, iris_radius, colour, lit,
                    )  # fmt: skip
            for k in range(3):
                colour[k] += opacity * (over[k] - colour[k]) if opacity < 0.99 else over[k] - colour[k]
            if lens.shape[0] > 0 and lens[i, j] >= 0 and lens_depth[i, j] < depth[i, j]:
                for k in range(3):
                    colour[k] = colour[k] * 0.94 + 0.02 * light[0, k] + 0.02 * max(px - py, 0.0)
            for k in range(3):
                out[a, b, k] += share * min(colour[k], 1.25)
            if kind >= 0 and kind != _CLOTH:
                head[a, b] += share
                if kind < _HAIR and opacity < 0.5 and facial[f]:
                    front[a, b] += share
            else:
                head[a, b] += share * opacity
