"""A person in a scene as a picture, with the parameters and maps that are exactly true of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.face3d.maps import ConditionMaps
from models.face3d.morphable import pose_vertices
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.render import picture_ndc, render_maps
from models.face3d.rotations import axis_angle_matrix
from models.face3d.scanline import scan
from models.face3d.shading import weighted_light
from models.face3d.skinning import vertex_normals
from models.portraits.backgrounds import background
from models.portraits.clothes import NECK
from models.portraits.figure import Figure, figure_of, incoming
from models.portraits.painting import paint_pixels
from models.portraits.people import Person
from models.portraits.scenes import Scene, scene_parameters
from models.rng import numpy_generator

__all__ = ["GENERATOR_DIGEST", "GENERATOR_VERSION", "Portrait", "render_portrait"]

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

GENERATOR_VERSION: Final = 3
"""Rises whenever the picture of some person in some scene changes."""
_FINE: Final = 2
"""Fine pixels a pixel, each way."""
_SHOULDER: Final = 0.72
"""Brightness from which highlights are rolled off."""


@cache
def _generator_digest() -> str:
    text = f"portraits {GENERATOR_VERSION} {load_open_head().model.digest}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


GENERATOR_DIGEST: Final = _generator_digest()
"""16 hex digits that change with the look of portraits and with the head."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Portrait:
    """One picture and the truth about it."""

    image: npt.NDArray[np.uint8]
    """(S, S, 3) RGB."""
    parameters: FaceParameters
    """Of the model "open", with the person's albedo picture."""
    head: npt.NDArray[np.bool_]
    """(S, S) pixels of head, neck, hair, beard and glasses."""
    face: npt.NDArray[np.bool_]
    """(S, S) pixels of the bare face."""

    def maps(self, size: int | None = None) -> ConditionMaps:
        """The condition maps of these parameters; `size` pixels a side, by default the picture's."""
        return render_maps(load_open_head().model, self.parameters, size or self.image.shape[0])


def render_portrait(person: Person, scene: Scene, *, size: int = 256) -> Portrait:
    """Render a person in a scene; equal arguments give equal bytes.

    Raises:
        ValueError: a size below 16.
    """
    if size < 16:
        raise ValueError(f"a portrait has at least 16 pixels a side, not {size}")
    figure = figure_of(person)
    parameters = scene_parameters(person, scene, figure.albedo)
    vertices = _placed(figure, parameters, scene)
    picture, head, face = _painted(figure, person, parameters, vertices, scene, size)
    image = _camera(picture, scene, size)
    return Portrait(image=image, parameters=parameters, head=head > 0.5, face=face > 0.5)


def _placed(figure: Figure, parameters: FaceParameters, scene: Scene) -> Floats:
    """(V, 3) world positions of everything."""
    model = load_open_head().model
    skin = pose_vertices(model, [parameters])[0]
    rotation = axis_angle_matrix(parameters.pose[None, :3])[0]
    parts = [skin]
    if len(figure.whiskers):
        normals = vertex_normals(skin, model.faces)
        parts.append(skin[figure.whiskers] + normals[figure.whiskers] * figure.whisker_length[:, None])
    parts.append(figure.frame @ rotation.T + parameters.shift)
    body = np.radians(scene.body)
    cosine, sine = np.cos(body), np.sin(body)
    turn = np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    neck = rotation @ NECK + parameters.shift
    parts.append((figure.clothes - NECK) @ turn.T + neck)
    parts.append(figure.hair @ rotation.T + parameters.shift)
    return np.concatenate(parts).astype(np.float32)


def _painted(
    figure: Figure, person: Person, parameters: FaceParameters, vertices: Floats, scene: Scene, size: int
) -> tuple[Floats, Floats, Floats]:
    model = load_open_head().model
    rotation = axis_angle_matrix(parameters.pose[None, :3])[0]
    ndc = picture_ndc(model, parameters, vertices)
    solid = len(figure.faces) - figure.hair_faces
    face, depth = _scanned(ndc, figure.faces[:solid], size)
    hair, hair_depth = _scanned(ndc, figure.faces[solid:], size)
    lens, lens_depth = np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)
    if figure.lenses is not None:
        placed = (figure.lenses.vertices @ rotation.T + parameters.shift).astype(np.float32)
        lens, lens_depth = _scanned(picture_ndc(model, parameters, placed), figure.lenses.faces, size)
    behind = background(scene.background, numpy_generator("portraits", scene.seed, "background"), size)
    towards = np.asarray(parameters.light, np.float64)[1:4].mean(axis=1)
    strength = float(np.linalg.norm(towards))
    key = towards / max(strength, 1e-6) + np.array([0.0, 0.0, 1.0])
    key_colour = np.maximum(parameters.light[0] * 0.28, 0) * min(strength, 1.5)
    out, head, front = (
        np.zeros((size, size, 3), np.float32),
        np.zeros((size, size), np.float32),
        np.zeros((size, size), np.float32),
    )
    paint_pixels(
        face, depth, hair, hair_depth, lens, lens_depth, ndc, figure.faces, solid, figure.loose,
        vertex_normals(vertices, figure.faces), _received(figure, parameters, rotation), figure.corner_uvs, figure.material,
        _facial_faces(), figure.albedo, figure.atlas, weighted_light(parameters.light),
        (key / max(float(np.linalg.norm(key)), 1e-6)).astype(np.float32), key_colour.astype(np.float32),
        np.array(person.eyes.iris, np.float32), person.eyes.iris_radius, behind, _FINE, out, head, front,
    )  # fmt: skip
    return out, head, front


def _scanned(ndc: Floats, faces: npt.NDArray[np.int32], size: int) -> tuple[npt.NDArray[np.int32], Floats]:
    side = size * _FINE
    face, depth = np.empty((side, side), np.int32), np.empty((side, side), np.float32)
    scan(ndc, faces, face, depth)
    return face, depth


def _received(figure: Figure, parameters: FaceParameters, rotation: Doubles) -> Floats:
    """(V, 3) share of the light that reaches each vertex past everything else."""
    light = incoming(parameters.light, rotation)
    whole = figure.whole @ light
    floor = np.float32(0.10) * whole.mean(axis=0)
    share = (figure.open @ light + floor) / (whole + floor)
    head = load_open_head()
    inside = np.isin(head.part_of_vertex, ("teeth_upper", "teeth_lower", "tongue"))
    share[: len(inside)][inside] = 0.8
    share[: len(inside)][head.part_of_vertex == "mouth_cavity"] = 0.45
    share[: len(inside)] = np.maximum(share[: len(inside)], figure.scalp[:, None])
    return np.asarray(np.clip(share, 0.0, 1.0), np.float32)


@cache
def _facial_faces() -> npt.NDArray[np.bool_]:
    """(F of the head,) triangles of the face: forehead to chin, before the ears."""
    head = load_open_head()
    model = head.model
    place = model.template[model.faces].mean(axis=1)
    side, y, z = np.abs(place[:, 0]), place[:, 1], place[:, 2]
    return np.asarray((z > 0.036) & (y > -0.078) & (y < 0.096) & (side < 0.072))


def _camera(picture: Floats, scene: Scene, size: int) -> npt.NDArray[np.uint8]:
    """Vignette, softness and noise."""
    if scene.vignette:
        y, x = np.mgrid[:size, :size].astype(np.float32) / (size - 1) - np.float32(0.5)
        picture = picture * (1 - np.float32(2 * scene.vignette) * (x * x + y * y))[..., None]
    sigma = scene.blur * size / 256
    if sigma > 0.15:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)
    grain = numpy_generator("portraits", scene.grain, "noise").standard_normal(picture.shape, np.float32)
    # Highlights are rolled off, as film and cameras do.
    bright = np.maximum(picture - np.float32(_SHOULDER), 0)
    room = np.float32(1 - _SHOULDER)
    picture = np.minimum(picture, np.float32(_SHOULDER)) + room * np.tanh(bright / room)
    return np.asarray(np.clip(picture * 255 + grain * np.float32(scene.noise) + 0.5, 0, 255), np.uint8)
