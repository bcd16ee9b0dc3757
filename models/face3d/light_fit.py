"""Light and skin tone from the skin pixels of one photograph.

Brightness of skin is tone times light; which is which only a prior can say. Tone is Gaussian in log RGB
along the
line from dark to fair skin, light is Gaussian around neutral white of exposure 1; the split of the seen
mean colour
is their conditional mean. The light's shape is a robust ridge regression of brightness on spherical
harmonics.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.lighting import SH_CONSTANTS, exposure, sh_basis

__all__ = ["SkinLight", "fit_light", "split_tone"]

FloatArray = npt.NDArray[np.float64]

# Log RGB of skin: mean, and standard deviations along (1.05, 1.3, 1.5)/|.| (melanin) and across it.
_TONE_MEAN: Final = np.log([0.66, 0.48, 0.39])
_MELANIN: Final = np.array([0.72, 1.0, 1.18]) / np.linalg.norm([0.72, 1.0, 1.18])
_TONE_ALONG: Final = 0.60
_TONE_ACROSS: Final = 0.07
_LIGHT_GRAY: Final = 0.30
_LIGHT_COLOUR: Final = 0.12
# Ridge weights relative to the number of pixels: bands 0, 1, 2.
_RIDGE: Final = np.repeat([0.0, 0.002, 0.012], [1, 3, 5])
_COLOUR_RIDGE: Final = 0.05
_ROUNDS: Final = 5
_LEAST_PIXELS: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SkinLight:
    """Light and tone of one photograph."""

    light: FloatArray
    """(9, 3) spherical harmonics, the renderer's convention."""
    tone: FloatArray
    """(3,) RGB albedo of bare skin in [0, 1]."""
    weight: FloatArray
    """(N,) in [0, 1]: how much each pixel behaved like lit skin."""


def split_tone(seen: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean seen skin colour (3,) in (0, 1] → skin tone (3,), exposure by colour (3,); their product is
    `seen`."""
    along = np.outer(_MELANIN, _MELANIN)
    tone = along * _TONE_ALONG**2 + (np.eye(3) - along) * _TONE_ACROSS**2
    gray = np.full((3, 3), 1 / 3)
    light = gray * (_LIGHT_GRAY**2 * 3) + (np.eye(3) - gray) * _LIGHT_COLOUR**2
    observed = np.log(np.clip(seen, 0.01, 1.0))
    log_tone = _TONE_MEAN + tone @ np.linalg.solve(tone + light, observed - _TONE_MEAN)
    log_tone = np.minimum(log_tone, np.log(0.92))
    return np.exp(log_tone), np.exp(observed - log_tone)


def fit_light(colours: FloatArray, normals: FloatArray, pattern: FloatArray, trust: FloatArray) -> SkinLight:
    """Light and tone that explain colours ≈ tone · pattern · shading(normals).

    Args:
        colours: (N, 3) pixels in [0, 1].
        normals: (N, 3) unit world normals.
        pattern: (N,) brightness of the skin's own pattern relative to bare skin, 1 on bare skin.
        trust: (N,) in [0, 1], 1 on bare skin.

    With fewer than 60 trusted pixels the light is flat and of the exposure the mean colour tells.
    """
    usable = trust * ((colours.max(axis=1) < 0.985) & (colours.min(axis=1) > 0.01))
    if usable.sum() < _LEAST_PIXELS:
        return _flat(colours, np.maximum(usable, 1e-6))
    gray = colours @ np.array([0.3, 0.5, 0.2])
    basis = sh_basis(normals)
    weight = usable * _alike(colours, usable)
    # Balance directions: many frontal pixels must not outvote the few at the sides.
    weight = weight / np.sqrt(_crowding(normals, weight))
    robust = np.ones(len(gray))
    coefficients = np.zeros(9)
    back = _sphere_rows()
    for _ in range(_ROUNDS):
        total = weight * robust
        rows = basis * pattern[:, None]
        scale = total.sum()
        mean = (total * gray).sum() / scale
        hessian = rows.T @ (rows * total[:, None]) + np.diag(_RIDGE * SH_CONSTANTS**2 * scale)
        hessian += back.T @ back * (0.01 * scale / len(back))
        target = rows.T @ (total * gray) + back.sum(axis=0) * (0.01 * scale / len(back)) * 0.6 * mean
        coefficients = np.linalg.solve(hessian, target)
        error = gray - rows @ coefficients
        spread = max(1.4826 * float(_weighted_median(np.abs(error), total)), 0.01)
        # Highlights (positive errors) and hair (negative) leave early; Geman-McClure.
        robust = 1 / (1 + (error / (2.5 * spread)) ** 2) ** 2
    total = weight * robust
    light = _colour(colours, basis * pattern[:, None], coefficients, total)
    faced = exposure(light)
    tone, _ = split_tone(np.clip(faced, 0.01, 1.0))
    return SkinLight(light=light / tone, tone=tone, weight=robust * (usable > 0))


def _colour(colours: FloatArray, rows: FloatArray, gray: FloatArray, weight: FloatArray) -> FloatArray:
    """(9, 3): the gray light's shape with small deviations a colour."""
    scale = weight.sum()
    light = np.zeros((9, 3))
    shading = rows @ gray
    hessian = rows.T @ (rows * weight[:, None]) + np.diag(_COLOUR_RIDGE * SH_CONSTANTS**2 * scale)
    for channel in range(3):
        gain = (weight * colours[:, channel] * shading).sum() / max((weight * shading**2).sum(), 1e-9)
        rest = colours[:, channel] - gain * shading
        light[:, channel] = gain * gray + np.linalg.solve(hessian, rows.T @ (weight * rest))
    return light


def _alike(colours: FloatArray, weight: FloatArray) -> FloatArray:
    """(N,) in [0, 1]: nearness to the median skin chromaticity; hair, beard, glasses and lips fall out."""
    chroma = np.log(np.maximum(colours, 0.02))
    chroma = chroma[:, :2] - chroma[:, 2:]
    middle = np.array([_weighted_median(chroma[:, k], weight) for k in range(2)])
    distance = np.abs(chroma - middle)
    spread = np.array([max(1.4826 * _weighted_median(distance[:, k], weight), 0.04) for k in range(2)])
    return np.asarray(1 / (1 + ((distance / (2.5 * spread)) ** 2).sum(axis=1)) ** 2)


def _crowding(normals: FloatArray, weight: FloatArray) -> FloatArray:
    """(N,) share of the weight in each pixel's cell of directions, relative to the fullest."""
    cells = (np.clip((normals[:, 0] + 1) * 5, 0, 9).astype(int) * 10) + np.clip((normals[:, 1] + 1) * 5, 0, 9).astype(
        int
    )
    filled = np.bincount(cells, weights=weight, minlength=100)
    return np.asarray(np.maximum(filled[cells] / max(filled.max(), 1e-9), 0.02))


def _sphere_rows() -> FloatArray:
    """(64, 9) basis at directions spread over the sphere: unseen sides are drawn to a dim mean."""
    number = np.arange(64) + 0.5
    z = 1 - 2 * number / 64
    turn = np.pi * (1 + np.sqrt(5)) * number
    ring = np.sqrt(1 - z**2)
    return sh_basis(np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1))


def _weighted_median(values: FloatArray, weight: FloatArray) -> float:
    order = np.argsort(values, kind="stable")
    heap = np.cumsum(weight[order])
    return float(values[order[min(int(np.searchsorted(heap, heap[-1] / 2)), len(values) - 1)]])


def _flat(colours: FloatArray, weight: FloatArray) -> SkinLight:
    seen = (colours * weight[:, None]).sum(axis=0) / weight.sum() if len(colours) else np.full(3, 0.5)
    tone, level = split_tone(np.asarray(seen))
    light = np.zeros((9, 3))
    light[0] = level / SH_CONSTANTS[0]
    return SkinLight(light=light, tone=tone, weight=np.zeros(len(colours)))
