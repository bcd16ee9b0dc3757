"""What is behind people: gradients, blurred lights, blurred shapes, walls, out-of-focus rooms and landscapes."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from models.portraits.skin import noise

__all__ = ["background"]

Floats = npt.NDArray[np.floating]
Generator = np.random.Generator

_WORK = 96


def background(kind: str, rng: Generator, size: int) -> Floats:
    """(size, size, 3) RGB in [0, 1]. Raises ``ValueError`` for an unknown kind."""
    kinds = {"gradient": _gradient, "blobs": _blobs, "shapes": _shapes, "wall": _wall, "scene": _scene}
    if kind not in kinds:
        raise ValueError(f"no background {kind!r}; there are {sorted(kinds)}")
    picture = kinds[kind](rng)
    wide = cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(wide, 0.0, 1.0), np.float32)


def _colour(rng: Generator, low: float = 0.05, high: float = 0.95) -> Floats:
    value, saturation, hue = rng.uniform(low, high), rng.beta(1.2, 2.2), rng.random()
    wheel = np.clip(np.abs(np.mod(hue * 6 + np.array([0.0, 4.0, 2.0]), 6) - 3) - 1, 0, 1)
    return np.asarray(value * (1 - saturation * (1 - wheel)), np.float32)


def _gradient(rng: Generator) -> Floats:
    y, x = np.mgrid[:_WORK, :_WORK].astype(np.float32) / (_WORK - 1)
    angle = rng.uniform(0, 2 * np.pi)
    share = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)
    one, two = _colour(rng), _colour(rng)
    two = one + (two - one) * np.float32(rng.uniform(0.2, 0.9))
    picture = one + share[..., None] * (two - one)
    if rng.random() < 0.6:
        glow = np.exp(-((x - rng.uniform(0, 1)) ** 2 + (y - rng.uniform(0, 0.8)) ** 2) / rng.uniform(0.05, 0.4))
        picture = picture + np.float32(rng.uniform(-0.15, 0.25)) * glow[..., None]
    return np.asarray(picture, np.float32)


def _blobs(rng: Generator) -> Floats:
    one, two, three = _colour(rng), _colour(rng), _colour(rng)
    first = np.clip(0.5 + 0.45 * noise(rng, int(rng.integers(2, 6)), size=_WORK), 0, 1)[..., None]
    second = np.clip(0.3 + 0.45 * noise(rng, int(rng.integers(3, 9)), size=_WORK), 0, 1)[..., None]
    picture = one + first * (two - one)
    picture = picture + second * (three - picture) * np.float32(0.8)
    if rng.random() < 0.4:
        picture = _lights(rng, picture)
    return np.asarray(picture, np.float32)


def _lights(rng: Generator, picture: Floats) -> Floats:
    layer = np.zeros((_WORK * 2, _WORK * 2, 3), np.float32)
    for _ in range(int(rng.integers(5, 22))):
        at = tuple(int(value) for value in rng.integers(0, _WORK * 2, 2))
        colour = np.clip(_colour(rng, 0.6, 1.0) * rng.uniform(0.3, 0.8), 0, 1)
        disc = np.zeros(layer.shape[:2], np.float32)
        cv2.circle(disc, at, int(rng.integers(4, 15)), 1.0, -1, cv2.LINE_AA)
        layer = np.maximum(layer, disc[..., None] * colour)
    small = cv2.resize(layer, (_WORK, _WORK), interpolation=cv2.INTER_AREA)
    layer = np.asarray(cv2.GaussianBlur(small, (0, 0), 0.9), np.float32)
    return np.asarray(picture + layer * (1 - 0.6 * picture), np.float32)


def _shapes(rng: Generator) -> Floats:
    picture = _gradient(rng)
    for _ in range(int(rng.integers(4, 12))):
        colour = tuple(float(value) for value in _colour(rng))
        if rng.random() < 0.5:
            corner = rng.uniform(-0.2, 1.0, 2) * _WORK
            extent = rng.uniform(0.1, 0.6, 2) * _WORK
            box = cv2.boxPoints(
                (
                    (float(corner[0]), float(corner[1])),
                    (float(extent[0]), float(extent[1])),
                    float(rng.uniform(-20, 20)),
                )
            )
            cv2.fillPoly(picture, [box.astype(np.int32)], colour, cv2.LINE_AA)
        else:
            at = tuple(int(value) for value in rng.integers(0, _WORK, 2))
            cv2.circle(picture, at, int(rng.integers(6, 30)), colour, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.8, 7.0))), np.float32)


def _wall(rng: Generator) -> Floats:
    """A plain or textured wall with the fall-off of a lamp."""
    y, x = np.mgrid[:_WORK, :_WORK].astype(np.float32) / (_WORK - 1)
    base = _colour(rng, 0.25, 0.95)
    lamp = 0.75 + 0.4 * np.exp(-((x - rng.uniform(0, 1)) ** 2 + (y - rng.uniform(0, 1)) ** 2) / 0.5)
    grain = 0.02 * noise(rng, 48, size=_WORK) + 0.03 * noise(rng, 6, size=_WORK)
    kind = rng.random()
    pattern = np.zeros((_WORK, _WORK), np.float32)
    if kind < 0.35:
        count, row = rng.integers(6, 14), np.floor(y * 12)
        pattern = -0.18 * ((np.mod(y * 12, 1) < 0.1) | (np.mod(x * count + 0.5 * np.mod(row, 2), 1) < 0.05))
    elif kind < 0.55:
        pattern = 0.08 * np.sign(np.sin(x * rng.uniform(20, 70)))
    picture = base * ((lamp + grain + pattern)[..., None])
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), float(rng.uniform(0.6, 2.5))), np.float32)


def _scene(rng: Generator) -> Floats:
    """Sky over land, or a room with a window, out of focus."""
    y = np.mgrid[:_WORK, :_WORK][0].astype(np.float32) / (_WORK - 1)
    if rng.random() < 0.55:
        horizon = rng.uniform(0.35, 0.85) + 0.06 * noise(rng, 5, size=_WORK)[0][None]
        sky = np.array([0.55, 0.72, 0.92], np.float32) * np.float32(rng.uniform(0.6, 1.1)) + 0.15 * y[..., None]
        land = np.array([0.25, 0.38, 0.16], np.float32) * rng.uniform(0.4, 1.5, 3).astype(np.float32)
        leaves = land * (1 + 0.45 * noise(rng, 16, size=_WORK))[..., None]
        picture = np.where((y < horizon)[..., None], sky, leaves)
        if rng.random() < 0.5:
            trees = np.clip(noise(rng, 7, size=_WORK) + 1.6 * (y - horizon + 0.25), 0, 1)[..., None]
            picture = picture + trees * (0.6 * leaves - picture)
    else:
        picture = np.broadcast_to(_colour(rng, 0.2, 0.8), (_WORK, _WORK, 3)).astype(np.float32).copy()
        for _ in range(int(rng.integers(1, 4))):
            left, top = (int(value) for value in rng.integers(-10, 80, 2))
            width, height = (int(value) for value in rng.integers(12, 45, 2))
            bright = tuple(float(value) for value in _colour(rng, 0.75, 1.0))
            cv2.rectangle(picture, (left, top), (left + width, top + height), bright, -1)
        floor = int(rng.uniform(0.6, 1.0) * _WORK)
        picture[floor:] = picture[floor:] * 0.4 + 0.6 * _colour(rng, 0.1, 0.6)
        picture = picture * (1 + 0.12 * noise(rng, 10, size=_WORK))[..., None]
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), float(rng.uniform(1.2, 4.5))), np.float32)
