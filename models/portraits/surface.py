"""Meshes beside the head: vertices, triangles, texture coordinates of every corner; and how simple ones are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Surface", "grid_surface", "joined", "sphere_surface", "tube_surface"]

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """A textured mesh."""

    vertices: Doubles
    """(V, 3) metres."""
    faces: Ints
    """(F, 3)."""
    corner_uvs: Doubles
    """(F, 3, 2) in [0, 1], v down."""

    def moved(self, vertices: Doubles) -> Surface:
        """The same mesh with other vertices."""
        return replace(self, vertices=vertices)


def grid_surface(points: Doubles, *, closed: bool) -> Surface:
    """A mesh over points (rows, columns, 3); `closed` joins the last column to the first. u runs across, v down."""
    rows, columns = points.shape[:2]
    across = columns if closed else columns - 1
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(across), indexing="ij")
    after = (column + 1) % columns
    corners = np.stack(
        [row * columns + column, row * columns + after, (row + 1) * columns + after, (row + 1) * columns + column], -1
    )
    u0, u1 = column / across, (column + 1) / across
    v0, v1 = row / (rows - 1), (row + 1) / (rows - 1)
    uvs = np.stack([np.stack([u0, v0], -1), np.stack([u1, v0], -1), np.stack([u1, v1], -1), np.stack([u0, v1], -1)], -2)
    one, two = [0, 3, 2], [0, 2, 1]
    faces = np.stack([corners[..., one], corners[..., two]], axis=2).reshape(-1, 3)
    corner_uvs = np.stack([uvs[..., one, :], uvs[..., two, :]], axis=2).reshape(-1, 3, 2)
    return Surface(np.ascontiguousarray(points.reshape(-1, 3)), faces.astype(np.int32), corner_uvs)


def sphere_surface(centre: Doubles, radii: Doubles, rows: int, columns: int) -> Surface:
    """An ellipsoid; u runs around the vertical axis, v down."""
    polar, turn = np.meshgrid(
        np.linspace(0.02, np.pi - 0.02, rows), 2 * np.pi * np.arange(columns) / columns, indexing="ij"
    )
    unit = np.stack([np.sin(polar) * np.sin(turn), np.cos(polar), np.sin(polar) * np.cos(turn)], -1)
    return grid_surface(centre + unit * radii, closed=True)


def tube_surface(path: Doubles, radius: float, sides: int, *, closed: bool) -> Surface:
    """A tube around the path (N, 3)."""
    tangent = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0) if closed else np.asarray(np.gradient(path, axis=0))
    tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    helper = np.where(np.abs(tangent[:, 1:2]) < 0.9, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    one = np.cross(tangent, helper)
    one = one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-9)
    two = np.cross(tangent, one)
    turn = 2 * np.pi * np.arange(sides) / sides
    ring = path[:, None] + radius * (
        np.cos(turn)[None, :, None] * one[:, None] + np.sin(turn)[None, :, None] * two[:, None]
    )
    if closed:
        ring = np.concatenate([ring, ring[:1]])
    return grid_surface(ring, closed=True)


def joined(surfaces: list[Surface]) -> Surface:
    """Several surfaces as one mesh."""
    offsets = np.cumsum([0] + [len(one.vertices) for one in surfaces[:-1]])
    return Surface(
        np.concatenate([one.vertices for one in surfaces]),
        np.concatenate([one.faces + offset for one, offset in zip(surfaces, offsets, strict=True)]).astype(np.int32),
        np.concatenate([one.corner_uvs for one in surfaces]),
    )
