"""Albedo picture of one face: the photograph laid out on the texture, freed of light, its hidden parts
completed."""

from typing import Final

import cv2
import numba
import numpy as np
import numpy.typing as npt

from models.face3d.light_fit import SkinLight
from models.face3d.lighting import SH_CONSTANTS
from models.face3d.open_head import OpenHead
from models.face3d.uv_space import TexelMap, fill_holes, texel_map

__all__ = ["AlbedoBaker"]

Floats = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

_SHADE_FLOOR: Final = 0.30
# How much of broad, one-sided deviations from the plain complexion is taken for shadow, and of even ones.
_ODD_SHADOW: Final = 0.90
_EVEN_SHADOW: Final = 0.45
_BROAD: Final = 0.075
"""Gaussian sigma of "broad", as a share of the texture's side."""


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _bake(
    texel_face: npt.NDArray[np.int32], texel_weights: Floats, faces: npt.NDArray[np.int32], pixels: Floats,
    depth_of_vertex: Floats, normals: Floats, depth: Floats, image: Floats, light: Floats,
    colour: Floats, shade: Floats, seen: Floats,
) -> None:  # fmt: skip
    """Fill colour (H, W, 3) from the photograph, shade (H, W, 3) from the light and seen (H, W) in [0, 1]."""
    rows, columns = texel_face.shape
    height, width = depth.shape
    for i in range(rows):
        for j in range(columns):
            f = texel_face[i, j]
            seen[i, j] = 0.0
            if f < 0:
                continue
            x = y = z = nx = ny = nz = np.float32(0.0)
            for k in range(3):
                v, w = faces[f, k], texel_weights[i, j, k]
                x += w * pixels[v, 0]
                y += w * pixels[v, 1]
                z += w * depth_of_vertex[v]
                nx += w * normals[v, 0]
                ny += w * normals[v, 1]
                nz += w * normals[v, 2]
            length = max(np.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-6))
            nx, ny, nz = nx / length, ny / length, nz / length
            for c in range(3):
                shade[i, j, c] = (
                    light[0, c] + light[1, c] * nx + light[2, c] * ny + light[3, c] * nz
                    + light[4, c] * nx * ny + light[5, c] * nx * nz + light[6, c] * ny * nz
                    + light[7, c] * (nx * nx - ny * ny) + light[8, c] * (3 * nz * nz - 1)
                )  # fmt: skip
            column, row = int(np.floor(x)), int(np.floor(y))
            if column < 1 or row < 1 or column >= width - 1 or row >= height - 1 or nz < 0.05:
                continue
            nearest = depth[row, column]
            for di in range(-1, 2):
                for dj in range(-1, 2):
                    nearest = max(nearest, depth[row + di, column + dj])
            if z > nearest + 0.004:
                continue
            a, b = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
            fx, fy = x - 0.5 - a, y - 0.5 - b
            for c in range(3):
                top = image[b, a, c] * (1 - fx) + image[b, a + 1, c] * fx
                bottom = image[b + 1, a, c] * (1 - fx) + image[b + 1, a + 1, c] * fx
                colour[i, j, c] = top * (1 - fy) + bottom * fy
            # 0 at a grazing 80 degrees, 1 from 55 degrees.
            share = min(max((nz - 0.17) / 0.40, 0.0), 1.0)
            seen[i, j] = share * share * (3 - 2 * share)


class AlbedoBaker:
    """Bakes albedo pictures for one head; holds its texel map."""

    def __init__(self, head: OpenHead) -> None:
        model = head.model
        assert model.texture is not None
        self.size = model.texture.mean.shape[0]
        self._texels: TexelMap = texel_map(model.uvs, model.uv_faces, self.size)
        self._faces = model.faces
        on_surface = (self._texels.face >= 0).astype(np.float32)
        plain = np.array([0.72, 0.53, 0.44], np.float32)
        self._pattern = np.clip(model.texture.mean / plain, 0.02, 1.6).astype(np.float32)
        self._surface = on_surface
        parts = head.part_of_vertex
        kinds = np.stack([
            np.isin(parts, ("skin", "neck")), np.isin(parts, ("eye_left", "eye_right")),
        ], axis=1).astype(np.float32)  # fmt: skip
        picture = self._texels.gather(model.faces, kinds)
        self._skin, self._eyes = picture[..., 0] > 0.5, picture[..., 1] > 0.5

    def bake(
        self, image: Floats, pixels: Floats, depth_of_vertex: Floats, normals: Floats, depth: Floats, found: SkinLight
    ) -> UInt8Array:
        """The albedo picture (H, W, 3).

        Args:
            image: (256, 256, 3) in [0, 1].
            pixels: (V, 2) of the frame; depth_of_vertex: (V,) NDC depth; normals: (V, 3).
            depth: (256, 256) NDC depth of the nearest surface, large on the background.
            found: light and tone.
        """
        size = self.size
        colour, shade = np.zeros((size, size, 3), np.float32), np.ones((size, size, 3), np.float32)
        seen = np.zeros((size, size), np.float32)
        light = (found.light * SH_CONSTANTS[:, None]).astype(np.float32)
        _bake(
            self._texels.face, self._texels.barycentric, self._faces, pixels, depth_of_vertex, normals,
            depth, image,
            light, colour, shade, seen,
        )  # fmt: skip
        level = found.light[0] * SH_CONSTANTS[0]
        floor = (_SHADE_FLOOR * np.maximum(level, 0.05)).astype(np.float32)
        shade = np.maximum(shade, floor)
        albedo = np.where(self._eyes[..., None], colour / np.maximum(level, 0.3).astype(np.float32), colour / shade)
        plain = self._plain(found)
        ratio = np.log(np.clip(albedo, 0.012, 1.0)) - np.log(plain)
        ratio = np.clip(ratio, -2.2, 1.2)
        weight = seen * (self._skin | self._eyes)
        ratio = self._without_shadow(ratio, weight)
        ratio = self._complete(ratio, weight)
        return np.clip(plain * np.exp(ratio) * 255 + 0.5, 0, 255).astype(np.uint8)

    def _plain(self, found: SkinLight) -> Floats:
        """The plain complexion in this tone."""
        tone = found.tone.astype(np.float32)
        plain = np.where(self._skin[..., None], self._pattern * tone, self._pattern * np.float32([0.72, 0.53, 0.44]))
        return np.clip(plain, 0.012, 1.0).astype(np.float32)

    def _without_shadow(self, ratio: Floats, weight: Floats) -> Floats:
        """Take out broad deviations: most of what is one-sided, some of what is even."""
        skin = weight * self._skin
        sigma = _BROAD * self.size
        broad = _blur(ratio * skin[..., None], sigma) / np.maximum(_blur(skin, sigma), 1e-3)[..., None]
        support = _blur(skin, sigma)
        mirrored, other = broad[:, ::-1], support[:, ::-1]
        both = (support * other / np.maximum(support * other, 1e-3) > 0.5).astype(np.float32)[..., None]
        even = both * (broad + mirrored) / 2 + (1 - both) * broad
        odd = broad - even
        out = ratio - self._skin[..., None] * (_ODD_SHADOW * odd + _EVEN_SHADOW * even)
        return np.asarray(out, dtype=np.float32)

    def _complete(self, ratio: Floats, weight: Floats) -> Floats:
        """Hidden texels from their mirror images, the rest smoothly from around."""
        other = weight[:, ::-1] * (1 - weight) * 0.999
        mixed = ratio * weight[..., None] + ratio[:, ::-1] * other[..., None]
        total = weight + other
        safe = mixed / np.maximum(total, 1e-6)[..., None]
        filled = fill_holes(safe.astype(np.float32), np.where(self._skin, total, 0.0).astype(np.float32))
        share = np.where(self._skin, np.clip(total * 4, 0, 1), 0.0)[..., None]
        completed = safe * share + filled * (1 - share)
        completed = np.where(self._eyes[..., None], safe * np.clip(total, 0, 1)[..., None], completed)
        return np.where((self._skin | self._eyes)[..., None], completed, 0.0).astype(np.float32)


def _blur(picture: Floats, sigma: float) -> Floats:
    """Gaussian blur of a broad sigma, at a quarter of the size."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
