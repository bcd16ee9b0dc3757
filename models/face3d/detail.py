"""DECA's wrinkles: a displacement map in UV layout → normals finer than the mesh.

Positions P and normals N of the coarse head are rasterised in UV space; every texel moves to P + (D · mask +
fixed) · N, where D is D_detail's map and ``fixed`` the displacement that FLAME's mesh always has; the normals
of that 256 × 256 grid of points replace the coarse ones inside the mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.face3d.morphable import MorphableModel
from models.face3d.rasterize import Fragments, rasterize
from models.face3d.skinning import vertex_normals
from models.face3d.weight_files import read_tensors

Floats = NDArray[np.float32]

MASK, FIXED = "deca/mask.safetensors", "deca/displacement.safetensors"
SIDE = 256
_SKIPPED_COLUMNS, _SKIPPED_ROWS = 2, 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DetailSpace:
    """Where detail applies, and what FLAME's mesh lacks everywhere."""

    mask: Floats
    """(256, 256) in 0…1."""
    fixed: Floats
    """(256, 256) metres along the normal."""


def load_detail_space(folder: Path) -> DetailSpace:
    """From a folder of converted assets. Raises ``MissingAsset`` or ``ValueError`` naming file and key."""
    mask = read_tensors(folder / MASK, {"mask": (SIDE, SIDE)})["mask"]
    fixed = read_tensors(folder / FIXED, {"displacement": (SIDE, SIDE)})["displacement"]
    return DetailSpace(mask=mask.numpy(), fixed=fixed.numpy())


def uv_fragments(model: MorphableModel, side: int = SIDE) -> Fragments:
    """The UV layout rasterised as if it were a flat mesh: which triangle each texel belongs to."""
    flat = np.concatenate([model.uvs * 2 - 1, np.ones((len(model.uvs), 1), np.float32)], axis=1)
    return rasterize((flat * np.array([1, -1, 1])).astype(np.float32), model.uv_faces, side, side)


def to_uv(model: MorphableModel, seen: Fragments, values: Floats) -> Floats:
    """Per-vertex values (V, C) → (side, side, C) in UV layout, 0 where no triangle is."""
    corners = values[model.faces[np.maximum(seen.face, 0)]]
    return np.asarray((corners * seen.barycentric[..., None]).sum(axis=2), np.float32)


def detail_normals(model: MorphableModel, vertices: Floats, displacement: Floats, space: DetailSpace) -> Floats:
    """World vertices (V, 3) and D_detail's map (256, 256) in metres → (256, 256, 3) world normals in UV layout."""
    seen = uv_fragments(model)
    points = to_uv(model, seen, vertices)
    coarse = to_uv(model, seen, vertex_normals(vertices, model.faces))
    height = (displacement * space.mask + space.fixed)[..., None]
    moved = np.ascontiguousarray(points + height * coarse, np.float32)
    fine = vertex_normals(moved.reshape(-1, 3), _grid_triangles()).reshape(SIDE, SIDE, 3)
    inside = space.mask[..., None]
    return np.asarray(fine * inside + coarse * (1 - inside), np.float32)


@cache
def _grid_triangles() -> NDArray[np.int32]:
    """Two triangles a cell of the texel grid, without a margin of 2 columns and 5 rows."""
    rows = np.arange(_SKIPPED_ROWS, SIDE - 1 - _SKIPPED_ROWS)
    columns = np.arange(_SKIPPED_COLUMNS, SIDE - 1 - _SKIPPED_COLUMNS)
    corner = (rows[:, None] * SIDE + columns).reshape(-1)
    right, below, across = corner + 1, corner + SIDE, corner + SIDE + 1
    upper = np.stack([corner, below, right], axis=1)
    lower = np.stack([right, below, across], axis=1)
    return np.concatenate([upper, lower]).astype(np.int32)
