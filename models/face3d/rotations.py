"""Rotations: Rodrigues' formula and Euler angles in the orders the reference models use, batched in torch.

Right-handed axes: x right, y up, z towards the camera. Angles in radians unless said otherwise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor


def rodrigues(axis_angle: Tensor) -> Tensor:
    """(…, 3) axis-angle → (…, 3, 3): R = I + sin(a) K + (1 − cos(a)) K².

    As in SMPL's published code the angle is the norm of (v + 1e-8), which keeps it differentiable at zero.
    """
    angle = torch.linalg.vector_norm(axis_angle + 1e-8, dim=-1, keepdim=True)
    x, y, z = (axis_angle / angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*x.shape, 3, 3)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    angle = angle.unsqueeze(-1)
    return identity + torch.sin(angle) * cross + (1.0 - torch.cos(angle)) * (cross @ cross)


def _about_axes(angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three elementary rotations Rx, Ry, Rz of (…, 3) angles."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    one, zero = torch.ones_like(cos[..., 0]), torch.zeros_like(cos[..., 0])

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=-1).reshape(*one.shape, 3, 3)

    return (
        matrix(one, zero, zero, zero, cos[..., 0], -sin[..., 0], zero, sin[..., 0], cos[..., 0]),
        matrix(cos[..., 1], zero, sin[..., 1], zero, one, zero, -sin[..., 1], zero, cos[..., 1]),
        matrix(cos[..., 2], -sin[..., 2], zero, sin[..., 2], cos[..., 2], zero, zero, zero, one),
    )


def euler_xyz_matrix(angles: Tensor) -> Tensor:
    """(…, 3) angles → R = Rx · Ry · Rz: the order of DECA's Euler jaw and of our pose edits."""
    about_x, about_y, about_z = _about_axes(angles)
    return about_x @ about_y @ about_z


def euler_zyx_matrix(angles: Tensor) -> Tensor:
    """(…, 3) angles → R = Rz · Ry · Rx: the other order found in DECA, of its camera helpers."""
    about_x, about_y, about_z = _about_axes(angles)
    return about_z @ about_y @ about_x


def axis_angle_matrix(axis_angle: ArrayLike) -> NDArray[np.float64]:
    """(…, 3) → (…, 3, 3) in float64 NumPy, exact at zero."""
    return np.asarray(Rotation.from_rotvec(np.asarray(axis_angle, np.float64)).as_matrix())


def matrix_axis_angle(matrix: ArrayLike) -> NDArray[np.float64]:
    """(…, 3, 3) → (…, 3) axis-angle with an angle of at most π, in float64 NumPy."""
    return np.asarray(Rotation.from_matrix(np.asarray(matrix, np.float64)).as_rotvec())


def interpolate_axis_angle(start: ArrayLike, end: ArrayLike, weight: float) -> NDArray[np.float64]:
    """The rotation at ``weight`` (0…1) of the shortest turn from one axis-angle (3,) to another."""
    first = Rotation.from_rotvec(np.asarray(start, np.float64))
    turn = (Rotation.from_rotvec(np.asarray(end, np.float64)) * first.inv()).as_rotvec()
    return np.asarray((Rotation.from_rotvec(weight * turn) * first).as_rotvec())
