"""Pixel measures between pictures and their references: PSNR and SSIM (Wang, Bovik, Sheikh, Simoncelli 2004)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Colour = Literal["luminance", "rgb"]

LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue."""
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(images_BCHW: Tensor, references_BCHW: Tensor, mask_BHW: Tensor | None = None, *, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, one number a pair: float64 (B,); infinite for equal pictures.

    With a mask, bool or 0..1 (B, H, W), the squared error is averaged inside it only. `peak` is the largest
    value: 1 for [0, 1], 255 for 8 bits.

    Raises:
        ValueError: shapes that differ, or a mask without a single pixel.
    """
    _check_pair(images_BCHW, references_BCHW)
    squared = (images_BCHW.double() - references_BCHW.double()).square().mean(dim=1)
    if mask_BHW is None:
        error = squared.mean(dim=(1, 2))
    else:
        if mask_BHW.shape != squared.shape:
            raise ValueError(f"the mask is {tuple(mask_BHW.shape)} and the pictures need {tuple(squared.shape)}")
        weight = mask_BHW.double()
        area = weight.sum(dim=(1, 2))
        if bool((area == 0).any()):
            raise ValueError("a mask has no pixel: leave that pair out and count it")
        error = (squared * weight).sum(dim=(1, 2)) / area
    return 10 * torch.log10(peak**2 / error)


def ssim(images_BCHW: Tensor, references_BCHW: Tensor, *, peak: float = 1.0, colour: Colour = "luminance") -> Tensor:
    """Structural similarity, one number a pair: float64 (B,) in [-1, 1], the mean of `ssim_map`.

    `colour` is `luminance` (BT.601, as Wang) or `rgb` (mean of the three channels' SSIM).
    """
    return ssim_map(images_BCHW, references_BCHW, peak=peak, colour=colour).mean(dim=(1, 2, 3))


def ssim_map(
    images_BCHW: Tensor, references_BCHW: Tensor, *, peak: float = 1.0, colour: Colour = "luminance"
) -> Tensor:
    """SSIM at every position where the window lies inside the picture: float64 (B, 1 or 3, H-10, W-10).

    Gaussian window 11×11 of σ 1.5, K1 0.01, K2 0.03, population covariance. Not scikit-image's default (7×7, uniform).

    Raises:
        ValueError: shapes that differ, sides below 11 pixels, not three channels, an unknown `colour`.
    """
    _check_pair(images_BCHW, references_BCHW)
    if images_BCHW.shape[1] != 3 or min(images_BCHW.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM takes (B, 3, H, W) with sides of at least {WINDOW}, not {tuple(images_BCHW.shape)}")
    if colour not in ("luminance", "rgb"):
        raise ValueError(f"colour={colour!r}: choose luminance or rgb")
    x, y = images_BCHW.double(), references_BCHW.double()
    if colour == "luminance":
        weights = torch.tensor(LUMINANCE, dtype=x.dtype, device=x.device)[None, :, None, None]
        x, y = (x * weights).sum(dim=1, keepdim=True), (y * weights).sum(dim=1, keepdim=True)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    return ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )


def gaussian_window() -> Tensor:
    """The window's weights along one axis: float64 (11,), sum 1."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur(planes: Tensor) -> Tensor:
    window = gaussian_window().to(planes.device)
    channels = planes.shape[1]
    vertical = window[None, None, :, None].expand(channels, 1, WINDOW, 1)
    horizontal = window[None, None, None, :].expand(channels, 1, 1, WINDOW)
    return functional.conv2d(functional.conv2d(planes, vertical, groups=channels), horizontal, groups=channels)


def _check_pair(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.ndim != 4:
        raise ValueError(
            f"pictures {tuple(images.shape)} and references {tuple(references.shape)} must have one shape (B, C, H, W)"
        )
