"""FFHQ alignment: a face turned upright in a square, from 68 landmarks (Karras et al. 2019, appendix A;
NVIDIA's
published recipe as used by DiffusionRig)."""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Aligned", "FfhqGeometry", "align_ffhq", "ffhq_geometry"]

# The recipe transforms to 4096 px and reduces; 4 x the output differs by half a grey level and is 16 x
# cheaper.
EXACT_OVERSAMPLING: Final = 16

FloatArray = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class FfhqGeometry:
    """Where the FFHQ square lies and which steps lead to it; quads are (4, 2): top left, then
    counter-clockwise."""

    x: FloatArray
    """(2,) half of the square's horizontal axis, source pixels."""
    y: FloatArray
    """(2,) half of the vertical axis."""
    c: FloatArray
    """(2,) centre."""
    quad0: FloatArray
    """(4, 2) corners in source pixels."""
    shrink: int
    """Divisor the picture is reduced by first (applied when above 1)."""
    size_after_shrink: tuple[int, int]
    """(width, height)."""
    qsize: float
    """Side of the square after shrinking."""
    border: int
    """Margin kept around the square, pixels after shrinking."""
    crop: tuple[int, int, int, int]
    """(left, top, right, bottom) after shrinking."""
    pad: tuple[int, int, int, int]
    """Reflected pixels (left, top, right, bottom) around the crop; all 0 unless `padded`."""
    padded: bool
    quad_final: FloatArray
    """(4, 2) corners in the shrunk, cropped and padded picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aligned:
    """An aligned face."""

    image: UInt8Array
    """(size, size, 3) RGB."""
    quad: FloatArray
    """(4, 2) corners of the square in source pixels: top left, bottom left, bottom right, top right."""
    to_aligned: FloatArray
    """(3, 3) affine map, column vectors: source pixels to aligned pixels (pixel corners at integers)."""


def ffhq_geometry(landmarks68: FloatArray, width: int, height: int, size: int) -> FfhqGeometry:
    """The recipe's numbers for 68 landmarks (68, 2) in a picture of width x height and an output of size
    pixels."""
    points = np.asarray(landmarks68, dtype=np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise ValueError(f"68 finite landmarks (68, 2) are needed, not {points.shape}")
    if size < 1 or width < 1 or height < 1:
        raise ValueError(f"sizes are at least one pixel, not {width} x {height} to {size}")
    eye_right, eye_left = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes = (eye_right + eye_left) * 0.5
    across = eye_left - eye_right
    down = (points[48] + points[54]) * 0.5 - eyes
    x = across - down[::-1] * np.array([-1.0, 1.0])
    length = float(np.hypot(*x))
    if length == 0:
        raise ValueError("the landmarks of eyes and mouth coincide: no face to align")
    x = x / length * max(float(np.hypot(*across)) * 2.0, float(np.hypot(*down)) * 1.8)
    y = x[::-1] * np.array([-1.0, 1.0])
    c = eyes + down * 0.1
    quad0 = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    qsize = float(np.hypot(*x)) * 2
    quad, shrink, extent = quad0.copy(), math.floor(qsize / size * 0.5), (width, height)
    if shrink > 1:
        extent = (int(np.rint(width / shrink)), int(np.rint(height / shrink)))
        quad, qsize = quad / shrink, qsize / shrink
    border = max(int(np.rint(qsize * 0.1)), 3)
    left, top = (int(value) for value in np.floor(quad.min(axis=0)))
    right, bottom = (int(value) for value in np.ceil(quad.max(axis=0)))
    crop = (
        max(left - border, 0), max(top - border, 0),
        min(right + border, extent[0]), min(bottom + border, extent[1]),
    )  # fmt: skip
    whole = crop[2] - crop[0] >= extent[0] and crop[3] - crop[1] >= extent[1]
    crop_used = (0, 0, *extent) if whole else crop
    quad = quad - np.array(crop_used[:2])
    pad = _padding(quad, crop_used[2] - crop_used[0], crop_used[3] - crop_used[1], border)
    padded = max(pad) > border - 4
    if padded:
        least = int(np.rint(qsize * 0.3))
        pad = (max(pad[0], least), max(pad[1], least), max(pad[2], least), max(pad[3], least))
        quad = quad + np.array(pad[:2])
    return FfhqGeometry(
        x=x, y=y, c=c, quad0=quad0, shrink=shrink, size_after_shrink=extent, qsize=qsize, border=border,
        crop=crop, pad=pad, padded=padded, quad_final=quad,
    )  # fmt: skip


def _padding(quad: FloatArray, width: int, height: int, border: int) -> tuple[int, int, int, int]:
    left, top = (int(value) for value in np.floor(quad.min(axis=0)))
    right, bottom = (int(value) for value in np.ceil(quad.max(axis=0)))
    return (
        max(border - left, 0), max(border - top, 0),
        max(right - width + border, 0), max(bottom - height + border, 0),
    )  # fmt: skip


def align_ffhq(
    image: UInt8Array, landmarks68: FloatArray, size: int = 256, *, oversampling: int | None = None
) -> Aligned:
    """Cut the FFHQ square out of a photograph.

    Args:
        image: uint8 (H, W, 3) RGB.
        landmarks68: (68, 2) pixels, iBUG order.
        size: side of the result.
        oversampling: the square is sampled at `oversampling * size` before it is reduced. 16 at 256 is the recipe to
            the bit; by default 2, or 4 where the source has more pixels than that: half a grey level from it.

    Raises:
        ValueError: landmarks of another shape, not finite or degenerate, or a square too far outside the
            picture.
    """
    height, width = image.shape[:2]
    geometry = ffhq_geometry(landmarks68, width, height, size)
    left, top, right, bottom = geometry.crop
    if right - left < 2 or bottom - top < 2:
        raise ValueError(f"the face square {geometry.quad0.round().tolist()} lies outside the picture")
    pixels = _shrunk_region(image, geometry) if geometry.shrink > 1 else image[top:bottom, left:right]
    if geometry.padded:
        pixels = _reflect(pixels, geometry.pad, geometry.qsize * 0.02)
    if oversampling is None:
        oversampling = 2 if geometry.qsize <= 2 * size else 4
    fine = size * oversampling
    if oversampling >= EXACT_OVERSAMPLING:
        corners = tuple(float(value) for value in (geometry.quad_final + 0.5).flatten())
        square = Image.fromarray(pixels).transform(
            (fine, fine), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR
        )
    else:
        square = Image.fromarray(_warp_square(pixels, geometry.quad_final + 0.5, fine))
    reduced = square.resize((size, size), Image.Resampling.LANCZOS) if fine > size else square
    return Aligned(
        image=np.array(reduced, dtype=np.uint8),
        quad=geometry.quad0,
        to_aligned=aligned_map(geometry.quad0, size),
    )


def aligned_map(quad: FloatArray, size: int) -> FloatArray:
    """(3, 3) affine map from source pixels to aligned pixels, both counted from pixel corners, of a square with the
    corners `quad` (4, 2), as `Aligned.quad`."""
    return _square_map(quad + 0.5, size)


def _shrunk_region(image: UInt8Array, geometry: FfhqGeometry) -> UInt8Array:
    """The crop of the shrunk picture, without shrinking the rest: a strip of 4 output pixels feeds the filter."""
    left, top, right, bottom = geometry.crop
    width, height = geometry.size_after_shrink
    across, down = image.shape[1] / width, image.shape[0] / height
    outer = (max(left - 4, 0), max(top - 4, 0), min(right + 4, width), min(bottom + 4, height))
    box = (outer[0] * across, outer[1] * down, outer[2] * across, outer[3] * down)
    size = (outer[2] - outer[0], outer[3] - outer[1])
    cut = (int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3])))
    region = Image.fromarray(image[cut[1] : cut[3], cut[0] : cut[2]])
    inner = (box[0] - cut[0], box[1] - cut[1], box[2] - cut[0], box[3] - cut[1])
    shrunk = np.asarray(region.resize(size, Image.Resampling.LANCZOS, box=inner))
    return shrunk[top - outer[1] : bottom - outer[1], left - outer[0] : right - outer[0]]


def _square_map(quad: FloatArray, size: int) -> FloatArray:
    """(3, 3) affine map that takes the corners (4, 2) of a square to (0, 0), (0, size), (size, size),
    (size, 0)."""
    axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1) / size
    inverse = np.linalg.inv(axes)
    result = np.eye(3)
    result[:2, :2] = inverse
    result[:2, 2] = -inverse @ quad[0]
    return result


def _warp_square(pixels: UInt8Array, quad: FloatArray, size: int) -> UInt8Array:
    """Bilinear sample of a square with corners in pixel-corner coordinates."""
    axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1) / size
    matrix = np.concatenate([axes, (quad[0] + axes @ np.full(2, 0.5) - 0.5)[:, None]], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(pixels, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, dtype=np.uint8)


def _reflect(pixels: UInt8Array, pad: tuple[int, int, int, int], sigma: float) -> UInt8Array:
    """Reflect at the borders, blur what was reflected and fade it towards the median colour."""
    left, top, right, bottom = pad
    wide = np.pad(pixels.astype(np.float32), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = wide.shape[:2]
    y, x = np.ogrid[:height, :width]
    across = np.minimum(x.astype(np.float32) / left, (width - 1 - x).astype(np.float32) / right)
    down = np.minimum(y.astype(np.float32) / top, (height - 1 - y).astype(np.float32) / bottom)
    depth = np.maximum(1.0 - across, 1.0 - down)[..., None]
    wide += (_gaussian(wide, sigma) - wide) * np.clip(depth * 3.0 + 1.0, 0.0, 1.0)
    wide += (np.median(wide, axis=(0, 1)) - wide) * np.clip(depth, 0.0, 1.0)
    return np.clip(np.rint(wide), 0, 255).astype(np.uint8)


def _gaussian(picture: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """Gaussian blur with the kernel cut at 4 sigma and mirrored borders."""
    radius = int(4.0 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    blurred = cv2.sepFilter2D(picture, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32)
