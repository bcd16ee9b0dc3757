"""Hair as a surface: strands that leave the crown, follow the skull to the hairline or beyond, and may hang down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.portraits.people import Hair, hair_colour
from models.portraits.skin import noise, scalp_height
from models.portraits.skull import CENTRE, SkullRadii
from models.portraits.surface import Surface, grid_surface, sphere_surface

__all__ = ["HANGING", "hair_surfaces", "hair_texture"]

HANGING: Final = ("bob", "fringe_bob", "long", "long_wavy", "long_curly")
"""Styles whose hair hangs beside the face."""

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Generator = np.random.Generator

_COLUMNS: Final = 132
_SKULL_ROWS: Final = 30
_DROP_ROWS: Final = 14


# -- styles --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Style:
    top: float
    """Thickness in metres above, at the sides, at the back."""
    side: float
    back: float
    bumps: float = 0.0
    """Metres of curls."""
    curl_cells: int = 14
    quiff: float = 0.0
    fringe: float = 0.0
    """Radians that front hair reaches below the hairline."""
    sweep: float = 0.0
    """Radians that front hair on one side of the parting reaches below the hairline."""
    hang: float | None = None
    """y in metres where hanging hair ends; None: it ends at the hairline."""
    window: float = 0.0
    """Half-angle in radians of the face's opening in hanging hair."""
    waves: float = 0.0
    """Metres of sideways waves of hanging hair."""
    tilt: float = 0.30
    """Radians that the crown lies behind the top."""
    lean: float = 0.0
    """Radians that the crown lies towards the parting."""
    taper: float = 0.85
    """Share of thickness lost at the hairline."""
    bare_top: float = 0.0
    """Radians around the crown without hair."""


def _style(hair: Hair) -> _Style | None:
    length = hair.length
    styles: dict[str, _Style] = {
        "buzz": _Style(top=0.003, side=0.002, back=0.002),
        "short": _Style(top=0.014, side=0.006, back=0.007, quiff=0.004, lean=0.15),
        "crop": _Style(top=0.013, side=0.004, back=0.005, fringe=0.16 + 0.1 * length, tilt=0.45),
        "quiff": _Style(top=0.020, side=0.005, back=0.007, quiff=0.022 + 0.012 * length, taper=0.25),
        "side": _Style(top=0.020, side=0.009, back=0.009, quiff=0.010, sweep=0.12 + 0.15 * length, lean=0.5, taper=0.6),
        "curly": _Style(
            top=0.026, side=0.015, back=0.02, bumps=0.006, curl_cells=16, fringe=0.03 + 0.16 * length, taper=0.6
        ),
        "afro": _Style(
            top=0.050 + 0.03 * length, side=0.042 + 0.03 * length, back=0.05, bumps=0.004, curl_cells=26, taper=0.25
        ),
        "bob": _Style(
            top=0.017, side=0.016, back=0.018, hang=-0.035 - 0.03 * length, window=0.95, sweep=0.25, lean=0.35
        ),
        "fringe_bob": _Style(top=0.018, side=0.016, back=0.018, hang=-0.03 - 0.05 * length, window=0.98, fringe=0.38),
        "long": _Style(top=0.014, side=0.014, back=0.016, hang=-0.17, window=0.98, sweep=0.22, lean=0.3),
        "long_wavy": _Style(
            top=0.018, side=0.022, back=0.02, hang=-0.17, window=0.95, sweep=0.3, lean=0.35, waves=0.007
        ),
        "long_curly": _Style(
            top=0.026, side=0.032, back=0.03, hang=-0.13, window=0.95, bumps=0.007, curl_cells=20, waves=0.004, lean=0.2
        ),
        "bun": _Style(top=0.010, side=0.007, back=0.008, taper=0.7, tilt=0.9),
        "tied": _Style(top=0.010, side=0.008, back=0.01, taper=0.7, tilt=1.1, sweep=0.06, lean=0.2),
        "horseshoe": _Style(top=0.004, side=0.007, back=0.008, bare_top=1.0, tilt=0.15),
    }
    return styles.get(hair.style)


def hair_surfaces(hair: Hair, vertices: Floats) -> list[Surface]:
    """The surfaces of a hair style on a head with neutral vertices (V, 3), in the head's frame."""
    style = _style(hair)
    if style is None:
        return []
    rng = np.random.default_rng(hair.seed)
    surfaces = [_shell(hair, style, SkullRadii(vertices), rng)]
    if hair.style == "bun":
        radius = 0.026 + 0.014 * hair.length
        high = rng.random() < 0.6
        angle = 0.35 if high else 1.0
        top = CENTRE + np.array([0.0, np.cos(angle), -np.sin(angle)]) * (0.10 + 0.7 * radius)
        surfaces.append(_lump(top, radius * np.array([1.15, 0.9, 1.1]), rng))
    if hair.style == "tied" and hair.length > 0.4:
        side = float(np.sign(hair.parting) or 1.0)
        for share in np.linspace(0, 1, 5):
            place = np.array([side * (0.02 + 0.07 * share), 0.02 - 0.15 * share, -0.10 + 0.03 * share])
            surfaces.append(_lump(place, np.array([0.028, 0.036, 0.026]) * (1 - 0.3 * share), rng))
    return surfaces


def _lump(centre: Doubles, radii: Doubles, rng: Generator) -> Surface:
    surface = sphere_surface(centre, radii, 14, 22)
    bumps = 1 + 0.05 * rng.standard_normal((len(surface.vertices), 1))
    return surface.moved((surface.vertices - centre) * bumps + centre)


def _shell(hair: Hair, style: _Style, skull: SkullRadii, rng: Generator) -> Surface:
    turn = 2 * np.pi * np.arange(_COLUMNS) / _COLUMNS
    signed = np.where(turn > np.pi, turn - 2 * np.pi, turn)
    lean = style.lean * hair.parting
    up = _unit(np.array([np.sin(lean), np.cos(style.tilt), -np.sin(style.tilt)]))
    front = _unit(np.array([0.0, 0.0, 1.0]) - up * up[2])
    right = np.cross(up, front)
    across = np.cos(turn)[:, None] * front + np.sin(turn)[:, None] * right
    line = _hairline(hair, skull, up, across)
    end, drop = _ends(hair, style, signed, line, rng)
    share = np.linspace(0, 1, _SKULL_ROWS)[:, None]
    polar = style.bare_top + share * np.maximum(end - style.bare_top, 0.0)[None]
    direction = np.cos(polar)[..., None] * up + np.sin(polar)[..., None] * across[None]
    inner, outer, place = skull(direction)
    hangs = _smooth(drop, 0.0, 0.03)
    covers = hangs if style.hang is not None else _smooth(end - line, 0.1, 0.3)
    radius = inner + (outer - inner) * covers[None]
    thick = _thickness(hair, style, direction, place, share, hangs, signed, rng)
    points = CENTRE + direction * (radius + thick)[..., None]
    if style.hang is not None:
        points = np.concatenate([points, _hanging(style, hair, points, drop, rng)])
    return grid_surface(points, closed=True)


def _hairline(hair: Hair, skull: SkullRadii, up: Doubles, across: Doubles) -> Doubles:
    """(columns,) angle from the crown where the scalp ends."""
    angles = np.linspace(0.2, 2.5, 160)
    direction = np.cos(angles)[:, None, None] * up + np.sin(angles)[:, None, None] * across[None]
    _, _, place = skull(direction)
    outside = scalp_height(place, hair.recede, hair.height) < 0
    outside[-1] = True
    line = angles[outside.argmax(axis=0)]
    wide = np.concatenate([line[-2:], line, line[:2]])
    return np.convolve(wide, np.array([0.1, 0.25, 0.3, 0.25, 0.1]), mode="valid")


def _ends(hair: Hair, style: _Style, signed: Doubles, line: Doubles, rng: Generator) -> tuple[Doubles, Doubles]:
    """(columns,) angle at which strands leave the skull, and metres that they hang from there (0: not at all)."""
    away = np.abs(signed)
    jag = rng.normal(0, 1, len(signed))
    end = line + 0.008 * jag
    drop = np.zeros_like(end)
    side = float(np.sign(hair.parting) or 1.0)
    if style.fringe:
        end = end + style.fringe * (1 - _smooth(away, 0.65, 1.05)) * (1 + 0.06 * jag)
    if style.sweep:
        to_side = _smooth(-signed * side, -0.1, 0.45) * (1 - _smooth(-signed * side, 0.8, 1.3))
        end = end + style.sweep * to_side * (1 + 0.05 * jag)
    if style.hang is not None:
        window = style.window + 0.12 * (hair.wave - 1) * side * np.sign(signed)
        hanging = _smooth(away, window - 0.16, window + 0.10)
        leave = 1.62 + style.tilt * np.cos(signed)
        end = end + (np.maximum(leave, end * 0 + 1.45) - end) * hanging
        full = 0.05 - style.hang
        drop = hanging**1.5 * full * (1 + 0.03 * jag)
    if style.bare_top:
        end = style.bare_top + (end - style.bare_top) * _smooth(away, 1.0, 1.25)
    return np.maximum(end, 0.05), np.maximum(drop, 0.0)


def _thickness(
    hair: Hair,
    style: _Style,
    direction: Doubles,
    place: Floats,
    share: Doubles,
    hangs: Doubles,
    signed: Doubles,
    rng: Generator,
) -> Doubles:
    top = np.clip(direction[..., 1], 0, 1) ** 1.5
    back = np.clip(-direction[..., 2], 0, 1)
    base = style.side + (style.back - style.side) * back
    thick = base + (style.top - base) * top
    if style.quiff:
        lift = np.exp(-((signed / 0.7) ** 2))[None] * _smooth(share, 0.35, 0.9)
        tilted = 1 + 0.35 * np.tanh(2 * signed)[None] * np.sign(hair.parting or 1.0)
        thick = thick + style.quiff * lift * tilted
    thick = thick * hair.volume
    rows, columns = thick.shape
    clumps = _round_noise(rng, rows, columns, 4, 34)
    thick = thick * (1 + 0.10 * clumps)
    if style.bumps:
        curls = _round_noise(rng, rows, columns, style.curl_cells // 2, style.curl_cells * 2)
        thick = thick + style.bumps * hair.wave * curls * np.minimum(1.0, 4 * np.sin(np.clip(share, 0, 1) * np.pi / 2))
    fade = style.taper * _smooth(share, 0.72, 1.0) * (1 - hangs[None])
    thick = np.maximum(thick, 0.0015) * (1 - fade)
    if style.bare_top:
        thick = thick * _smooth(share, 0.0, 0.3) * _smooth(np.abs(signed), 1.0, 1.3)[None]
    return np.asarray(np.maximum(thick, 0.0008))


def _hanging(style: _Style, hair: Hair, points: Doubles, drop: Doubles, rng: Generator) -> Doubles:
    """(_DROP_ROWS, columns, 3) below the last row of `points`."""
    last = points[-1]
    share = np.linspace(0, 1, _DROP_ROWS + 1)[1:, None]
    out = np.repeat(last[None], _DROP_ROWS, axis=0)
    out[..., 1] -= share * drop[None]
    radial = last * np.array([1.0, 0.0, 1.0])
    radial = radial / np.maximum(np.linalg.norm(radial, axis=1, keepdims=True), 1e-6)
    flare = (
        (0.010 if hair.style.startswith("long") else -0.008)
        * np.sin(share * np.pi * 0.9)
        * np.minimum(drop / 0.1, 1)[None]
    )
    wave = (
        style.waves
        * hair.wave
        * np.sin(
            share * drop[None] / 0.045 * 2 * np.pi
            + rng.uniform(0, 6)
            + 2.0 * np.sin(np.arange(len(drop)) * 2 * np.pi / len(drop) * 3)
        )
    )
    curls = style.bumps * hair.wave * _round_noise(rng, _DROP_ROWS, len(drop), 7, style.curl_cells * 2)
    out += (flare + wave + curls)[..., None] * radial[None] * (drop > 0.004)[None, :, None]
    return np.asarray(out)


def _round_noise(rng: Generator, rows: int, columns: int, cells: int, around: int) -> Doubles:
    """(rows, columns) smooth noise that closes around."""
    grid = rng.standard_normal((cells + 1, around)).astype(np.float32)
    closed = np.concatenate([grid[:, -2:], grid, grid[:, :2]], axis=1)
    per = columns / around
    wide = cv2.resize(closed, (round((around + 4) * per), rows), interpolation=cv2.INTER_CUBIC)
    start = round(2 * per)
    return np.asarray(wide[:, start : start + columns], np.float64)


def _smooth(value: Doubles, low: float | Doubles, high: float | Doubles) -> Doubles:
    share = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share))


def _unit(vector: Doubles) -> Doubles:
    return np.asarray(vector / np.linalg.norm(vector))


def hair_texture(hair: Hair, height: int, width: int) -> Floats:
    """(height, width, 4) RGB and opacity in [0, 1]: strands run down and end unevenly, around goes across."""
    rng = np.random.default_rng(hair.seed + 1)
    curly = hair.style in ("curly", "afro", "long_curly")
    if curly:
        value = (
            0.10 * noise(rng, 20, across=70, size=height, width=width)
            + 0.15 * noise(rng, 58, across=240, size=height, width=width)
            + 0.08 * rng.standard_normal((height, width), np.float32)
        )
    else:
        value = (
            0.10 * noise(rng, 2, across=40, size=height, width=width)
            + 0.15 * noise(rng, 3, across=130, size=height, width=width)
            + 0.11 * noise(rng, 4, across=width // 2, size=height, width=width)
        )
    base = hair_colour(hair).astype(np.float32)
    grey = np.clip(noise(rng, 3, across=width // 3, size=height, width=width) * 0.5 + 0.3, 0, 1)[
        ..., None
    ] * np.float32(0.35 * hair.grey)
    colour = base * np.clip(1 + value, 0.4, 1.7)[..., None]
    colour = np.clip(colour + grey * (0.7 - colour), 0, 1)
    down = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    strands = noise(rng, 1, across=width // 3, size=height, width=width) + 0.6 * noise(
        rng, 1, across=60, size=height, width=width
    )
    reach = 0.93 + 0.035 * strands if not curly else 0.985 + 0.02 * strands
    opacity = np.clip((reach - down) / 0.05 + 0.5, 0, 1)
    return np.asarray(np.dstack([colour, opacity]), np.float32)
