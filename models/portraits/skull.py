"""The shape under the hair: where rays from the middle of a head leave its skin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numba
import numpy as np
import numpy.typing as npt

from models.face3d.open_head import load_open_head

__all__ = ["CENTRE", "SkullRadii"]

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

CENTRE: Final = np.array([0.0, 0.045, 0.002])
"""The middle of the template's skull, metres."""
_LONGITUDES: Final = 144
_LATITUDES: Final = 76
_LOWEST: Final = np.radians(150.0)
_MARGIN: Final = 8


@numba.njit(cache=True)
def _cast(origin: Doubles, directions: Doubles, corners: Doubles, first: Ints, last: Ints, weights: Doubles) -> None:
    """First and last triangle (−1: none) that each ray meets; weights (D, 2, 3)."""
    for i in range(directions.shape[0]):
        near, far = np.inf, 0.0
        first[i] = last[i] = -1
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        for f in range(corners.shape[0]):
            ax, ay, az = corners[f, 0, 0] - origin[0], corners[f, 0, 1] - origin[1], corners[f, 0, 2] - origin[2]
            ux, uy, uz = (
                corners[f, 1, 0] - corners[f, 0, 0],
                corners[f, 1, 1] - corners[f, 0, 1],
                corners[f, 1, 2] - corners[f, 0, 2],
            )
            vx, vy, vz = (
                corners[f, 2, 0] - corners[f, 0, 0],
                corners[f, 2, 1] - corners[f, 0, 1],
                corners[f, 2, 2] - corners[f, 0, 2],
            )
            px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
            det = ux * px + uy * py + uz * pz
            if abs(det) < 1e-14:
                continue
            p = -(ax * px + ay * py + az * pz) / det
            if p < 0 or p > 1:
                continue
            qx, qy, qz = -(ay * uz - az * uy), -(az * ux - ax * uz), -(ax * uy - ay * ux)
            q = (dx * qx + dy * qy + dz * qz) / det
            if q < 0 or p + q > 1:
                continue
            t = (vx * qx + vy * qy + vz * qz) / det
            if t > 1e-4 and t < near:
                near, first[i] = t, f
                weights[i, 0, 0], weights[i, 0, 1], weights[i, 0, 2] = 1 - p - q, p, q
            if t > far:
                far, last[i] = t, f
                weights[i, 1, 0], weights[i, 1, 1], weights[i, 1, 2] = 1 - p - q, p, q


@dataclass(frozen=True, slots=True, eq=False)
class _Skull:
    """Where rays from the head's middle leave it, by (latitude from the top, longitude from the front to +x)."""

    corners: Ints
    """(2, A, O, 3) vertices: innermost and outermost skin."""
    weights: Floats
    place: Floats
    """(A, O, 3) innermost template position."""


@cache
def _skull() -> _Skull:
    head = load_open_head()
    model = head.model
    faces = model.faces[np.isin(head.part_of_vertex, ("skin", "neck"))[model.faces].all(axis=1)]
    polar, turn = np.meshgrid(
        np.linspace(0, _LOWEST, _LATITUDES), 2 * np.pi * np.arange(_LONGITUDES) / _LONGITUDES, indexing="ij"
    )
    directions = np.stack([np.sin(polar) * np.sin(turn), np.cos(polar), np.sin(polar) * np.cos(turn)], -1).reshape(
        -1, 3
    )
    first, last = np.empty(len(directions), np.int32), np.empty(len(directions), np.int32)
    weights = np.zeros((len(directions), 2, 3))
    corners = model.template.astype(np.float64)[faces]
    _cast(CENTRE, directions + 1e-7, corners, first, last, weights)
    first, last = np.maximum(first, 0), np.maximum(last, 0)
    shape = (_LATITUDES, _LONGITUDES, 3)
    indices = np.stack([faces[first].reshape(shape), faces[last].reshape(shape)]).astype(np.int32)
    shares = weights.transpose(1, 0, 2).reshape(2, *shape).astype(np.float32)
    place = (model.template[indices[0]] * shares[0][..., None]).sum(axis=2)
    return _Skull(indices, shares, place.astype(np.float32))


class SkullRadii:
    """Radii of one person's skull in any direction."""

    def __init__(self, vertices: Floats) -> None:
        skull = _skull()
        points = (vertices[skull.corners] * skull.weights[..., None]).sum(axis=3)
        radii = np.linalg.norm(points - CENTRE.astype(np.float32), axis=-1)
        inner = cv2.GaussianBlur(_wrapped(radii[0]), (0, 0), 1.5)
        outer = cv2.GaussianBlur(_wrapped(np.maximum(cv2.dilate(radii[1], np.ones((3, 3))), radii[0])), (0, 0), 2.0)
        places = (_wrapped(skull.place[..., axis]) for axis in range(3))
        self._table = (inner, outer, *places)

    def __call__(self, direction: Doubles) -> tuple[Floats, Floats, Floats]:
        """(A, B, 3) unit directions → inner radius (A, B), outer radius, template place (A, B, 3)."""
        polar = np.arccos(np.clip(direction[..., 1], -1, 1))
        turn = np.mod(np.arctan2(direction[..., 0], direction[..., 2]), 2 * np.pi)
        rows = (polar / _LOWEST * (_LATITUDES - 1)).astype(np.float32)
        columns = (turn / (2 * np.pi) * _LONGITUDES + _MARGIN).astype(np.float32)
        found = [
            np.asarray(cv2.remap(layer, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
            for layer in self._table
        ]
        return found[0], found[1], np.stack(found[2:], axis=-1)


def _wrapped(table: Floats) -> Floats:
    return np.ascontiguousarray(np.concatenate([table[:, -_MARGIN:], table, table[:, :_MARGIN]], axis=1), np.float32)
