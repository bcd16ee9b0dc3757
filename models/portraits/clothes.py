"""Shoulders, collars and the cloth they are dressed in."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.portraits.people import Clothes, Skin
from models.portraits.skin import noise
from models.portraits.surface import Surface, grid_surface

__all__ = ["NECK", "clothes_surface", "clothes_texture"]

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

NECK: Final = np.array([0.0, -0.115, -0.02])
"""The point of the head's frame that carries the shoulders."""

# Half width, half depth, height and depth of the torso's rings, from inside the collar to the chest; metres.
_RINGS: Final = np.array(
    [
        (0.056, 0.050, -0.100, -0.012), (0.064, 0.058, -0.082, -0.014), (0.072, 0.066, -0.080, -0.016),
        (0.088, 0.076, -0.086, -0.020), (0.112, 0.086, -0.096, -0.024), (0.140, 0.096, -0.108, -0.026),
        (0.168, 0.104, -0.124, -0.028), (0.192, 0.110, -0.148, -0.030), (0.205, 0.115, -0.20, -0.030),
        (0.210, 0.120, -0.28, -0.025), (0.212, 0.125, -0.40, -0.02),
    ]
)  # fmt: skip
_COLUMNS: Final = 72


def clothes_surface(clothes: Clothes) -> Surface:
    """Torso and collar in the head's rest frame: u runs around from the front, v from collar to chest."""
    turn = 2 * np.pi * (np.arange(_COLUMNS) + 0.5) / _COLUMNS - np.pi
    front = np.clip(np.cos(turn), 0, 1)
    rings = []
    for number, (width, depth, height, back) in enumerate(_RINGS):
        share = number / (len(_RINGS) - 1)
        wide = width * (1 + (clothes.shoulders - 1) * min(1.0, share * 3))
        down = 0.034 * front**1.5 * (1 - share) ** 0.5 * (number > 0)
        lift = clothes.height * min(1.0, share * 4) * (1 - 0.5 * front)
        rings.append(_ring(turn, wide, depth, height + lift - down, back))
    torso = np.stack(rings)
    if clothes.style == "turtleneck":
        torso = np.concatenate([_collar(turn, [(0.068, -0.046), (0.072, -0.058), (0.071, -0.072)], 0.030), torso[2:]])
    elif clothes.style in ("shirt", "suit"):
        torso = np.concatenate([_collar(turn, [(0.066, -0.060), (0.074, -0.062), (0.083, -0.086)], 0.052), torso[3:]])
    elif clothes.style == "hood":
        torso = np.concatenate([_collar(turn, [(0.070, -0.082), (0.084, -0.060), (0.104, -0.066)], 0.060), torso[4:]])
    return grid_surface(torso, closed=True)


def _ring(turn: Doubles, width: float, depth: float, height: Doubles | float, back: float) -> Doubles:
    # A superellipse: broad shoulders rather than a cone.
    sine, cosine = np.sin(turn), np.cos(turn)
    power = 0.85
    x = width * np.sign(sine) * np.abs(sine) ** power
    z = back + depth * np.sign(cosine) * np.abs(cosine) ** power
    return np.stack([x, np.broadcast_to(height, x.shape), z], axis=-1)


def _collar(turn: Doubles, rings: list[tuple[float, float]], dip: float) -> Doubles:
    """Rings (radius, height) around the neck whose front lies `dip` lower."""
    front = np.clip(np.cos(turn), 0, 1) ** 1.3
    return np.stack([_ring(turn, radius, radius * 0.92, height - dip * front, -0.014) for radius, height in rings])


def clothes_texture(clothes: Clothes, skin: Skin, size: int) -> Floats:
    """(size, size, 3) RGB in [0, 1] over u and v of :func:`clothes_surface`."""
    rng = np.random.default_rng(clothes.seed)
    cloth = _cloth(clothes, rng, size)
    u = (np.arange(size, dtype=np.float32) + 0.5) / size
    turn = np.abs(u * 2 * np.pi - np.pi)[None]  # 0 in front
    turn = np.repeat(np.abs(turn), size, axis=0)
    v = np.repeat(u[:, None], size, axis=1)
    bare: Floats | None = None
    if clothes.style == "v":
        bare = _edge(0.36 - 0.55 * turn - v)
    elif clothes.style == "wide":
        bare = _edge(0.34 - 0.05 * np.cos(turn * 2) - v)
    elif clothes.style == "crew":
        bare = _edge(0.135 - v)
    if bare is not None:
        rim = np.clip(1 - np.abs(bare - 0.5) * 2, 0, 1)
        cloth = cloth * (1 - 0.25 * rim[..., None])
        tone = np.array(skin.tone, np.float32) * (1 + 0.03 * noise(rng, 10, size=size))[..., None]
        cloth = cloth + bare[..., None] * (tone - cloth)
        if clothes.necklace:
            chain = np.exp(-(((v - 0.17 - 0.06 * np.cos(turn)) / 0.008) ** 2)) * (np.sin(turn * 140) > -0.4)
            cloth = cloth + np.clip(chain, 0, 1)[..., None] * (np.array([0.80, 0.66, 0.32], np.float32) - cloth)
    if clothes.style in ("shirt", "suit"):
        cloth = _front(cloth, clothes, turn, v, rng)
    if clothes.style == "hood":
        cords = np.exp(-(((turn - 0.35 - 0.2 * v) / 0.025) ** 2)) * (v > 0.25) * (v < 0.75)
        cloth = cloth + cords[..., None] * (np.array([0.85, 0.84, 0.82], np.float32) - cloth)
    return np.asarray(np.clip(cloth, 0, 1), np.float32)


def _front(cloth: Floats, clothes: Clothes, turn: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    """Collar and button line of a shirt; shirt, tie and lapels of a suit."""
    second = np.array(clothes.second, np.float32)
    if clothes.style == "shirt":
        opening = _edge(0.10 * (0.45 - v) - turn + 0.02)
        fold = _edge(0.20 - v)
        cloth = cloth * (1 + 0.12 * fold)[..., None]
        return np.asarray(cloth * (1 - 0.45 * opening)[..., None], np.float32)
    shirt = _edge(0.75 - 0.75 * v - turn) if clothes.pattern != "dots" else _edge(0.55 - 0.6 * v - turn)
    collar = _edge(0.19 - v)
    cloth = cloth + np.maximum(shirt, collar)[..., None] * (second - cloth)
    if clothes.scale > 0.9:
        tie = _edge(0.13 + 0.06 * v - turn) * _edge(v - 0.10)
        wheel = rng.uniform(0.05, 0.6, 3).astype(np.float32)
        stripes = 1 + 0.35 * np.sign(np.sin(v * 60 + turn * 40))
        cloth = cloth + tie[..., None] * (wheel * stripes[..., None] - cloth)
    rim = np.exp(-(((0.75 - 0.75 * v - turn) / 0.03) ** 2)) * (v > 0.2)
    return np.asarray(cloth * (1 - 0.4 * rim)[..., None], np.float32)


def _edge(value: Floats) -> Floats:
    return np.asarray(np.clip(value / 0.012 + 0.5, 0, 1), np.float32)


def _cloth(clothes: Clothes, rng: np.random.Generator, size: int) -> Floats:
    colour, second = np.array(clothes.colour, np.float32), np.array(clothes.second, np.float32)
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size
    around, down = columns * 40 / clothes.scale, rows * 16 / clothes.scale
    share = np.zeros((size, size), np.float32)
    pattern = clothes.pattern
    if clothes.style == "suit":
        pattern = "pinstripes" if pattern in ("stripes", "pinstripes", "checks") else "plain"
        second = np.minimum(colour * 1.8 + 0.05, 1)
    if pattern == "stripes":
        share = (np.mod(down, 1) < 0.45).astype(np.float32)
    elif pattern == "pinstripes":
        share = (np.mod(around, 1) < 0.14).astype(np.float32) * 0.7
    elif pattern == "checks":
        share = 0.5 * (np.mod(down, 1) < 0.4) + 0.5 * (np.mod(around / 1.5, 1) < 0.4)
    elif pattern == "dots":
        share = (np.hypot(np.mod(around, 1) - 0.5, np.mod(down, 1) - 0.5) < 0.24).astype(np.float32)
    elif pattern == "melange":
        share = np.clip(0.3 + 0.5 * noise(rng, size // 3, size=size), 0, 1) * np.float32(0.5)
    share = np.asarray(cv2.GaussianBlur(share.astype(np.float32), (0, 0), 0.7), np.float32)
    cloth = colour + share[..., None] * (second - colour)
    folds = 0.10 * noise(rng, 5, across=14, size=size) + 0.05 * noise(rng, size // 3, size=size)
    return np.asarray(cloth * (1 + folds)[..., None], np.float32)
