"""Who a synthetic person is: shape of the head, skin, eyes, brows, hair, beard, glasses and clothes, as plain numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.open_head import load_open_head
from models.rng import numpy_generator

__all__ = ["HAIR_STYLES", "Beard", "Clothes", "Eyes", "Glasses", "Hair", "Person", "Skin", "person_of"]

RGB = tuple[float, float, float]
Generator = np.random.Generator
FloatArray = npt.NDArray[np.float64]

HAIR_STYLES: Final = (
    "bald", "buzz", "short", "crop", "quiff", "side", "curly", "afro", "bob", "fringe_bob", "long", "long_wavy",
    "long_curly", "bun", "tied", "horseshoe",
)  # fmt: skip
# Shares among people who look male and female; the rest of looks is drawn beside it, so there are mixtures.
_SHARES_M: Final = (10, 11, 17, 12, 10, 13, 9, 4, 1, 0.5, 2, 2, 1, 1.5, 2, 5)
_SHARES_F: Final = (0.7, 1.5, 4, 3, 2, 4, 8, 7, 12, 11, 14, 13, 9, 7, 9, 0)
_TONES: Final = np.array(
    [
        (0.86, 0.71, 0.64), (0.84, 0.67, 0.575), (0.80, 0.61, 0.505), (0.74, 0.545, 0.43), (0.66, 0.465, 0.35),
        (0.565, 0.38, 0.28), (0.47, 0.31, 0.225), (0.38, 0.245, 0.18), (0.305, 0.195, 0.148), (0.25, 0.16, 0.125),
    ]
)  # fmt: skip
_HAIR: Final = np.array(
    [
        (0.055, 0.045, 0.045), (0.10, 0.07, 0.055), (0.17, 0.105, 0.07), (0.26, 0.165, 0.10), (0.38, 0.25, 0.15),
        (0.52, 0.37, 0.22), (0.68, 0.53, 0.33), (0.80, 0.69, 0.49),
    ]
)  # fmt: skip
_RED_HAIR: Final = np.array([(0.33, 0.12, 0.06), (0.50, 0.22, 0.10), (0.62, 0.33, 0.16)])
_DYED: Final = np.array(
    [(0.62, 0.20, 0.38), (0.18, 0.28, 0.52), (0.40, 0.10, 0.12), (0.20, 0.42, 0.38), (0.45, 0.28, 0.55)]
)
_IRISES: Final = np.array(
    [
        (0.13, 0.075, 0.05), (0.22, 0.13, 0.07), (0.33, 0.22, 0.11), (0.38, 0.33, 0.16), (0.30, 0.38, 0.24),
        (0.33, 0.45, 0.50), (0.30, 0.44, 0.60), (0.45, 0.50, 0.53),
    ]
)  # fmt: skip
_CLOTHES: Final = ("crew", "v", "shirt", "suit", "turtleneck", "hood", "wide")


@dataclass(frozen=True, kw_only=True, slots=True)
class Skin:
    """Colours are albedo, RGB in [0, 1]; strengths lie in [0, 1] unless noted."""

    tone: RGB
    redness: float
    freckles: float
    blotches: float
    moles: int
    age: float
    lips: RGB
    lip_strength: float
    blush: float
    eye_shadow: RGB
    eye_shadow_strength: float
    contour: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Eyes:
    iris: RGB
    iris_radius: float
    """Radians seen from the eye's centre."""
    lashes: float
    brow: RGB
    brow_density: float
    brow_thickness: float
    """Times the usual."""
    brow_arch: float
    """−1…1."""
    brow_gap: float
    """Metres moved apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hair:
    style: str
    colour: RGB
    grey: float
    volume: float
    """Times the style's thickness."""
    wave: float
    """Times the style's waviness."""
    parting: float
    """−1 (the picture's left) … 1: where the hair is parted."""
    recede: float
    """0…1: how far the hairline has gone back at the temples."""
    height: float
    """Metres the hairline lies higher than usual."""
    length: float
    """0…1 within the style."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Beard:
    style: str
    """none, stubble, moustache, goatee, short, full."""
    colour: RGB
    density: float
    length: float
    """Metres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Glasses:
    colour: RGB
    half_width: float
    half_height: float
    """Metres of half a lens."""
    squareness: float
    """Exponent of the rim's superellipse, 2 (round) … 5."""
    thickness: float
    """Metres."""
    drop: float
    """Metres that the lens lies lower than the eye's centre."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clothes:
    style: str
    colour: RGB
    second: RGB
    """Of stripes, checks or the shirt under a jacket."""
    pattern: str
    """plain, stripes, pinstripes, checks, dots, melange."""
    scale: float
    shoulders: float
    """Times the usual width."""
    height: float
    """Metres that the shoulders are higher than usual."""
    necklace: bool
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One synthetic person; the same in every scene."""

    seed: int
    number: int
    shape: tuple[float, ...]
    """Identity coefficients of the open head, standard deviations."""
    skin: Skin
    eyes: Eyes
    hair: Hair
    beard: Beard
    glasses: Glasses | None
    clothes: Clothes

    @property
    def name(self) -> str:
        """What rows of this person share: portrait-SEED-NUMBER."""
        return f"portrait-{self.seed}-{self.number}"


def person_of(seed: int, number: int) -> Person:
    """The person `number` (from 0) of the population `seed`; each is drawn for itself, so a list can be cut anywhere.

    Raises:
        ValueError: a negative number.
    """
    if number < 0:
        raise ValueError(f"people are numbered from 0, not {number}")
    rng = numpy_generator("portraits", seed, number, "person")
    male = float(rng.beta(0.3, 0.3))
    age = float(rng.beta(1.2, 2.0))
    ancestry = rng.dirichlet([0.45, 0.45, 0.45])
    # Skin goes along with ancestry, loosely: every mixture exists.
    melanin = float(np.clip(ancestry @ np.array([0.78, 0.32, 0.17]) + rng.normal(0, 0.13), 0, 1))
    shape = _shape(rng, male, age, ancestry)
    hair = _hair(rng, male, age, melanin)
    return Person(
        seed=seed,
        number=number,
        shape=tuple(round(float(value), 4) for value in shape),
        skin=_skin(rng, male, age, melanin),
        eyes=_eyes(rng, male, hair, melanin),
        hair=hair,
        beard=_beard(rng, male, hair),
        glasses=_glasses(rng) if rng.random() < 0.2 + 0.15 * age else None,
        clothes=_clothes(rng, male),
    )


@cache
def _traits() -> dict[str, FloatArray]:
    """Trait → identity coefficients from its low to its high end (models/portraits/build_traits.py)."""
    stored = json.loads((Path(__file__).parent / "data" / "traits.json").read_text(encoding="utf-8"))
    return {name: np.array(codes) for name, codes in stored["traits"].items()}


def _shape(rng: Generator, male: float, age: float, ancestry: FloatArray) -> FloatArray:
    traits = _traits()
    axes = load_open_head().model.shape_basis.shape[2]
    shape = np.asarray(rng.normal(0, 1.05, axes))
    shape += 1.15 * (male - 0.5) * traits["male"] + 0.75 * (age - 0.25) * traits["old"]
    for share, name in zip(ancestry - 1 / 3, ("african", "asian", "caucasian"), strict=True):
        shape += 0.95 * share * traits[name]
    shape += float(rng.normal(0, 1.0)) * traits["heavy"] + float(rng.normal(0, 0.5)) * traits["strong"]
    return np.asarray(np.clip(shape, -3.2, 3.2))


def _rgb(colour: FloatArray) -> RGB:
    red, green, blue = (round(float(value), 4) for value in np.clip(colour, 0.0, 1.0))
    return red, green, blue


def _along(palette: FloatArray, share: float) -> FloatArray:
    place = np.clip(share, 0, 1) * (len(palette) - 1)
    low = min(int(place), len(palette) - 2)
    return np.asarray(palette[low] + (place - low) * (palette[low + 1] - palette[low]))


def _skin(rng: Generator, male: float, age: float, melanin: float) -> Skin:
    warmth = rng.normal(0, 1)
    tone = _along(_TONES, melanin) * rng.uniform(0.94, 1.05) * (1 + 0.035 * warmth * np.array([0.5, 0.0, -1.2]))
    natural = tone * np.array([0.90, 0.60, 0.62]) * rng.uniform(0.9, 1.08)
    painted = male < 0.45 and rng.random() < 0.6
    stick = np.array(
        [(0.62, 0.10, 0.14), (0.72, 0.25, 0.30), (0.48, 0.10, 0.20), (0.75, 0.35, 0.33), (0.55, 0.22, 0.20)]
    )
    lips = 0.35 * natural + 0.65 * stick[rng.integers(len(stick))] * rng.uniform(0.85, 1.1) if painted else natural
    shadow = np.array([(0.30, 0.20, 0.18), (0.35, 0.25, 0.35), (0.25, 0.30, 0.35), (0.45, 0.28, 0.20)])
    return Skin(
        tone=_rgb(tone),
        redness=round(float(rng.beta(2, 3)) * (1.0 - 0.5 * melanin), 3),
        freckles=round(float(rng.random() < 0.22) * float(rng.uniform(0.3, 1.0)) * (1.0 - melanin) ** 0.6, 3),
        blotches=round(float(rng.uniform(0.2, 1.0)), 3),
        moles=int(rng.poisson(1.6)),
        age=round(age, 3),
        lips=_rgb(lips),
        lip_strength=round(float(rng.uniform(0.8, 1.0) if painted else rng.uniform(0.45, 0.8)), 3),
        blush=round(float(rng.uniform(0.3, 1.0) if painted else 0.0), 3),
        eye_shadow=_rgb(shadow[rng.integers(len(shadow))]),
        eye_shadow_strength=round(float(rng.uniform(0.15, 0.5)) * painted, 3),
        contour=round(float(rng.uniform(0.2, 1.0)), 3),
        seed=int(rng.integers(2**31)),
    )


def _hair(rng: Generator, male: float, age: float, melanin: float) -> Hair:
    shares = male * np.array(_SHARES_M) + (1 - male) * np.array(_SHARES_F)
    style = HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=shares / shares.sum()))]
    if melanin > 0.72 and style in ("long", "bob", "fringe_bob", "side") and rng.random() < 0.6:
        style = str(rng.choice(["afro", "buzz", "long_curly", "curly", "tied", "bun"]))
    fair = rng.beta(1.2, 1.6) * (1.0 - 0.9 * np.clip((melanin - 0.15) / 0.45, 0, 1))
    colour = _along(_HAIR, fair)
    dice = rng.random()
    if dice < 0.10 and melanin < 0.45:
        colour = _along(_RED_HAIR, rng.random())
    elif dice > 0.965:
        colour = _DYED[rng.integers(len(_DYED))]
    grey = float(np.clip((age - 0.45) * 2.2 + rng.normal(0, 0.25), 0, 1)) * float(rng.random() < 0.75)
    recede = float(np.clip(rng.beta(1.2, 3) + 0.4 * (age - 0.4), 0, 1)) * male
    return Hair(
        style=style,
        colour=_rgb(colour * rng.uniform(0.85, 1.15)),
        grey=round(grey, 3),
        volume=round(float(rng.uniform(0.7, 1.4)), 3),
        wave=round(float(rng.uniform(0.4, 1.6)), 3),
        parting=round(float(rng.choice([-1, 1]) * rng.uniform(0.0, 1.0)), 3),
        recede=round(recede, 3),
        height=round(float(rng.normal(0.0, 0.005)), 4),
        length=round(float(rng.random()), 3),
        seed=int(rng.integers(2**31)),
    )


def hair_colour(hair: Hair) -> FloatArray:
    """(3,) the colour with its share of grey."""
    colour = np.array(hair.colour)
    return np.asarray(colour + 0.9 * hair.grey * (np.array([0.62, 0.61, 0.60]) - colour))


def _eyes(rng: Generator, male: float, hair: Hair, melanin: float) -> Eyes:
    share = rng.beta(1.1, 1.3) * (1.0 - 0.85 * np.clip((melanin - 0.2) / 0.4, 0, 1))
    brow = np.minimum(hair_colour(hair) * rng.uniform(0.6, 0.95), 0.42)
    return Eyes(
        iris=_rgb(_along(_IRISES, share) * rng.uniform(0.85, 1.15)),
        iris_radius=round(float(rng.uniform(0.40, 0.46)), 4),
        lashes=round(float(rng.uniform(0.2, 0.5) if male > 0.5 else rng.uniform(0.5, 1.0)), 3),
        brow=_rgb(brow),
        brow_density=round(float(rng.uniform(0.55, 1.0)), 3),
        brow_thickness=round(float(rng.uniform(0.65, 1.15) + 0.35 * male * rng.random()), 3),
        brow_arch=round(float(rng.uniform(-1, 1)), 3),
        brow_gap=round(float(rng.uniform(-0.003, 0.004)), 4),
    )


def _beard(rng: Generator, male: float, hair: Hair) -> Beard:
    style = "none"
    if male > 0.5 and rng.random() < 0.68:
        styles = ("stubble", "moustache", "goatee", "short", "full")
        style = str(rng.choice(styles, p=[0.36, 0.12, 0.14, 0.22, 0.16]))
    colour = hair_colour(hair) * rng.uniform(0.7, 1.0)
    length = {"full": rng.uniform(0.008, 0.020), "short": rng.uniform(0.003, 0.007)}.get(
        style, rng.uniform(0.002, 0.005)
    )
    return Beard(
        style=style,
        colour=_rgb(np.minimum(colour, 0.6)),
        density=round(float(rng.uniform(0.7, 1.0)), 3),
        length=round(float(length), 4),
    )


def _glasses(rng: Generator) -> Glasses:
    colours = np.array(
        [
            (0.04, 0.04, 0.04),
            (0.20, 0.10, 0.05),
            (0.55, 0.45, 0.25),
            (0.55, 0.56, 0.58),
            (0.45, 0.08, 0.10),
            (0.12, 0.18, 0.35),
        ]
    )
    return Glasses(
        colour=_rgb(
            colours[int(rng.choice(len(colours), p=[0.36, 0.2, 0.12, 0.16, 0.08, 0.08]))] * rng.uniform(0.8, 1.2)
        ),
        half_width=round(float(rng.uniform(0.0225, 0.028)), 4),
        half_height=round(float(rng.uniform(0.016, 0.023)), 4),
        squareness=round(float(rng.choice([2.0, 2.4, 3.2, 4.5])), 2),
        thickness=round(float(rng.choice([0.0011, 0.0016, 0.0024])), 4),
        drop=round(float(rng.uniform(0.001, 0.005)), 4),
    )


def _clothes(rng: Generator, male: float) -> Clothes:
    shares = np.array([24, 14, 18, 4 + 16 * male, 10, 12, 18 * (1 - male)])
    style = _CLOTHES[int(rng.choice(len(_CLOTHES), p=shares / shares.sum()))]

    def colour() -> FloatArray:
        hue, saturation, value = rng.random(), rng.beta(1.5, 1.8) * 0.85, rng.uniform(0.06, 0.92)
        wheel = np.clip(np.abs(np.mod(hue * 6 + np.array([0.0, 4.0, 2.0]), 6) - 3) - 1, 0, 1)
        return np.asarray(value * (1 - saturation * (1 - wheel)))

    first, second = colour(), colour()
    if style == "suit":
        first, second = first * 0.25 + 0.03, 0.75 + 0.2 * colour()
    pattern = str(
        rng.choice(
            ["plain", "stripes", "pinstripes", "checks", "dots", "melange"], p=[0.42, 0.16, 0.1, 0.12, 0.08, 0.12]
        )
    )
    return Clothes(
        style=style,
        colour=_rgb(first),
        second=_rgb(second),
        pattern=pattern,
        scale=round(float(rng.uniform(0.6, 1.6)), 3),
        shoulders=round(float(rng.uniform(0.88, 1.0) + 0.1 * male), 3),
        height=round(float(rng.uniform(-0.012, 0.016)), 4),
        necklace=bool(male < 0.5 and style in ("v", "wide", "crew") and rng.random() < 0.3),
        seed=int(rng.integers(2**31)),
    )
