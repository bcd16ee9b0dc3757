"""From world metres to NDC of the crop, and from there to NDC and pixels of the picture.

NDC: x right, y down, z smaller = nearer; the picture spans [-1, 1]. Pixel coordinates are continuous, 0 at
the picture's left or top edge, so the centre of pixel (row i, column j) is (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import torch
from torch import Tensor

CROP = 224
"""Side in pixels of the crop that DECA's networks see."""


def project(points: Tensor, camera: Tensor, distance: float | None = None) -> Tensor:
    """(B, N, 3) world metres, camera (B, 3) [s, tx, ty] → (B, N, 3) NDC.

    ``distance`` None is DECA's weak perspective: s·(x + tx, y + ty, z), then y and z negated. A number is a
    perspective from so many metres before the origin: x, y and z are first scaled by d / (d − z). Scaled so,
    depth is affine in 1 / (d − z): linear on the screen, which keeps a z-buffer with linear interpolation
    exact.
    """
    if distance is not None:
        points = points * (distance / (distance - points[..., 2:]))
    moved = torch.cat([points[..., :2] + camera[:, None, 1:], points[..., 2:]], dim=-1)
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=points.dtype, device=points.device)
    return camera[:, None, :1] * moved * flip


def crop_to_picture(ndc: Tensor, tform: Tensor, frame: tuple[int, int]) -> Tensor:
    """(B, N, 2 | 3) NDC of the crop → NDC of the picture of ``frame`` = (height, width) pixels; z is kept.

    ``tform`` (B, 3, 3) maps picture pixels to crop pixels. DECA's crop maps corner pixels to 0 and 223, but
    the way back uses p = (ndc / 2 + 1/2)·224; that half-pixel inconsistency is part of what the generator was
    trained on.
    """
    pixels = (ndc[..., :2] * 0.5 + 0.5) * CROP
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    back = homogeneous @ torch.linalg.inv(tform).transpose(-1, -2)
    height, width = frame
    size = torch.tensor([width, height], dtype=ndc.dtype, device=ndc.device)
    return torch.cat([back[..., :2] / size * 2.0 - 1.0, ndc[..., 2:]], dim=-1)


def ndc_to_pixels(ndc: Tensor, frame: tuple[int, int]) -> Tensor:
    """(…, 2 | 3) NDC → continuous pixel coordinates (x, y) of ``frame`` = (height, width); z is kept."""
    height, width = frame
    size = torch.tensor([width, height], dtype=ndc.dtype, device=ndc.device)
    return torch.cat([(ndc[..., :2] * 0.5 + 0.5) * size, ndc[..., 2:]], dim=-1)
