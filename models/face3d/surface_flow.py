"""Where each point of an edited head was in the photograph: image flow along the surface of the 3D head."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.face3d.morphable import MorphableModel, landmark_points, pose_vertices
from models.face3d.parameters import FaceParameters
from models.face3d.rasterize import rasterize
from models.face3d.render import picture_ndc
from models.face3d.skinning import vertex_normals

Floats = NDArray[np.float32]

_DEPTH_SLACK = 0.02
"""NDC; a point this much behind what the photograph shows there was hidden. The head is about 1.3 deep."""
_GRAZING, _FRONTAL = 0.1, 0.35
"""Cosines between a surface and the view: seen at less than the first a point counts nothing, from the second on fully."""
_NOSE_BASE = 16
"""In "static51": iBUG's point 33."""
_ABOVE = 0.01
"""Metres over which the part of the head that wears spectacles begins, above the base of the nose."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfaceFlow:
    """From the pixels of an edit to the photograph."""

    displacement: Floats
    """(H, W, 2) x and y in pixels: the surface point at a pixel was that far away in the photograph; 0 outside the head."""
    seen: Floats
    """(H, W) in [0, 1]: how well the photograph shows that point; 0 where it was hidden, or outside the head."""
    head: NDArray[np.bool_]
    """(H, W) pixels of the edit that the head covers."""
    stiff: Floats
    """(H, W, 2) the displacement had the face kept the photograph's expression: of what the skull carries, not the skin."""
    worn: Floats
    """(H, W) in [0, 1]: 1 above the base of the nose, where spectacles stand off the skin, while the expression changes."""


def surface_flow(model: MorphableModel, photographed: FaceParameters, edited: FaceParameters, side: int) -> SurfaceFlow:
    """Follow the surface from the edit (its pixels) back to the photograph, both `side` × `side` pixels."""
    flow = _followed(model, photographed, edited, side)
    pose = np.concatenate([edited.pose[:3], photographed.pose[3:]])
    if np.array_equal(edited.expression, photographed.expression) and np.array_equal(edited.pose, pose):
        return replace(flow, worn=np.zeros_like(flow.worn))
    unmoved = edited.replaced(expression=photographed.expression, pose=pose)
    return replace(flow, stiff=_followed(model, photographed, unmoved, side).displacement)


def _followed(model: MorphableModel, photographed: FaceParameters, edited: FaceParameters, side: int) -> SurfaceFlow:
    """The flow of one motion, all of it the skin's."""
    before, after = pose_vertices(model, [photographed, edited])
    ndc_before, ndc_after = picture_ndc(model, photographed, before), picture_ndc(model, edited, after)
    seen_before = rasterize(ndc_before, model.faces, side, side)
    depth_before = np.where(seen_before.face >= 0, seen_before.depth, np.float32(-1e3)).astype(np.float32)
    seen_after = rasterize(ndc_after, model.faces, side, side)
    head = seen_after.face >= 0
    corners, weights = model.faces[seen_after.face[head]], seen_after.barycentric[head]
    points = np.einsum("nkc,nk->nc", ndc_before[corners], weights)
    facing = np.einsum("nk,nk->n", vertex_normals(before, model.faces)[corners, 2], weights)

    # NDC −1 and 1 are the outer edges of the picture; pixel centres lie half a pixel inside.
    place = (points[:, :2] * 0.5 + 0.5) * side - 0.5
    rows, columns = np.nonzero(head)
    displacement = np.zeros((side, side, 2), np.float32)
    displacement[head] = place - np.stack([columns, rows], axis=1)
    nearest = np.rint(place).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < side)).all(axis=1)
    column, row = np.clip(nearest, 0, side - 1).T
    shown = np.where(inside, depth_before[row, column], np.float32(-1e3))
    visible = points[:, 2] < shown + _DEPTH_SLACK
    seen = np.zeros((side, side), np.float32)
    seen[head] = visible * np.clip((facing - _GRAZING) / (_FRONTAL - _GRAZING), 0.0, 1.0)
    worn = np.zeros((side, side), np.float32)
    if "static51" in model.landmarks:
        height = model.template[:, 1] - landmark_points(model, model.template, "static51")[_NOSE_BASE, 1]
        worn[head] = np.clip(np.einsum("nk,nk->n", height[corners], weights) / _ABOVE, 0.0, 1.0)
    return SurfaceFlow(displacement=displacement, seen=seen, head=head, stiff=displacement, worn=worn)
