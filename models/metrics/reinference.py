"""Does a picture show what was asked for: parameters re-inferred from it against those asked, in millimetres.

Factors are isolated: the pose error differs from what was asked by the re-inferred global rotation alone, the expression
error by expression and jaw alone. So an estimator that mistakes the shape of a head spoils neither.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.face3d.lighting import exposure, sh_basis
from models.face3d.morphable import MorphableModel, landmark_points, pose_vertices
from models.face3d.parameters import FaceParameters
from models.face3d.rotations import axis_angle_matrix

LANDMARKS = "full68"
_DIRECTIONS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterError:
    """Of one picture; a table takes the root of the mean of the squares over pictures."""

    pose_mm: float
    """Root mean square distance over the 68 landmarks, the re-inferred global rotation in place of the one asked."""
    expression_mm: float
    """The same for expression and jaw."""
    pose_vertices_mm: float
    """As pose_mm, over all vertices of the head."""
    expression_vertices_mm: float
    pose_degrees: float
    """Angle between the two global rotations."""
    light: float
    """Root mean square difference of the shading of a sphere, both lights brought to exposure 1."""
    light_degrees: float
    """Angle between the directions the two lights mainly come from."""


def parameter_error(model: MorphableModel, asked: FaceParameters, found: FaceParameters) -> ParameterError:
    """Parameters asked for against those re-inferred from the picture, both of `model`, in its world space.

    Raises:
        ValueError: parameters of another model.
    """
    still = np.zeros(3, np.float32)  # re-centring is a shift of the whole head and no error of either
    wanted = asked.replaced(shift=still)
    turned = wanted.replaced(pose=np.concatenate([found.pose[:3], wanted.pose[3:]]))
    moved = wanted.replaced(expression=found.expression, pose=np.concatenate([wanted.pose[:3], found.pose[3:]]))
    one, other, third = pose_vertices(model, [wanted, turned, moved])
    points = [landmark_points(model, vertices, LANDMARKS) for vertices in (one, other, third)]
    return ParameterError(
        pose_mm=_rms_mm(points[0], points[1]),
        expression_mm=_rms_mm(points[0], points[2]),
        pose_vertices_mm=_rms_mm(one, other),
        expression_vertices_mm=_rms_mm(one, third),
        pose_degrees=rotation_degrees(asked.pose[:3], found.pose[:3]),
        light=light_error(asked.light, found.light),
        light_degrees=light_degrees(asked.light, found.light),
    )


def rotation_degrees(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Angle between two rotations given as axis-angles (3,)."""
    turn = axis_angle_matrix(np.asarray(one, np.float64)).T @ axis_angle_matrix(np.asarray(other, np.float64))
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def light_error(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Root mean square difference, over directions and colours, of the shading of a sphere by two lights (9, 3).

    Each colour of each light is divided by its mean shading over what faces the camera: brightness and colour of light
    cannot be told from those of skin.
    """
    basis = sh_basis(_sphere())
    shadings = [basis @ (np.asarray(light, np.float64) / _positive(exposure(light))) for light in (one, other)]
    return float(np.sqrt(np.square(shadings[0] - shadings[1]).mean()))


def light_degrees(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Angle between the linear parts of two lights (9, 3), averaged over colours."""
    # SH_CONSTANTS are equal for the three linear terms, so their coefficients are a direction.
    a, b = (np.asarray(light, np.float64)[1:4].mean(axis=1) for light in (one, other))
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _positive(level: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(level, 1e-3)


def _rms_mm(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    squared = np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64)).sum(axis=1)
    return float(1000 * np.sqrt(squared.mean()))


def _sphere() -> NDArray[np.float64]:
    """Directions (512, 3) spread evenly over the sphere: a Fibonacci lattice."""
    number = np.arange(_DIRECTIONS) + 0.5
    height = 1 - 2 * number / _DIRECTIONS
    angle = np.pi * (1 + np.sqrt(5)) * number
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
