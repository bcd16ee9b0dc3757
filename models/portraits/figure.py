"""Everything of a person that is rendered, built once: meshes at rest, textures and what shades what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from models.face3d.lighting import sh_basis
from models.face3d.morphable import pose_vertices
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.scanline import scan
from models.face3d.skinning import vertex_normals
from models.portraits.clothes import clothes_surface, clothes_texture
from models.portraits.glasses import glasses_frame, glasses_lenses
from models.portraits.hair import HANGING, hair_surfaces, hair_texture
from models.portraits.people import Person
from models.portraits.skin import albedo_of, beard_density, noise, scalp_height
from models.portraits.surface import Surface

__all__ = ["CLOTH", "EYE", "FRAME", "HAIR", "MOUTH", "SKIN", "WHISKERS", "Figure", "figure_of", "incoming"]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]

SKIN, EYE, MOUTH, HAIR, WHISKERS, CLOTH, FRAME = range(7)
"""Materials."""
_ATLAS: Final = 512
# Rows of the atlas beside the head's own picture: hair, whiskers, cloth, frame.
_ROWS: Final = {HAIR: (0, 128), WHISKERS: (128, 256), CLOTH: (256, 500), FRAME: (500, 512)}
_MIDDLE: Final = np.array([0.0, 0.03, 0.0], np.float32)
_REACH: Final = 0.24
"""Metres around the middle of the head within which things shade each other."""
_DEPTH_SIDE: Final = 112


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A person ready to be posed. Vertices and triangles are the head's, then those of whiskers, frame, clothes, hair."""

    albedo: Bytes
    atlas: Bytes
    """(512, 512, 4) the other textures; the last channel is opacity."""
    faces: Ints
    """(F, 3)."""
    material: npt.NDArray[np.uint8]
    """(F,)."""
    corner_uvs: Floats
    """(F, 3, 2): v up in the head's picture, v down in the atlas."""
    whiskers: Ints
    """(W,) head vertices that carry whiskers."""
    whisker_length: Floats
    """(W,) metres."""
    frame: Floats
    """(G, 3) in the head's frame."""
    clothes: Floats
    """(C, 3)."""
    hair: Floats
    """(H, 3) in the head's frame."""
    scalp: Floats
    """(V of the head,) least share of light that arrives under hair: strands let it through, a surface would not."""
    hair_faces: int
    """Triangles that are hair: the last ones."""
    loose: bool
    """Whether hair hangs, so that what is behind the head shows between its ends."""
    lenses: Surface | None
    open: Floats
    """(V, D) how much of each direction's light arrives at each vertex at rest, cosine included."""
    whole: Floats
    """(V, D) the same if nothing stood in the way."""


@lru_cache(maxsize=6)
def figure_of(person: Person) -> Figure:
    """The figure of a person; the last few are kept, since pictures of one person follow each other."""
    head = load_open_head()
    model = head.model
    rest = pose_vertices(model, [neutral_parameters(person)])[0]
    beard = _whisker_faces(person)
    carried = np.unique(beard)
    length = _whisker_length(person, carried)
    frame = [glasses_frame(person.glasses, rest)] if person.glasses else []
    hair = hair_surfaces(person.hair, rest)
    parts = [(FRAME, one) for one in frame] + [(CLOTH, clothes_surface(person.clothes))] + [(HAIR, one) for one in hair]
    faces, uvs = [model.faces, _renumbered(beard, carried, len(rest))], [model.corner_uvs, _whisker_uvs(beard)]
    materials = [_head_material(), np.full(len(beard), WHISKERS, np.uint8)]
    count = len(rest) + len(carried)
    for material, surface in parts:
        faces.append(surface.faces + count)
        materials.append(np.full(len(surface.faces), material, np.uint8))
        uvs.append(_in_atlas(surface.corner_uvs, material))
        count += len(surface.vertices)
    normals = vertex_normals(rest, model.faces)
    grown = rest[carried] + normals[carried] * length[:, None]
    points = np.concatenate([rest, grown, *(one.vertices for _, one in parts)]).astype(np.float32)
    all_faces = np.ascontiguousarray(np.concatenate(faces), np.int32)
    opened, free = _arriving(points, all_faces)

    def of(material: int) -> Floats:
        found = [one.vertices for kind, one in parts if kind == material]
        return np.concatenate([np.empty((0, 3)), *found]).astype(np.float32)

    return Figure(
        albedo=albedo_of(person),
        atlas=_atlas(person),
        faces=all_faces,
        material=np.concatenate(materials),
        corner_uvs=np.ascontiguousarray(np.concatenate(uvs), np.float32),
        whiskers=carried,
        whisker_length=length,
        frame=of(FRAME),
        clothes=of(CLOTH),
        hair=of(HAIR),
        scalp=_lit_scalp(person),
        hair_faces=sum(len(one.faces) for one in hair),
        loose=person.hair.style in HANGING,
        lenses=glasses_lenses(person.glasses, rest) if person.glasses else None,
        open=opened,
        whole=free,
    )


def _lit_scalp(person: Person) -> Floats:
    height = scalp_height(load_open_head().model.template, person.hair.recede, person.hair.height)
    return np.asarray(0.5 * np.clip((height + 0.006) / 0.012, 0, 1), np.float32)


def _whisker_length(person: Person, carried: Ints) -> Floats:
    """(W,) metres; slightly below the skin at the beard's edge, so that it ends in the skin."""
    beard = person.beard
    density = beard_density(load_open_head().model.template[carried], "full" if beard.style == "short" else beard.style)
    return np.asarray(beard.length * np.clip(density * 1.15, 0, 1) ** 1.3 - 0.0007, np.float32)


def neutral_parameters(person: Person) -> FaceParameters:
    """The person's head on, without expression."""
    model = load_open_head().model
    bare = FaceParameters.neutral(model.name, shape=len(person.shape), expression=len(model.expression_names))
    return bare.replaced(shape=np.array(person.shape))


def _head_material() -> npt.NDArray[np.uint8]:
    head = load_open_head()
    part = head.part_of_vertex[head.model.faces[:, 0]]
    material = np.full(len(part), MOUTH, np.uint8)
    material[np.isin(part, ("skin", "neck", "eye_cavity"))] = SKIN
    material[np.isin(part, ("eye_left", "eye_right"))] = EYE
    return material


def _whisker_faces(person: Person) -> Ints:
    """(B, 3) triangles of the head that a beard with a body covers."""
    model = load_open_head().model
    if person.beard.style in ("none", "stubble"):
        return np.empty((0, 3), np.int32)
    density = beard_density(model.template, "full" if person.beard.style == "short" else person.beard.style)
    skin = np.isin(load_open_head().part_of_vertex, ("skin", "neck"))
    chosen = ((density > 0.02) & skin)[model.faces].all(axis=1)
    return np.ascontiguousarray(model.faces[chosen])


def _renumbered(faces: Ints, carried: Ints, start: int) -> Ints:
    return (np.searchsorted(carried, faces) + start).astype(np.int32)


def _whisker_uvs(faces: Ints) -> Floats:
    place = load_open_head().model.template[faces]
    uv = np.stack([0.5 + place[..., 0] / 0.18, 0.5 - (place[..., 1] + 0.04) / 0.16], axis=-1)
    return _in_atlas(np.clip(uv, 0, 1), WHISKERS)


def _in_atlas(uvs: Doubles | Floats, material: int) -> Floats:
    low, high = _ROWS[material]
    v = (low + 1 + uvs[..., 1] * (high - low - 2)) / _ATLAS
    return np.asarray(np.stack([uvs[..., 0], v], axis=-1), np.float32)


def _atlas(person: Person) -> Bytes:
    atlas = np.ones((_ATLAS, _ATLAS, 4), np.float32)
    atlas[:128] = hair_texture(person.hair, 128, _ATLAS)
    rng = np.random.default_rng(person.hair.seed + 2)
    whiskers = np.array(person.beard.colour, np.float32)
    atlas[128:256, :, :3] = (
        whiskers * np.clip(1 + 0.3 * noise(rng, 40, across=200, size=128, width=_ATLAS), 0.3, 1.9)[..., None]
    )
    low, high = _ROWS[CLOTH]
    cloth = clothes_texture(person.clothes, person.skin, _ATLAS // 2)
    rows = np.linspace(0, len(cloth) - 1, high - low).round().astype(int)
    atlas[low:high, :, :3] = np.repeat(cloth[rows], 2, axis=1)
    if person.glasses:
        atlas[_ROWS[FRAME][0] :, :, :3] = np.array(person.glasses.colour, np.float32)
    return np.asarray(np.clip(atlas * 255 + 0.5, 0, 255), np.uint8)


# -- what shades what ----------------------------------------------------------------------------------------


def _directions(count: int) -> Doubles:
    """(count, 3) directions all around, evenly."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    turn = np.pi * (1 + 5**0.5) * index
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(turn), height, flat * np.sin(turn)], axis=-1)


DIRECTIONS: Final = _directions(44)


def incoming(light: Floats, rotation: Doubles) -> Floats:
    """(D, 3) radiance, ≥ 0, of the light (9, 3) from the directions of a head turned by `rotation` (3, 3)."""
    lobe = np.repeat([np.pi, 2 * np.pi / 3, np.pi / 4], [1, 3, 5])
    basis = sh_basis(DIRECTIONS @ rotation.T) / lobe
    return np.asarray(np.maximum(basis @ np.asarray(light, np.float64), 0.0), np.float32)


@numba.njit(cache=True, nogil=True)
def _seen(ndc: Floats, depth: Floats, bias: float, out: Floats) -> None:
    """Share of four texels around each vertex that do not shade it."""
    side = depth.shape[0]
    for v in range(ndc.shape[0]):
        x = (ndc[v, 0] + 1) * side * 0.5 - 0.5
        y = (ndc[v, 1] + 1) * side * 0.5 - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        total = np.float32(0.0)
        for i in range(2):
            for j in range(2):
                a, b = top + i, left + j
                weight = (y - top if i else 1 - (y - top)) * (x - left if j else 1 - (x - left))
                if a < 0 or b < 0 or a >= side or b >= side or ndc[v, 2] <= depth[a, b] + bias:
                    total += np.float32(weight)
        out[v] = total


def _arriving(points: Floats, faces: Ints) -> tuple[Floats, Floats]:
    """(V, D) cosines times visibility, and cosines, for all directions; the mouth's inside is left open."""
    normals = vertex_normals(np.asarray(points, np.float32), faces)
    free = np.maximum(normals @ DIRECTIONS.T.astype(np.float32), 0)
    opened = np.empty_like(free)
    moved = (points + normals * 0.0025 - _MIDDLE) / np.float32(_REACH)
    face, depth = np.empty((_DEPTH_SIDE, _DEPTH_SIDE), np.int32), np.empty((_DEPTH_SIDE, _DEPTH_SIDE), np.float32)
    share = np.empty(len(points), np.float32)
    for number, direction in enumerate(DIRECTIONS):
        helper = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
        right = np.cross(helper, direction)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(direction, right), -direction]).astype(np.float32)
        ndc = np.ascontiguousarray(moved @ axes.T, np.float32)
        scan(ndc, faces, face, depth)
        _seen(ndc, depth, 0.0045 / _REACH, share)
        opened[:, number] = share * free[:, number]
    return opened, free
