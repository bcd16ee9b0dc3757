"""A plain complexion for the open head: colour of every vertex, by anatomy rather than by photograph."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.head_cut import Head, mask_of_vertices

__all__ = ["Complexion", "paint"]

FloatArray = npt.NDArray[np.float64]

_IRIS_ANGLE: Final = 0.42
_PUPIL_ANGLE: Final = 0.17


@dataclass(frozen=True, kw_only=True, slots=True)
class Complexion:
    """Linear-looking albedo colours, RGB in [0, 1]."""

    skin: tuple[float, float, float] = (0.72, 0.53, 0.44)
    lips: tuple[float, float, float] = (0.66, 0.36, 0.33)
    brows: tuple[float, float, float] = (0.30, 0.21, 0.17)
    sclera: tuple[float, float, float] = (0.80, 0.77, 0.75)
    iris: tuple[float, float, float] = (0.24, 0.17, 0.12)
    teeth: tuple[float, float, float] = (0.80, 0.76, 0.68)
    inside: tuple[float, float, float] = (0.20, 0.07, 0.06)
    tongue: tuple[float, float, float] = (0.55, 0.27, 0.25)


def paint(head: Head, vertices: FloatArray, complexion: Complexion | None = None) -> FloatArray:
    """(V, 3) RGB in [0, 1] for the head with neutral vertices (V, 3)."""
    look = complexion or Complexion()
    colour = np.tile(np.array(look.skin), (len(vertices), 1))
    lips = mask_of_vertices("mpfb2/textures/mpfb_lips.jpg", head)[:, None]
    colour += lips * (np.array(look.lips) - colour)
    colour += brow_mask(head, vertices)[:, None] * (np.array(look.brows) - colour)
    plain = {
        "eye_cavity": look.inside, "mouth_cavity": look.inside, "tongue": look.tongue,
        "teeth_upper": look.teeth, "teeth_lower": look.teeth,
    }  # fmt: skip
    for part, value in plain.items():
        colour[head.part_of_vertex == part] = value
    for part in ("eye_left", "eye_right"):
        members = head.part_of_vertex == part
        local = vertices[members] - vertices[members].mean(axis=0)
        angle = np.arctan2(np.hypot(local[:, 0], local[:, 1]), local[:, 2])
        eye = np.tile(np.array(look.sclera), (int(members.sum()), 1))
        eye[angle < _IRIS_ANGLE] = look.iris
        eye[angle < _PUPIL_ANGLE] = (0.02, 0.02, 0.02)
        colour[members] = eye
    return colour


def brow_mask(head: Head, vertices: FloatArray) -> FloatArray:
    """(V,) in [0, 1]: an arched band above each eye."""
    result = np.zeros(len(vertices))
    for sign, part in ((1.0, "eye_left"), (-1.0, "eye_right")):
        eye = vertices[head.part_of_vertex == part].mean(axis=0)
        across = (vertices[:, 0] - eye[0]) * sign / 0.026
        height = vertices[:, 1] - eye[1] - (0.0215 - 0.0045 * (across - 0.25) ** 2)
        band = np.exp(-((height / 0.0042) ** 4)) * np.exp(-((across / 0.92) ** 8))
        result = np.maximum(result, band)
    result[~head.skin | (vertices[:, 2] < 0.05)] = 0.0
    return result
