"""An edited, aligned face back into the photograph it was cut from, at the photograph's own resolution.

The edit replaces the head's region and blends into the photograph band by band (Burt and Adelson 1983): coarse bands over
a wide border, fine ones over a narrow one, so neither a line nor a ghost shows. Gradient-domain cloning was not taken: it
makes the border match by changing the inside, which undoes an edit of the light.
"""

import cv2
import numpy as np
import numpy.typing as npt

from models.face3d.align import aligned_map

UInt8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
MARGIN = 1 / 16
"""Share of the aligned square's side over which the edit fades out at the square's own border."""


def paste_back(
    photograph: UInt8Array, edited: UInt8Array, quad: npt.ArrayLike, region: npt.NDArray[np.bool_]
) -> UInt8Array:
    """The photograph with the edit in its place.

    Args:
        photograph: uint8 (H, W, 3).
        edited: uint8 (S, S, 3), the aligned square after the edit.
        quad: (4, 2) corners of the square in the photograph, as `Aligned.quad`.
        region: bool (S, S), what the edit may change: the old head and the new one, with some margin.

    Returns:
        uint8 (H, W, 3); outside the square every pixel is the photograph's.

    Raises:
        ValueError: shapes that do not belong together, or a square outside the photograph.
    """
    size = edited.shape[0]
    if edited.shape != (size, size, 3) or region.shape != (size, size):
        raise ValueError(f"the edit is {edited.shape} and its region {region.shape}; (S, S, 3) and (S, S) are needed")
    corners = np.asarray(quad, dtype=np.float64)
    height, width = photograph.shape[:2]
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (width, height))
    if right - left < 2 or bottom - top < 2:
        raise ValueError(
            f"the square {corners.round().tolist()} lies outside the photograph of {width}×{height} pixels"
        )
    to_crop = np.linalg.inv(aligned_map(corners, size)).astype(np.float64)
    to_crop[:2, 2] -= (left, top)
    crop = photograph[top:bottom, left:right].astype(np.float32)
    shape = (int(right - left), int(bottom - top))
    alpha = _warped(_faded(region), to_crop, shape)
    pasted = _warped(edited.astype(np.float32), to_crop, shape, border=cv2.BORDER_REPLICATE)
    blended = blend_bands(pasted, crop, alpha)
    result = photograph.copy()
    touched = alpha > 1 / 512
    place = result[top:bottom, left:right]
    place[touched] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)[touched]
    return result


def blend_bands(first: Floats, second: Floats, alpha: Floats, levels: int = 5) -> Floats:
    """Laplacian-pyramid blend: `first` where alpha (H, W) is 1, `second` where it is 0; float32 (H, W, 3)."""
    levels = max(0, min(levels, int(np.log2(max(1, min(alpha.shape) // 8)))))
    masks, ones, twos = [alpha], [first], [second]
    for _ in range(levels):
        for pyramid in (masks, ones, twos):
            pyramid.append(np.asarray(cv2.pyrDown(pyramid[-1]), dtype=np.float32))
    result: Floats = _mixed(ones[-1], twos[-1], masks[-1])
    for one, two, mask, below_one, below_two in zip(
        ones[-2::-1], twos[-2::-1], masks[-2::-1], ones[:0:-1], twos[:0:-1], strict=True
    ):
        size = (one.shape[1], one.shape[0])
        detail_one, detail_two = one - cv2.pyrUp(below_one, dstsize=size), two - cv2.pyrUp(below_two, dstsize=size)
        result = np.asarray(cv2.pyrUp(result, dstsize=size), dtype=np.float32) + _mixed(detail_one, detail_two, mask)
    return result


def _mixed(one: Floats, two: Floats, alpha: Floats) -> Floats:
    return np.asarray(two + (one - two) * alpha[..., None], dtype=np.float32)


def _faded(region: npt.NDArray[np.bool_]) -> Floats:
    """The region with soft edges, gone at the border of the square."""
    size = region.shape[0]
    margin = max(2, round(size * MARGIN))
    inner = np.zeros(region.shape, dtype=np.float32)
    inner[margin:-margin, margin:-margin] = region[margin:-margin, margin:-margin]
    soft = np.asarray(cv2.GaussianBlur(inner, (0, 0), margin / 3), dtype=np.float32)
    soft[[0, -1], :] = soft[:, [0, -1]] = 0.0
    return soft


def _warped(
    picture: Floats, matrix: npt.NDArray[np.float64], size: tuple[int, int], border: int = cv2.BORDER_CONSTANT
) -> Floats:
    """Aligned pixels → crop pixels of (width, height); both maps count from pixel corners."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    if scale < 1:  # a face smaller than the edit: remove what the coarser grid cannot hold
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.5 / scale), dtype=np.float32)
    centred = matrix[:2].copy()
    centred[:, 2] += centred[:, :2] @ np.full(2, 0.5) - 0.5
    method = cv2.INTER_CUBIC if scale > 1 and picture.ndim == 3 else cv2.INTER_LINEAR
    return np.asarray(cv2.warpAffine(picture, centred, size, flags=method, borderMode=border), dtype=np.float32)
