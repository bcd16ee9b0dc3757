"""Spectacles that sit on a given head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.face3d.morphable import landmark_points
from models.face3d.open_head import load_open_head
from models.portraits.people import Glasses
from models.portraits.surface import Surface, joined, tube_surface

__all__ = ["glasses_frame", "glasses_lenses"]

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]


def glasses_frame(glasses: Glasses, vertices: Floats) -> Surface:
    """Rims, bridge and temples on a head with neutral vertices (V, 3)."""
    rims = [_rim(glasses, vertices, side) for side in (1.0, -1.0)]
    parts = [tube_surface(rim, glasses.thickness, 6, closed=True) for rim in rims]
    inner = [rim[np.argmin(np.abs(rim[:, 0]) - 0.4 * rim[:, 1])] for rim in rims]
    share = np.linspace(0, 1, 9)[:, None]
    bridge = inner[0] + share * (inner[1] - inner[0])
    bridge[:, 1] += 0.003 * np.sin(share[:, 0] * np.pi)
    bridge[:, 2] += 0.004 * np.sin(share[:, 0] * np.pi)
    parts.append(tube_surface(bridge, glasses.thickness, 6, closed=False))
    points = landmark_points(load_open_head().model, vertices, "full68").astype(np.float64)
    for rim, side in zip(rims, (1.0, -1.0), strict=True):
        hinge = rim[np.argmax(rim[:, 0] * side + 0.3 * rim[:, 1])]
        ear = points[16 if side > 0 else 0] + np.array([side * 0.005, 0.016, -0.02])
        corner = np.array([hinge[0] + 0.002 * side, hinge[1], hinge[2] - 0.008])
        path = np.concatenate([hinge + share * (corner - hinge), (corner + share * (ear - corner))[1:]])
        parts.append(tube_surface(path, glasses.thickness * 0.9, 6, closed=False))
    return joined(parts)


def glasses_lenses(glasses: Glasses, vertices: Floats) -> Surface:
    """The two lenses as flat fans."""
    fans = []
    for side in (1.0, -1.0):
        rim = _rim(glasses, vertices, side)
        count = len(rim)
        index = np.arange(count)
        faces = np.stack([np.full(count, count), index, (index + 1) % count], axis=1).astype(np.int32)
        fans.append(Surface(np.concatenate([rim, rim.mean(axis=0)[None]]), faces, np.zeros((count, 3, 2))))
    return joined(fans)


def _rim(glasses: Glasses, vertices: Floats, side: float) -> Doubles:
    """(40, 3) the rim before one eye."""
    points = landmark_points(load_open_head().model, vertices, "full68").astype(np.float64)
    eye = points[42:48].mean(axis=0) if side > 0 else points[36:42].mean(axis=0)
    bridge = points[27]
    turn = 2 * np.pi * np.arange(40) / 40
    cosine, sine = np.cos(turn), np.sin(turn)
    power = 2.0 / glasses.squareness
    x = glasses.half_width * np.sign(cosine) * np.abs(cosine) ** power
    y = glasses.half_height * np.sign(sine) * np.abs(sine) ** power * (1 + 0.08 * np.sign(sine))
    gap = glasses.half_width + 0.0065
    centre = np.array([side * max(abs(eye[0]), gap), eye[1] - glasses.drop, max(eye[2] + 0.016, bridge[2] + 0.004)])
    depth = -6.0 * np.maximum(np.abs(centre[0] + x) - 0.02, 0) ** 2 - 0.06 * y
    return np.stack([centre[0] + x, centre[1] + y, centre[2] + depth], axis=1)
