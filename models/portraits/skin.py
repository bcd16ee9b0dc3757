"""The albedo picture of a synthetic person: skin, lips, brows, make-up, stubble and eyes, laid out like the head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.face3d.open_head import load_open_head
from models.face3d.uv_space import fill_holes, texel_map
from models.portraits.people import Eyes, Person, Skin, hair_colour

__all__ = ["EYE_CENTRES", "EYE_EXTENT", "SIZE", "albedo_of", "beard_density", "noise", "paint_albedo", "scalp_height"]

Floats = npt.NDArray[np.floating]
Generator = np.random.Generator

SIZE: Final = 320
"""Side of the albedo picture."""
EYE_CENTRES: Final = ((0.9, 0.065), (0.1, 0.065))
"""(u, v) of the left and the right eye's pole in the head's layout."""
EYE_EXTENT: Final = 0.06
"""Distance in u and v from an eye's pole to its antipode: π radians."""

# Hairline seen from the side: z → y in metres of the template, from the nape over the ear to the forehead.
_LINE_Z: Final = (-0.10, -0.07, -0.05, -0.03, -0.018, -0.005, 0.03, 0.037, 0.044, 0.052, 0.062, 0.076, 0.09, 0.12)
_LINE_Y: Final = (-0.045, -0.045, -0.03, -0.01, 0.012, 0.048, 0.048, 0.022, 0.026, 0.058, 0.083, 0.099, 0.104, 0.104)


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """What does not depend on the person, a texel each."""

    place: Floats
    """(T, T, 3) position on the template, metres."""
    skin: npt.NDArray[np.bool_]
    lips: Floats
    inner: Floats
    """(T, T, 3) colours of teeth, tongue and cavities."""
    hole: npt.NDArray[np.bool_]


@cache
def _layout() -> _Layout:
    head = load_open_head()
    model = head.model
    texels = texel_map(model.uvs, model.uv_faces, SIZE)
    skin = np.isin(head.part_of_vertex, ("skin", "neck")).astype(np.float32)[:, None]
    share = texels.gather(model.faces, skin)[..., 0]
    place = fill_holes(texels.gather(model.faces, model.template), (texels.face >= 0).astype(np.float32))
    plain = head.mean_albedo.astype(np.float32)
    red = np.clip((plain[:, 0] - plain[:, 1] - 0.20) / 0.08, 0, 1) * skin[:, 0]
    lips = cv2.GaussianBlur(texels.gather(model.faces, red[:, None].astype(np.float32))[..., 0], (0, 0), 0.8)
    assert model.texture is not None
    inner = np.asarray(cv2.resize(model.texture.mean, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.float32)
    _part_teeth(inner)
    return _Layout(place, share > 0.5, np.asarray(lips, np.float32), inner, texels.face < 0)


def _part_teeth(inner: Floats) -> None:
    """Draw the gaps between teeth, narrower towards the sides as the row turns away."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    u, v = (columns + 0.5) / SIZE, 1 - (rows + 0.5) / SIZE
    inside = (np.abs(u - 0.5) < 0.29) & (v < 0.118)
    place = np.abs(u - 0.5) / 0.29 * 8.0
    gap = np.exp(-(((np.mod(place + 0.5, 1.0) - 0.5) / 0.10) ** 2))
    inner[inside] *= (1 - 0.45 * gap[inside])[:, None]


def noise(
    rng: Generator, cells: int, *, across: int | None = None, size: int = SIZE, width: int | None = None
) -> Floats:
    """(size, width) smooth noise of mean 0 and standard deviation about 1, with `cells` cells down, `across` across."""
    grid = rng.standard_normal((cells + 1, (across or cells) + 1), np.float32)
    wide = cv2.resize(grid, (width or size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide * np.float32(1.35), np.float32)


def _bump(value: Floats, centre: float, width: float) -> Floats:
    return np.asarray(np.exp(-(((value - np.float32(centre)) / np.float32(width)) ** 2)), np.float32)


def _step(value: Floats, low: float | np.floating, high: float | np.floating) -> Floats:
    share = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def scalp_height(place: Floats, recede: float, height: float) -> Floats:
    """(…,) metres above the hairline (negative below it) of template positions (…, 3)."""
    x, y, z = np.abs(place[..., 0]), place[..., 1], place[..., 2]
    line = np.interp(z, _LINE_Z, _LINE_Y)
    front = np.clip((z - 0.045) / 0.02, 0, 1)
    temples = np.clip((x - 0.012) / 0.025, 0, 1)
    line = line + front * (height + recede * (0.008 + 0.020 * temples))
    return np.asarray(y - line, np.float32)


@lru_cache(maxsize=16)
def albedo_of(person: Person) -> npt.NDArray[np.uint8]:
    """:func:`paint_albedo`, the last few kept; read-only."""
    picture = paint_albedo(person)
    picture.flags.writeable = False
    return picture


def paint_albedo(person: Person) -> npt.NDArray[np.uint8]:
    """(SIZE, SIZE, 3) RGB bytes: the UV picture of `FaceParameters.albedo`."""
    layout, rng = _layout(), np.random.default_rng(person.skin.seed)
    colour = _complexion(layout, person.skin, rng)
    colour = _lips(layout, colour, person.skin, rng)
    colour = _lines(layout, colour, person.skin)
    colour = _beard_shade(layout, colour, person, rng)
    colour = _around_eyes(layout, colour, person)
    colour = _brows(layout, colour, person.eyes, rng)
    colour = _scalp(layout, colour, person, rng)
    picture = np.where(layout.skin[..., None] | layout.hole[..., None], colour, layout.inner)
    _paint_eyes(picture, person.eyes)
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)


def _mix(colour: Floats, share: Floats, other: Floats | tuple[float, float, float]) -> Floats:
    return np.asarray(colour + share[..., None] * (np.asarray(other, np.float32) - colour), np.float32)


def _complexion(layout: _Layout, skin: Skin, rng: Generator) -> Floats:
    x, y, z = layout.place[..., 0], layout.place[..., 1], layout.place[..., 2]
    tone = np.array(skin.tone, np.float32)
    colour = np.broadcast_to(tone, (SIZE, SIZE, 3)).astype(np.float32)
    side = np.abs(x)
    flush = _bump(side, 0.043, 0.017) * _bump(y, -0.004, 0.016) * _step(z, 0.04, 0.08)
    flush = flush + 0.8 * _bump(x, 0, 0.014) * _bump(y, 0.002, 0.013) * _step(z, 0.10, 0.112)
    flush = flush + 0.5 * _bump(x, 0, 0.02) * _bump(y, -0.066, 0.012) * _step(z, 0.07, 0.09)
    ears = _step(side, 0.066, 0.072) * _bump(z, 0.01, 0.03) * _bump(y, 0.02, 0.04)
    strength = np.float32(0.20 * skin.redness) * (flush + 1.1 * ears) * (1 + 0.3 * noise(rng, 14))
    red = tone * np.array([1.04, 0.70, 0.70], np.float32)
    colour = _mix(colour, np.clip(strength * 2.2, 0, 0.8).astype(np.float32), red)
    if skin.blush:
        share = np.float32(0.45 * skin.blush) * _bump(side, 0.05, 0.016) * _bump(y, 0.004, 0.014) * _step(z, 0.03, 0.07)
        colour = _mix(colour, share, tone * np.array([1.0, 0.62, 0.64], np.float32))
    broad = 0.55 * noise(rng, 7) + 0.35 * noise(rng, 20) + 0.2 * noise(rng, 60)
    fine = rng.standard_normal((SIZE, SIZE), np.float32)
    mottle = np.float32(0.022 * skin.blotches) * broad + np.float32(0.010) * fine
    colour = colour * (1 + mottle[..., None] * np.array([0.7, 1.0, 1.1], np.float32))
    # Cheekbones and forehead a little lighter, hollows and jaw a little darker.
    relief = 0.05 * _bump(side, 0.045, 0.014) * _bump(y, 0.014, 0.010) - 0.07 * _bump(side, 0.055, 0.014) * _bump(
        y, -0.03, 0.016
    )
    colour = colour * (1 + np.float32(skin.contour) * relief * _step(z, 0.03, 0.06))[..., None]
    if skin.freckles:
        spots = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE), np.float32), (0, 0), 0.8)
        where = _bump(side, 0.025, 0.032) * _bump(y, 0.008, 0.024) + 0.25
        share = np.clip((spots - 0.42) * 3, 0, 1) * np.clip(where, 0, 1) * np.float32(0.6 * skin.freckles)
        colour = _mix(colour, share.astype(np.float32), tone * np.array([0.72, 0.55, 0.45], np.float32))
    for _ in range(skin.moles):
        at = np.array([rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.09)])
        share = np.exp(-(((x - at[0]) ** 2 + (y - at[1]) ** 2) / rng.uniform(0.0009, 0.0017) ** 2)) * (z > 0.03)
        colour = _mix(colour, (0.75 * share).astype(np.float32), tone * np.array([0.45, 0.35, 0.32], np.float32))
    return colour


def _lips(layout: _Layout, colour: Floats, skin: Skin, rng: Generator) -> Floats:
    creases = 1 + 0.05 * noise(rng, 12, across=150)
    lips = np.asarray(np.array(skin.lips, np.float32) * creases[..., None], np.float32)
    return _mix(colour, layout.lips * np.float32(skin.lip_strength), lips)


def _lines(layout: _Layout, colour: Floats, skin: Skin) -> Floats:
    """Folds from nose to mouth, under the eyes, on the forehead and beside the eyes, deeper with age."""
    x, y, z = layout.place[..., 0], layout.place[..., 1], layout.place[..., 2]
    side = np.abs(x)
    front = _step(z, 0.05, 0.075)
    age = skin.age
    fold_x = 0.017 + 0.36 * (0.002 - y) + 5.0 * (0.002 - y) ** 2
    folds = _bump(side - fold_x, 0, 0.0016) * _step(y, -0.036, -0.022) * _step(-y, -0.006, 0.004)
    bags = _bump(y - (0.0175 + 9.0 * (side - 0.028) ** 2), 0, 0.0022) * _bump(side, 0.027, 0.012)
    rows = np.cos((y + 1.5 * side**2) * np.float32(2 * np.pi / 0.0095)).clip(0, 1) ** 6
    forehead = rows * _step(y, 0.064, 0.072) * _step(-y, -0.102, -0.09) * _bump(x, 0, 0.035)
    crows = (
        (np.cos((y - 0.03) * np.float32(2 * np.pi / 0.006)).clip(0, 1) ** 4)
        * _bump(side, 0.051, 0.005)
        * _bump(y, 0.03, 0.009)
    )
    frown = _bump(side, 0.006, 0.0012) * _bump(y, 0.053, 0.007)
    dark = (0.06 + 0.24 * age) * folds + (0.05 + 0.16 * age) * bags
    dark = dark + max(age - 0.35, 0) * (0.30 * forehead + 0.30 * crows + 0.25 * frown)
    return np.asarray(colour * (1 - (dark * front)[..., None] * np.array([0.7, 1.0, 1.0], np.float32)), np.float32)


def beard_density(place: Floats, style: str) -> Floats:
    """(…,) in [0, 1]: how dense a beard of a style grows at template positions (…, 3)."""
    x, y, z = np.abs(place[..., 0]), place[..., 1], place[..., 2]
    lip = np.clip(1 - x / 0.024, 0, 1)
    lip_edge = np.abs(y + 0.0335) - 0.0115 * np.sqrt(lip) + 0.01 * (x > 0.024)
    mouth = np.maximum(_step(np.asarray(lip_edge, np.float32), 0.0, 0.003), _step(x, 0.0235, 0.026))
    cheek = np.interp(x, [0.0, 0.018, 0.03, 0.045, 0.06, 0.075], [-0.016, -0.020, -0.022, -0.012, 0.012, 0.03])
    below = _step(np.asarray(cheek - y, np.float32), -0.001, 0.007) * _step(z, 0.012, 0.035) * _step(y, -0.098, -0.082)
    upper = _bump(y - (-0.0195 - 0.10 * x), 0, 0.0062) * _step(-x, -0.034, -0.022) * _step(z, 0.07, 0.09)
    full = np.maximum(below * mouth, upper * mouth)
    if style == "moustache":
        return np.asarray(upper * mouth, np.float32)
    if style == "goatee":
        chin = _step(-x, -0.030, -0.020) * _step(-y, 0.012, 0.018)
        return np.asarray(np.maximum(full * chin, upper * mouth), np.float32)
    return np.asarray(full, np.float32)


def _beard_shade(layout: _Layout, colour: Floats, person: Person, rng: Generator) -> Floats:
    beard = person.beard
    grain = np.clip(0.75 + 0.35 * rng.standard_normal((SIZE, SIZE), np.float32), 0, 1)
    if beard.style == "none":
        return colour
    density = beard_density(layout.place, "full" if beard.style in ("stubble", "short") else beard.style)
    most = 0.42 if beard.style == "stubble" else 0.86
    share = density * grain * np.float32(most * beard.density) * np.clip(1 + 0.25 * noise(rng, 18), 0.3, 1.2)
    return _mix(colour, np.clip(share, 0, 1).astype(np.float32), beard.colour)


def _around_eyes(layout: _Layout, colour: Floats, person: Person) -> Floats:
    x, y, z = layout.place[..., 0], layout.place[..., 1], layout.place[..., 2]
    side, skin, eyes = np.abs(x), person.skin, person.eyes
    front = _step(z, 0.06, 0.075)
    upper_line = 0.0385 - 18.0 * (side - 0.0275) ** 2
    lids = _step(y - upper_line, -0.001, 0.002) * _step(upper_line + 0.009 - y, 0.0, 0.005) * _bump(side, 0.028, 0.014)
    colour = _mix(colour, np.asarray(lids * front, np.float32) * np.float32(skin.eye_shadow_strength), skin.eye_shadow)
    lower_line = 0.0265 + 14.0 * (side - 0.0275) ** 2
    lash = _bump(y - upper_line, 0.0, 0.0013) * _step(-side, -0.043, -0.038) * _step(side, 0.0155, 0.020)
    lash = lash + 0.35 * _bump(y - lower_line, 0.0, 0.0011) * _step(-side, -0.041, -0.037) * _step(side, 0.018, 0.024)
    return _mix(colour, np.asarray(lash * front * np.float32(0.85 * eyes.lashes), np.float32), (0.07, 0.05, 0.05))


def _brows(layout: _Layout, colour: Floats, eyes: Eyes, rng: Generator) -> Floats:
    x, y, z = layout.place[..., 0], layout.place[..., 1], layout.place[..., 2]
    across = (np.abs(x) - 0.0283 - eyes.brow_gap) / 0.0255
    arch = (
        0.0218
        - 0.0042 * (across - 0.25) ** 2
        + 0.0016 * eyes.brow_arch * np.clip(1 - np.abs(across - 0.35) / 0.7, 0, 1)
    )
    half = 0.0036 * eyes.brow_thickness * np.clip(1.05 - 0.5 * np.clip(across, -0.4, 1.2), 0.25, 1.2)
    along = np.where(across < 0, across / 0.66, across / 0.96)
    band = np.exp(-(np.abs((y - 0.0325 - arch) / half) ** 3)) * np.exp(-(along**8)) * (z > 0.05)
    strands = np.clip(0.85 + 0.3 * noise(rng, 90, across=45), 0, 1.2)
    share = np.clip(band * strands * eyes.brow_density, 0, 0.95) * layout.skin
    return _mix(colour, share.astype(np.float32), eyes.brow)


def _scalp(layout: _Layout, colour: Floats, person: Person, rng: Generator) -> Floats:
    hair = person.hair
    height = scalp_height(layout.place, hair.recede, hair.height)
    edge = 0.003 if hair.style in ("buzz", "horseshoe") else 0.006
    grown = _step(height + np.float32(0.002) * noise(rng, 70), -edge, edge)
    most = {"bald": 0.06, "buzz": 0.80}.get(hair.style, 0.92)
    if hair.style == "horseshoe":
        grown = grown * _step(-layout.place[..., 1], -0.085, -0.07)
    grain = np.clip(0.9 + 0.22 * rng.standard_normal((SIZE, SIZE), np.float32), 0, 1.1)
    share = np.clip(np.float32(most) * grown * grain, 0, 1)
    return _mix(colour, np.asarray(share, np.float32), tuple(hair_colour(hair) * 0.85))


def _paint_eyes(picture: Floats, eyes: Eyes) -> None:
    """Sclera, iris and pupil around both poles, as wide as a texel is."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for centre_u, centre_v in EYE_CENTRES:
        u, v = (columns + 0.5) / SIZE - centre_u, 1 - (rows + 0.5) / SIZE - centre_v
        angle = np.hypot(u, v).astype(np.float32) / np.float32(EYE_EXTENT) * np.float32(np.pi)
        inside = angle < np.pi + 0.3
        soft = np.float32(np.pi / EYE_EXTENT / SIZE)
        eye = np.broadcast_to(np.array([0.80, 0.765, 0.745], np.float32), picture.shape).astype(np.float32)
        eye = _mix(eye, _step(-angle, -eyes.iris_radius - soft / 2, -eyes.iris_radius + soft / 2), eyes.iris)
        eye = _mix(eye, _step(-angle, -0.17 - soft / 2, -0.17 + soft / 2), (0.02, 0.02, 0.02))
        picture[inside] = eye[inside]
