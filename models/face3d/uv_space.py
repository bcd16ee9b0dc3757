"""The texture picture of a head: which surface point each texel shows, and how to fill texels nothing
was seen of."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from models.face3d.rasterize import rasterize

__all__ = ["TexelMap", "fill_holes", "texel_map"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class TexelMap:
    """For each texel of an (H, W) texture picture (first row at v = 1), the surface point it shows."""

    face: Ints
    """(H, W) triangle, -1 where no surface is laid out."""
    barycentric: Floats
    """(H, W, 3)."""

    def gather(self, faces: Ints, values: Floats) -> Floats:
        """(V, C) vertex values → (H, W, C) by interpolation; 0 where there is no surface."""
        corners = values[faces[np.maximum(self.face, 0)]]
        picture = np.einsum("hwkc,hwk->hwc", corners, self.barycentric)
        picture[self.face < 0] = 0
        return np.asarray(picture, dtype=np.float32)


def texel_map(uvs: Floats, uv_faces: Ints, size: int) -> TexelMap:
    """The surface points of a size x size texture picture for texture coordinates (U, 2), v up."""
    flat = np.stack([uvs[:, 0] * 2 - 1, 1 - uvs[:, 1] * 2, np.zeros(len(uvs))], axis=-1).astype(np.float32)
    seen = rasterize(np.ascontiguousarray(flat), np.ascontiguousarray(uv_faces.astype(np.int32)), size, size)
    return TexelMap(face=seen.face, barycentric=seen.barycentric)


def fill_holes(picture: npt.NDArray[np.floating], weight: npt.NDArray[np.floating]) -> Floats:
    """Smooth fill: (H, W, C) where `weight` (H, W) is 0, from the nearest weighted texels (push-pull
    pyramid)."""
    weight = weight.astype(np.float32)
    pyramid = [(picture.astype(np.float32) * weight[..., None], weight)]
    while max(pyramid[-1][1].shape) > 1:
        height, width = pyramid[-1][1].shape
        target = ((width + 1) // 2, (height + 1) // 2)
        colours, weights = (cv2.resize(level, target, interpolation=cv2.INTER_AREA) for level in pyramid[-1])
        scale = np.minimum(1.0, 1.0 / np.maximum(weights, 1e-6)) * (weights > 0)
        boost = np.where(weights > 0, np.minimum(scale, 4.0), 0.0).astype(np.float32)
        pyramid.append((np.atleast_3d(colours) * boost[..., None], weights * boost))
    colours, weights = pyramid[-1]
    filled = colours / np.maximum(weights, 1e-6)[..., None]
    for colours, weights in reversed(pyramid[:-1]):
        height, width = weights.shape
        wide = cv2.resize(filled.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        share = np.clip(weights, 0.0, 1.0)[..., None]
        filled = colours + (1 - share) * np.atleast_3d(wide)
    return np.asarray(filled, dtype=np.float32)
