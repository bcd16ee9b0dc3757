"""Light as nine spherical-harmonics coefficients a colour: shading, rotation, presets, estimation.

The basis is DECA's (after Ramamoorthi & Hanrahan 2001): [1, x, y, z, xy, xz, yz, x² − y², 3z² − 1] of the
world normal (x right, y up, z towards the camera) times constants that fold in the Lambertian cosine lobe of
bands 1 and 2 (2π/3 and π/4), but not of band 0 (π). shading_c(n) = Σ_k light[k, c] · constant_k · basis_k(n),
not clamped. Light is (9, 3).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SH_CONSTANTS: Doubles = np.array(
    [1 / math.sqrt(4 * math.pi)]
    + [(2 * math.pi / 3) * math.sqrt(3 / (4 * math.pi))] * 3
    + [(3 * math.pi / 4) * math.sqrt(5 / (12 * math.pi))] * 3
    + [(3 * math.pi / 8) * math.sqrt(5 / (12 * math.pi)), (math.pi / 8) * math.sqrt(5 / (4 * math.pi))]
)

_MIRROR_X = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
_COSINE_LOBE = np.repeat([math.pi, 2 * math.pi / 3, math.pi / 4], [1, 3, 5])
_HEMISPHERE_MEAN = SH_CONSTANTS * np.array([1.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])


# -- shading -------------------------------------------------------------------------------------------------


def sh_basis(normals: Doubles) -> Doubles:
    """(…, 3) normals → (…, 9): constants times basis."""
    x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
    terms = [np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1]
    return np.stack(terms, axis=-1) * SH_CONSTANTS


def shade(normals: Tensor, light: Tensor) -> Tensor:
    """(B, …, 3) normals, (B, 9, 3) light → (B, …, 3) shading; differentiable. Normals are not normalised."""
    x, y, z = normals.unbind(-1)
    terms = [torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1]
    basis = torch.stack(terms, dim=-1) * torch.from_numpy(SH_CONSTANTS).to(normals)
    return (basis.flatten(1, -2) @ light).reshape(normals.shape)


def shade_points(vertices: Tensor, normals: Tensor, lights: Tensor) -> Tensor:
    """Point lights (B, L, 6) [position, intensity RGB] on points and normals (B, N, 3) → (B, N, 3), mean.

    n·l is not clamped, as in DECA's point lights.
    """
    direction = torch.nn.functional.normalize(lights[:, :, None, :3] - vertices[:, None], dim=3)
    cosine = (normals[:, None] * direction).sum(3)
    return (cosine[..., None] * lights[:, :, None, 3:]).mean(1)


def shade_directional(normals: Tensor, lights: Tensor) -> Tensor:
    """Distant lights: (B, N, 3) and (B, L, 6) [direction, intensity RGB] → (B, N, 3), n·l clamped to 0…1."""
    direction = torch.nn.functional.normalize(lights[:, :, None, :3], dim=3)
    cosine = (normals[:, None] * direction).sum(3).clamp(0.0, 1.0)
    return (cosine[..., None] * lights[:, :, None, 3:]).mean(1)


# -- rotation ------------------------------------------------------------------------------------------------


def rotation_matrix9(rotation: ArrayLike) -> Doubles:
    """(3, 3) R → (9, 9) M such that light M·l shades n as l shades Rᵀ·n: the light turned by R.

    Band 1 turns as R itself. Band 2 is the quadratic form nᵀ·Q·n of a symmetric traceless Q, which turns as
    R·Q·Rᵀ; its five columns are the five basis forms turned and read back.
    """
    turn = np.asarray(rotation, np.float64)
    if turn.shape != (3, 3) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-5) or np.linalg.det(turn) < 0:
        raise ValueError(f"not a rotation matrix: {turn.tolist()}")
    out = np.zeros((9, 9))
    out[0, 0] = 1.0
    out[1:4, 1:4] = turn
    constants = SH_CONSTANTS[4:]
    for column, amounts in enumerate(np.diag(constants)):
        out[4:, 4 + column] = _amounts(turn @ _form(amounts) @ turn.T) / constants
    return out


def _form(amounts: Doubles) -> Doubles:
    """Amounts of xy, xz, yz, x² − y², 3z² − 1 → the symmetric Q with nᵀQn their sum on the sphere."""
    xy, xz, yz, xx_yy, zz = amounts
    return np.array([[xx_yy - zz, xy / 2, xz / 2], [xy / 2, -xx_yy - zz, yz / 2], [xz / 2, yz / 2, 2 * zz]])


def _amounts(form: Doubles) -> Doubles:
    """The inverse of :func:`_form`, for a traceless symmetric matrix."""
    return np.array([2 * form[0, 1], 2 * form[0, 2], 2 * form[1, 2], (form[0, 0] - form[1, 1]) / 2, form[2, 2] / 2])


def rotate_light(light: ArrayLike, rotation: ArrayLike) -> Doubles:
    """(9, 3) light turned by the rotation (3, 3): a light from direction d comes from R·d afterwards."""
    return rotation_matrix9(rotation) @ np.asarray(light, np.float64)


def mirror_light(light: ArrayLike) -> Doubles:
    """(9, 3) light reflected left to right (x → −x)."""
    return _MIRROR_X[:, None] * np.asarray(light, np.float64)


# -- presets -------------------------------------------------------------------------------------------------


def ambient_light(level: float = 1.0) -> Doubles:
    """(9, 3) white light that shades every normal with ``level``."""
    light = np.zeros((9, 3))
    light[0] = level / SH_CONSTANTS[0]
    return light


def directional_light(direction: ArrayLike, intensity: float = 1.0) -> Doubles:
    """(9, 3) white distant light from ``direction`` (3,): the order-2 projection of intensity · max(n·d, 0).

    The clamped cosine is Σ A_l·Y_lm(d)·Y_lm(n) with A = π, 2π/3, π/4; the constants are A·Y, but Y alone in
    band 0.
    """
    towards = np.asarray(direction, np.float64)
    length = float(np.linalg.norm(towards))
    if not length > 0:
        raise ValueError("a light's direction must not be zero")
    harmonics = sh_basis(towards / length) / _COSINE_LOBE
    harmonics[0] *= _COSINE_LOBE[0] ** 2
    return np.repeat(intensity * harmonics[:, None], 3, axis=1)


def _scene(ambient: float, *directions: tuple[float, float, float]) -> Doubles:
    lights = [directional_light(direction, (1.0 - ambient) / len(directions)) for direction in directions]
    light = ambient_light(ambient) + np.sum(lights, axis=0)
    return np.asarray(light / exposure(light).mean())


def exposure(light: ArrayLike) -> Doubles:
    """(9, 3) → (3,) mean shading by colour over the normals that face the camera (z > 0), in closed form."""
    return np.asarray(_HEMISPHERE_MEAN @ np.asarray(light, np.float64))


def light_presets() -> dict[str, Doubles]:
    """Named white lights of exposure 1; "left" is the picture's left, "rim" both sides from behind."""
    return {
        "front": _scene(0.3, (0.0, 0.2, 1.0)),
        "left": _scene(0.25, (-1.0, 0.2, 0.35)),
        "right": _scene(0.25, (1.0, 0.2, 0.35)),
        "above": _scene(0.25, (0.0, 1.0, 0.35)),
        "below": _scene(0.25, (0.0, -1.0, 0.35)),
        "rim": _scene(0.35, (-1.0, 0.3, -0.6), (1.0, 0.3, -0.6)),
        "ambient": ambient_light(),
    }


def light_preset(name: str) -> Doubles:
    """(9, 3) of :func:`light_presets`. Raises ``ValueError`` listing the names."""
    presets = light_presets()
    if name not in presets:
        raise ValueError(f"no light preset {name!r}; there are {sorted(presets)}")
    return presets[name]


def relight(source: ArrayLike, target: ArrayLike, strength: float = 1.0) -> Doubles:
    """``source`` moved by ``strength`` (0…1) towards ``target`` brought to the source's exposure and colour.

    So a preset changes where light comes from, not how bright or how warm the picture is.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"light strength {strength} is outside 0…1")
    have, want = np.asarray(source, np.float64), np.asarray(target, np.float64)
    wanted = exposure(want)
    if not (wanted > 1e-6).all():
        raise ValueError(f"a light with exposure {wanted.tolist()} leaves faces dark; it cannot be matched in exposure")
    return np.asarray((1.0 - strength) * have + strength * want * np.maximum(exposure(have), 0.0) / wanted)


# -- estimation ----------------------------------------------------------------------------------------------


def estimate_light(
    image: Floats,
    normals: Floats,
    albedo: Floats,
    mask: NDArray[np.bool_],
    *,
    prior: float = 1e-3,
    rounds: int = 4,
) -> Floats:
    """(9, 3) light that explains ``image`` ≈ albedo · shading(normals) on the mask.

    All pictures are (H, W, 3); image and albedo in 0…1, normals of the world. Least squares a colour,
    reweighted ``rounds`` times by Huber weights so that hair, highlights and shadows count less; clipped
    pixels (below 0.02 or above 0.98) are left out. ``prior`` (relative) draws bands 1 and 2 towards 0. Raises
    ``ValueError`` when fewer than 100 pixels remain.
    """
    usable = mask & (image > 0.02).all(-1) & (image < 0.98).all(-1) & (albedo > 0.02).all(-1)
    count = int(usable.sum())
    if count < 100:
        raise ValueError(f"light needs at least 100 well exposed pixels of the face, not {count}")
    basis = sh_basis(normals[usable].astype(np.float64))
    damping = prior * count * np.diag(np.where(np.arange(9) == 0, 0.0, SH_CONSTANTS**2))
    light = np.empty((9, 3))
    for colour in range(3):
        rows = basis * albedo[usable][:, colour, None].astype(np.float64)
        target = image[usable][:, colour].astype(np.float64)
        weights = np.ones(count)
        for _ in range(max(rounds, 1)):
            weighted = rows * weights[:, None]
            light[:, colour] = np.linalg.solve(rows.T @ weighted + damping, weighted.T @ target)
            error = np.abs(rows @ light[:, colour] - target)
            bound = 1.345 * max(1.4826 * float(np.median(error)), 1e-6)
            weights = np.minimum(1.0, bound / np.maximum(error, 1e-12))
    return light.astype(np.float32)
