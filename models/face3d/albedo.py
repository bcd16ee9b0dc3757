"""Albedo picture of one face: the photograph laid out on the texture, freed of light, its hidden parts
completed."""

from typing import Final

import cv2
import numba
import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from models.face3d.light_fit import SkinLight
from models.face3d.lighting import SH_CONSTANTS, exposure
from models.face3d.open_head import OpenHead
from models.face3d.uv_space import TexelMap, fill_holes, texel_map

__all__ = ["AlbedoBaker"]

Floats = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

_SHADE_FLOOR: Final = 0.30
# How much of broad, one-sided deviations from the plain complexion is taken for shadow, and of even ones.
_ODD_SHADOW: Final = 0.90
_EVEN_SHADOW: Final = 0.55
_BROAD: Final = 0.075
"""Gaussian sigma of "broad", as a share of the texture's side."""
_GRAY: Final = np.full(3, 1 / 3, np.float32)
# Inner parts that are seen in part: what is hidden of them takes the tint of what is seen.
_EYES: Final = ("eye_left", "eye_right")
_TEETH: Final = ("teeth_upper", "teeth_lower")
_TINTED: Final = (_EYES, ("teeth_upper",), ("teeth_lower",))
_LEAST_TEXELS: Final = 12
_MIDDLE_SHADOW: Final = 0.45
_MIDDLE: Final = 0.02
_PLAIN_SKIN: Final = np.array([0.72, 0.53, 0.44], np.float32)
"""The skin colour that the mean texture is painted with."""


@numba.njit(cache=True, nogil=True)
def _bake(
    texel_face: npt.NDArray[np.int32], texel_weights: Floats, faces: npt.NDArray[np.int32], pixels: Floats,
    depth_of_vertex: Floats, normals: Floats, depth: Floats, image: Floats, person: Floats,
    skin: npt.NDArray[np.bool_], light: Floats, colour: Floats, shade: Floats, seen: Floats,
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
            if column < 1 or row < 1 or column >= width - 1 or row >= height - 1 or (skin[i, j] and nz < 0.05):
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
            # Skin: 0 at a grazing 77 degrees, 1 from 50 degrees. Inner parts fold too much for that.
            share = min(max((nz - 0.22) / 0.42, 0.0), 1.0) if skin[i, j] else 1.0
            seen[i, j] = share * share * (3 - 2 * share) * person[row, column]


class AlbedoBaker:
    """Bakes albedo pictures for one head; holds its texel map."""

    def __init__(self, head: OpenHead) -> None:
        model = head.model
        assert model.texture is not None
        self.size = model.texture.mean.shape[0]
        self._texels: TexelMap = texel_map(model.uvs, model.uv_faces, self.size)
        self._faces = model.faces
        self._pattern = np.clip(model.texture.mean / _PLAIN_SKIN, 0.02, 1.8).astype(np.float32)
        parts = head.part_of_vertex
        skin = np.isin(parts, ("skin", "neck")).astype(np.float32)[:, None]
        self._skin = self._texels.gather(model.faces, skin)[..., 0] > 0.5
        bare = self._texels.gather(model.faces, head.skin_share[:, None])[..., 0]
        self._bare = np.clip(bare * 1.2, 0.0, 1.0)
        self._scalp = _shrink(self._texels.gather(model.faces, _scalp(model.template)[:, None])[..., 0], 2)
        self._bare_small = _shrink(self._bare, 2)
        self._inner = self._inner_parts(head)
        self._nearest = _nearest_on_surface(self._texels.face >= 0)

    def _inner_parts(self, head: OpenHead) -> list[tuple[npt.NDArray[np.bool_], bool]]:
        """Texels of each inner part, and whether its rim is in shadow (teeth); eyeballs as white and iris."""
        parts = []
        white = self._pattern.min(axis=2) > 0.8
        for names in _TINTED:
            share = np.isin(head.part_of_vertex, names).astype(np.float32)[:, None]
            texels = self._texels.gather(head.model.faces, share)[..., 0] > 0.5
            pieces = [texels & white, texels & ~white] if names == _EYES else [texels]
            parts += [(piece, names[0] in _TEETH) for piece in pieces]
        return parts

    def bake(
        self, image: Floats, person: Floats, pixels: Floats, depth_of_vertex: Floats, normals: Floats,
        depth: Floats, found: SkinLight,
    ) -> UInt8Array:  # fmt: skip
        """The albedo picture (H, W, 3).

        Args:
            image: (256, 256, 3) in [0, 1].
            person: (256, 256) in [0, 1]: what is not background.
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
            depth, image, person, self._skin, light, colour, shade, seen,
        )  # fmt: skip
        # Eyes and the mouth's inside are small, glossy and self-shadowed: their light is taken as even.
        level = np.maximum(exposure(found.light), 0.05).astype(np.float32)
        shade = np.where(self._skin[..., None], np.maximum(shade, _SHADE_FLOOR * level), level)
        plain = self._plain(found)
        ratio = np.log(np.clip(colour / shade, 0.012, 1.0)) - np.log(plain)
        ratio = np.clip(ratio, -2.2, 1.2).astype(np.float32)
        ratio = self._without_shadow(ratio, seen)
        ratio = self._complete(ratio, seen)
        albedo = (plain * np.exp(ratio)).reshape(-1, 3)[self._nearest]
        return np.asarray(np.clip(albedo * 255 + 0.5, 0, 255).astype(np.uint8))

    def _plain(self, found: SkinLight) -> Floats:
        """The plain complexion in this tone."""
        tone = np.where(self._skin[..., None], found.tone.astype(np.float32), _PLAIN_SKIN)
        return np.asarray(np.clip(self._pattern * tone, 0.012, 1.0), dtype=np.float32)

    def _without_shadow(self, ratio: Floats, seen: Floats) -> Floats:
        """Take out broad deviations on skin, most of what is one-sided, some of what is even; then some of the
        brightness that still varies smoothly over bare skin, where shading errors are likelier than paint."""
        skin = seen * self._skin
        sigma = _BROAD * self.size / 4
        support = _soften(_shrink(skin, 4), sigma)
        broad = _soften(_shrink(ratio * skin[..., None], 4), sigma) / np.maximum(support, 1e-3)[..., None]
        both = (np.minimum(support, support[:, ::-1]) > 0.05)[..., None]
        even = np.where(both, (broad + broad[:, ::-1]) / 2, broad)
        shadow = _ODD_SHADOW * (broad - even) + _EVEN_SHADOW * even
        out = ratio - self._skin[..., None] * _grow(shadow, self.size)
        bare, sigma = seen * self._bare, _MIDDLE * self.size / 4
        lit = _soften(_shrink((out @ _GRAY) * bare, 4), sigma)
        smooth = lit / np.maximum(_soften(_shrink(bare, 4), sigma), 1e-2)
        out -= (_MIDDLE_SHADOW * bare * _grow(smooth, self.size))[..., None]
        return np.asarray(out, dtype=np.float32)

    def _complete(self, ratio: Floats, seen: Floats) -> Floats:
        """Hidden skin from its mirror image, the rest from around: scalp from scalp, face and neck from bare skin,
        the farther the more from its mean. Hidden eyes and mouth stay plain."""
        other = seen[:, ::-1] * (1 - seen)
        total = (seen + other) * self._skin
        mixed = ratio * seen[..., None] + ratio[:, ::-1] * other[..., None]
        known = mixed / np.maximum(seen + other, 1e-6)[..., None]
        filled = _grow(self._around(known * total[..., None], total), self.size)
        share = np.clip(total * 2.5, 0, 1)[..., None]
        skin = known * share + filled * (1 - share)
        out = np.where(self._skin[..., None], skin, ratio * seen[..., None]).astype(np.float32)
        for inner, bright in self._inner:
            out[inner] = _tinted(ratio[inner], seen[inner], bright)
        return out

    def _around(self, weighted: Floats, total: Floats) -> Floats:
        """A guess for every texel at half the size, from colours times weights (H, W, 3) and weights (H, W)."""
        total = _shrink(total, 2)
        known = _shrink(weighted, 2) / np.maximum(total, 1e-6)[..., None]
        scalp, bare = self._scalp, total * self._bare_small
        mean = (known * bare[..., None]).sum(axis=(0, 1)) / max(float(bare.sum()), 1e-6)
        near = np.clip(_soften(total * (1 - scalp), 0.02 * self.size) * 4, 0, 1)[..., None]
        face = fill_holes(known, total * (1 - scalp))
        face = face * near + mean * (1 - near)
        hair = fill_holes(known, total * scalp) if (total * scalp).sum() > 5 else face
        return np.asarray(hair * scalp[..., None] + face * (1 - scalp[..., None]), dtype=np.float32)


def _tinted(ratio: Floats, seen: Floats, bright: bool) -> Floats:
    """(N, 3) of one inner part: as seen where it is seen, elsewhere the median tint (of the brighter half: lips
    and shadow darken the rim of teeth)."""
    clear = seen > 0.3
    if clear.sum() < _LEAST_TEXELS:
        return np.asarray(ratio * seen[:, None])
    if bright:
        gray = ratio @ _GRAY
        clear &= gray >= np.median(gray[clear])
    tint = np.median(ratio[clear], axis=0)
    return np.asarray(tint + (ratio - tint) * seen[:, None])


def _scalp(template: Floats) -> Floats:
    """(V,) in [0, 1]: where hair grows, above the forehead and behind the ears' front."""
    y, z = template[:, 1], template[:, 2]
    above = (y - 0.082 - 0.35 * np.clip(z - 0.06, 0, None)) / 0.012
    front = 0.018 + 0.03 * np.clip((y - 0.02) / 0.03, 0, 1)
    behind = np.minimum((front - z) / 0.012, (y + 0.045) / 0.012)
    return np.asarray(np.clip(np.maximum(above, behind) + 0.5, 0.0, 1.0), dtype=np.float32)


def _nearest_on_surface(surface: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(H, W) flat index of the nearest texel on the surface: charts bleed outwards, not in."""
    rows, columns = distance_transform_edt(~surface, return_distances=False, return_indices=True)
    return np.asarray(rows * surface.shape[1] + columns, dtype=np.int64)


def _shrink(picture: Floats, divisor: int) -> Floats:
    """Area average by a whole number."""
    height, width = picture.shape[:2]
    target = (width // divisor, height // divisor)
    return np.asarray(cv2.resize(picture, target, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _soften(picture: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), dtype=np.float32)


def _grow(picture: npt.NDArray[np.floating], size: int) -> Floats:
    grown = cv2.resize(picture.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown, dtype=np.float32)
