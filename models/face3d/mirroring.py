"""The left-right mirror image of a face's parameters: what one would see of it in a mirror.

Rotations, light, camera and shift mirror exactly. Named expression units change sides by name. Unlabelled
coefficients (identity, FLAME's expression, texture codes) have no mirror image of their own; the closest is
found by least squares over the mirrored mesh or picture, an affine map of the coefficients that is computed
once for a model.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from models.face3d.camera import CROP
from models.face3d.lighting import mirror_light
from models.face3d.morphable import MorphableModel
from models.face3d.parameters import FRAME, FaceParameters, Floats

Doubles = NDArray[np.float64]

_FLIP = np.array([-1.0, 1.0, 1.0])
_SPIN = np.array([1.0, -1.0, -1.0])  # an axis is a pseudovector: its x stays, y and z change sign
_LARGEST_ASYMMETRY = 0.01  # metres to the mirror image's nearest vertex, 95th percentile
_LARGEST_UV_ASYMMETRY = 1.5 / 256  # texture coordinates, 90th percentile: eyes may share an island


def mirror(model: MorphableModel, parameters: FaceParameters, *, frame: tuple[int, int] = FRAME) -> FaceParameters:
    """The face as in a mirror; ``frame`` is the picture (height, width) that ``tform`` refers to.

    Rendering it gives :meth:`ConditionMaps.mirrored` of the original's maps, as far as the model is
    symmetric. Raises ``ValueError`` for a mesh or a UV layout that is not.
    """
    model.check(parameters)
    pose = np.concatenate([_SPIN * parameters.pose[:3], _SPIN * parameters.pose[3:]])
    camera = parameters.camera * np.array([1.0, -1.0, 1.0])
    tform = parameters.tform.astype(np.float64)
    if parameters.in_crop:
        tform = _reflection(CROP) @ tform @ _reflection(frame[1])
    shape = _affine(_shape_mirror(model), parameters.shape)
    texture, albedo = parameters.texture, parameters.albedo
    if texture.size or albedo is not None:
        _require_symmetric_uvs(model)
    if texture.size:
        texture = _affine(_texture_mirror(model), texture)
    if albedo is not None:
        albedo = np.ascontiguousarray(albedo[:, ::-1])
    return parameters.replaced(
        shape=shape,
        expression=_mirrored_expression(model, parameters.expression),
        pose=pose,
        camera=camera,
        light=mirror_light(parameters.light),
        texture=texture,
        shift=_FLIP * parameters.shift,
        tform=tform,
        albedo=albedo,
    )


def _reflection(width: int) -> Doubles:
    """(3, 3) x → width − x, in continuous pixel coordinates."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def _mirrored_expression(model: MorphableModel, expression: Floats) -> Floats:
    if not model.expression_names:
        return _affine(_expression_mirror(model), expression)
    sides = {"Left": "Right", "Right": "Left"}
    index = {name: position for position, name in enumerate(model.expression_names)}
    order = []
    for name in model.expression_names:
        side = next((side for side in sides if name.endswith(side)), None)
        other = name if side is None else name.removesuffix(side) + sides[side]
        order.append(index.get(other, index[name]))
    return expression[order]


def _affine(change: tuple[Doubles, Doubles], codes: Floats) -> Floats:
    matrix, offset = change
    return np.asarray(matrix @ codes + offset, np.float32)


def _least_squares(basis: Doubles, mirrored: Doubles, offset: Doubles) -> tuple[Doubles, Doubles]:
    """Matrix and vector that give the coefficients whose sum of ``basis`` (N, C) is nearest to the mirrored one."""
    inverse = np.linalg.pinv(basis, rcond=1e-6)
    return inverse @ mirrored, inverse @ offset


@lru_cache(maxsize=2)
def _vertex_mirror(model: MorphableModel) -> NDArray[np.intp]:
    """(V,) the vertex nearest to each vertex's mirror image."""
    distances, nearest = cKDTree(model.template).query(model.template * _FLIP)
    far = float(np.quantile(distances, 0.95))
    if far > _LARGEST_ASYMMETRY:
        raise ValueError(
            f"the model {model.name!r} is not symmetric (5 % of its vertices are over {far * 1000:.0f} mm from a mirror "
            f"image): mirror its maps instead"
        )
    return np.asarray(nearest)


@lru_cache(maxsize=2)
def _shape_mirror(model: MorphableModel) -> tuple[Doubles, Doubles]:
    partner = _vertex_mirror(model)
    basis = model.shape_basis.astype(np.float64)
    asymmetry = model.template[partner] * _FLIP - model.template
    size = basis.shape[2]
    mirrored = (basis[partner] * _FLIP[:, None]).reshape(-1, size)
    return _least_squares(basis.reshape(-1, size), mirrored, asymmetry.reshape(-1))


@lru_cache(maxsize=2)
def _expression_mirror(model: MorphableModel) -> tuple[Doubles, Doubles]:
    basis = model.expression_basis.astype(np.float64)
    size = basis.shape[2]
    mirrored = (basis[_vertex_mirror(model)] * _FLIP[:, None]).reshape(-1, size)
    return _least_squares(basis.reshape(-1, size), mirrored, np.zeros(mirrored.shape[0]))


@lru_cache(maxsize=2)
def _texture_mirror(model: MorphableModel) -> tuple[Doubles, Doubles]:
    """Every fourth texel decides: albedo bases are smooth."""
    assert model.texture is not None
    mean, basis = model.texture.mean, model.texture.basis
    flipped = basis[:, :, ::-1][:, ::4, ::4].reshape(len(basis), -1).T
    asymmetry = (mean[:, ::-1] - mean)[::4, ::4].reshape(-1)
    kept = basis[:, ::4, ::4].reshape(len(basis), -1).T
    return _least_squares(*(part.astype(np.float64) for part in (kept, flipped, asymmetry)))


@lru_cache(maxsize=2)
def _require_symmetric_uvs(model: MorphableModel) -> None:
    mirrored = np.stack([1.0 - model.uvs[:, 0], model.uvs[:, 1]], axis=1)
    far = float(np.quantile(cKDTree(model.uvs).query(mirrored)[0], 0.9))
    if far > _LARGEST_UV_ASYMMETRY:
        raise ValueError(
            f"the UV layout of {model.name!r} is not symmetric ({far:.3f} off): its texture cannot be mirrored; "
            f"mirror its maps instead"
        )
