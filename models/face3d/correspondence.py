"""Where the 468 points of MediaPipe's mesh lie on the open head: rendered heads are shown to the mesh
network and its
points are lifted back to the surface they fell on."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.landmarks import FaceLandmarker
from models.face3d.lighting import light_preset
from models.face3d.mesh_topology import LIPS_INNER, LIPS_OUTER
from models.face3d.morphable import LandmarkSet, MorphableModel, pose_vertices
from models.face3d.parameters import FaceParameters
from models.face3d.rasterize import rasterize
from models.face3d.render import picture_ndc, render_maps
from models.face3d.texture import TextureSpace

__all__ = ["lift_landmarks", "nearest_on_surface"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_RENDERS: Final = 48
_SIZE: Final = 512
# The lower lip is where jawOpen moves a point further than this, the upper lip where less (metres).
LOWER_LIP: Final = 0.012
UPPER_LIP: Final = 0.010
UPPER_INNER: Final = (415, 310, 311, 312, 13, 82, 81, 80, 191)
LOWER_INNER: Final = (95, 88, 178, 87, 14, 317, 402, 318, 324)
UPPER_OUTER: Final = (409, 270, 269, 267, 0, 37, 39, 40, 185)
LOWER_OUTER: Final = (146, 91, 181, 84, 17, 314, 405, 321, 375)


def sample_face(model: MorphableModel, rng: np.random.Generator, number: int) -> FaceParameters:
    """A random head for the lift: moderate identity, yaw ± 0.4 rad, every second mouth open."""
    names = model.expression_names
    shape = np.clip(rng.normal(0, 0.6, model.shape_basis.shape[2]), -1.5, 1.5).astype(np.float32)
    expression = np.zeros(len(names), np.float32)
    if number % 2:
        expression[names.index("jawOpen")] = rng.uniform(0.15, 0.6)
    smile = rng.uniform(0, 0.5)
    expression[names.index("mouthSmileLeft")] = expression[names.index("mouthSmileRight")] = smile
    pose = np.zeros(6, np.float32)
    pose[:3] = rng.uniform([-0.25, -0.4, -0.1], [0.25, 0.4, 0.1])
    light = light_preset(("front", "above", "left", "right")[number % 4]).astype(np.float32)
    return FaceParameters.neutral(model.name, shape=len(shape), expression=len(expression)).replaced(
        shape=shape, expression=expression, pose=pose, light=light, camera=np.array([6.0, 0, 0], np.float32)
    )


def lift_landmarks(
    model: MorphableModel,
    skin: npt.NDArray[np.bool_],
    mirror: IntArray,
    mesh_mirror: IntArray,
    textures: list[npt.NDArray[np.uint8]],
    progress: Callable[[str], None],
) -> tuple[FloatArray, FloatArray]:
    """Neutral positions (468, 3) of the mesh points in metres and their spread (468,) over the renders.

    Args:
        skin: (F,) triangles of the skin.
        mirror: (V,) mirror image of each vertex.
        mesh_mirror: (468,) mirror image of each mesh point.
        textures: painted UV pictures, used in turn.
    """
    landmarker, rng = FaceLandmarker(), np.random.default_rng(5)
    names = model.expression_names
    jaw = np.linalg.norm(model.expression_basis[..., names.index("jawOpen")], axis=1)
    seen: list[list[FloatArray]] = [[] for _ in range(468)]
    for number in range(_RENDERS):
        parameters = sample_face(model, rng, number)
        parameters = parameters.replaced(albedo=textures[number % len(textures)])
        picture = render_maps(model, parameters, _SIZE).render
        picture = np.where(picture.sum(axis=-1, keepdims=True) > 0, picture, 0.55)
        faces = landmarker.detect((np.clip(picture, 0, 1) * 255).astype(np.uint8))
        if not faces:
            progress(f"render {number}: no face found")
            continue
        vertices = pose_vertices(model, [parameters])[0]
        fragments = rasterize(picture_ndc(model, parameters, vertices), model.faces, _SIZE, _SIZE)
        opened = float(parameters.expression[names.index("jawOpen")]) > 0.25
        _collect(model, skin, jaw, faces[0].mesh, fragments.face, fragments.barycentric, opened, seen)
    centres, spread = np.zeros((468, 3)), np.zeros(468)
    for point in range(468):
        cloud = np.array(seen[point])
        twin = np.array(seen[mesh_mirror[point]])
        both = np.concatenate([cloud.reshape(-1, 3), twin.reshape(-1, 3) * [-1, 1, 1]])
        if not len(both):
            raise ValueError(f"mesh point {point} was never seen on the skin")
        centres[point] = geometric_median(both)
        spread[point] = np.median(np.linalg.norm(both - centres[point], axis=1))
    progress(f"spread: median {np.median(spread) * 100:.3f} cm, 90 % {np.quantile(spread, 0.9) * 100:.3f} cm")
    return centres, spread


def _collect(
    model: MorphableModel, skin: npt.NDArray[np.bool_], jaw: npt.NDArray[np.float32], mesh:
        npt.NDArray[np.float32],
    triangle: npt.NDArray[np.int32], barycentric: npt.NDArray[np.float32], opened: bool, seen:
        list[list[FloatArray]],
) -> None:  # fmt: skip
    """Add the neutral position under each mesh point, where the right part of the skin lies under or
    near it."""
    height, width = triangle.shape
    on_skin = (triangle >= 0) & skin[np.maximum(triangle, 0)]
    lifted = jaw[model.faces[np.maximum(triangle, 0)]]
    moved = (lifted * barycentric).sum(axis=-1)
    allowed = dict.fromkeys(UPPER_INNER + UPPER_OUTER, on_skin & (moved < UPPER_LIP))
    allowed |= dict.fromkeys(LOWER_INNER + LOWER_OUTER, on_skin & (moved > LOWER_LIP))
    inner = set(LIPS_INNER)
    for point in range(468):
        if point in inner and not opened:
            continue
        x, y = mesh[point, 0], mesh[point, 1]
        where = allowed.get(point, on_skin)
        reach = 14 if point in inner or point in LIPS_OUTER else 4
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        window = where[top : int(y) + reach + 1, left : int(x) + reach + 1]
        rows, columns = np.nonzero(window)
        if not len(rows):
            continue
        distance = np.hypot(columns + left + 0.5 - x, rows + top + 0.5 - y)
        nearest = int(distance.argmin())
        if distance[nearest] > reach:
            continue
        row, column = rows[nearest] + top, columns[nearest] + left
        assert row < height
        assert column < width
        corners = model.template[model.faces[triangle[row, column]]]
        seen[point].append((corners * barycentric[row, column][:, None]).sum(axis=0).astype(np.float64))


def geometric_median(points: FloatArray, rounds: int = 30) -> FloatArray:
    """(N, 3) → (3,) by Weiszfeld's iteration."""
    centre = np.median(points, axis=0)
    for _ in range(rounds):
        weights = 1 / np.maximum(np.linalg.norm(points - centre, axis=1), 1e-6)
        centre = (points * weights[:, None]).sum(axis=0) / weights.sum()
    return np.asarray(centre)


def nearest_on_surface(
    points: FloatArray, vertices: FloatArray, faces: IntArray, allowed: npt.NDArray[np.bool_] | None = None
) -> LandmarkSet:
    """The surface points nearest to (N, 3) points, on triangles (F,) that are allowed (all by default)."""
    chosen = np.arange(len(faces)) if allowed is None else np.flatnonzero(allowed)
    corners = vertices[faces[chosen]]
    centres = corners.mean(axis=1)
    found = np.zeros(len(points), np.int32)
    weights = np.zeros((len(points), 3), np.float32)
    for number, point in enumerate(points):
        near = np.argpartition(((centres - point) ** 2).sum(-1), min(60, len(chosen) - 1))[:60]
        barycentric, distance = _closest(point, corners[near])
        best = int(distance.argmin())
        found[number], weights[number] = chosen[near[best]], barycentric[best]
    return LandmarkSet(faces=found, barycentric=weights)


def _closest(point: FloatArray, corners: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Barycentric weights (T, 3) and distance (T,) of the nearest point of each triangle (T, 3, 3)."""
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    aa, bb, cc = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    pa = point - a
    d1, d2 = (pa * ab).sum(-1), (pa * ac).sum(-1)
    det = np.maximum(aa * cc - bb * bb, 1e-18)
    u, v = (cc * d1 - bb * d2) / det, (aa * d2 - bb * d1) / det
    options = [np.stack([1 - u - v, u, v], axis=-1)]
    for start, end in ((0, 1), (1, 2), (0, 2)):
        edge = corners[:, end] - corners[:, start]
        share = np.clip(((point - corners[:, start]) * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-18), 0, 1)
        option = np.zeros((len(corners), 3))
        option[:, start], option[:, end] = 1 - share, share
        options.append(option)
    stacked = np.stack(options)
    reached = np.einsum("otk,tkc->otc", stacked, corners)
    distance = np.linalg.norm(reached - point, axis=-1)
    distance[0, (options[0] < 0).any(axis=-1)] = np.inf
    best = distance.argmin(axis=0)
    rows = np.arange(len(corners))
    return stacked[best, rows], distance[best, rows]


def with_texture(picture: npt.NDArray[np.float32]) -> TextureSpace:
    """A texture space that is one fixed picture (H, W, 3) in [0, 1]."""
    return TextureSpace(mean=picture, basis=np.zeros((0, *picture.shape), np.float32))
