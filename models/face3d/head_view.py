"""Pose and camera of one head against points of a picture: projection, its derivatives, Gauss-Newton."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.open_head import CAMERA_DISTANCE
from models.face3d.rotations import axis_angle_matrix

__all__ = ["FRAME_SIZE", "HeadView", "solve_view", "start_view"]

FloatArray = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

FRAME_SIZE: Final = 256
"""Side in pixels of the picture the camera speaks of."""


@dataclass(frozen=True, slots=True)
class HeadView:
    """Pose and camera: p = scale · (R·x, perspective, + t), in pixels of the frame."""

    rotation: FloatArray
    scale: float
    tx: float
    ty: float
    distance: float = CAMERA_DISTANCE

    def project(self, points: FloatArray, depth: FloatArray | None = None) -> FloatArray:
        """(N, 3) → (N, 2) pixels; `depth` (N, 2) moves points along the head's z for x and for y."""
        world = points @ self.rotation.T
        near = self.distance / (self.distance - world[:, 2])
        x = self.scale * (world[:, 0] * near + self.tx) + FRAME_SIZE / 2
        y = FRAME_SIZE / 2 - self.scale * (world[:, 1] * near + self.ty)
        if depth is not None:
            x += self.scale * self.rotation[0, 2] * depth[:, 0]
            y -= self.scale * self.rotation[1, 2] * depth[:, 1]
        return np.stack([x, y], axis=1)

    def slopes(self, world: FloatArray) -> FloatArray:
        """(N, 2, 3) derivative of pixels by world position."""
        gap = self.distance - world[:, 2]
        near = self.distance / gap
        out = np.zeros((len(world), 2, 3))
        out[:, 0, 0], out[:, 1, 1] = near, -near
        out[:, 0, 2], out[:, 1, 2] = world[:, 0] * near / gap, -world[:, 1] * near / gap
        return out * self.scale

    def jacobian(self, points: FloatArray, rows: Floats) -> Floats:
        """(N, 2, K) derivative of pixels by coefficients, in float32."""
        turned = self.slopes(points @ self.rotation.T) @ self.rotation
        return np.asarray(np.matmul(turned.astype(rows.dtype), rows))


def start_view(template: FloatArray, mesh: FloatArray, weights: FloatArray) -> HeadView:
    """A first view from the mesh's own depth: similarity transform of the template (Kabsch/Umeyama)."""
    seen = mesh * np.array([1.0, -1.0, -1.0])
    w = weights / weights.sum()
    centre_t, centre_s = w @ template, w @ seen
    covariance = (seen - centre_s).T @ ((template - centre_t) * w[:, None])
    u, _, vt = np.linalg.svd(covariance)
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    flat = (template - centre_t) @ rotation.T
    spread = (w * ((seen - centre_s)[:, :2] ** 2).sum(axis=1)).sum()
    scale = float(np.sqrt(spread / (w * (flat[:, :2] ** 2).sum(axis=1)).sum()))
    offset = centre_s[:2] - scale * (rotation @ centre_t)[:2]
    return HeadView(rotation, scale, (offset[0] - FRAME_SIZE / 2) / scale, (offset[1] + FRAME_SIZE / 2) / scale)


def solve_view(
    view: HeadView, points: FloatArray, depth: FloatArray, target: FloatArray, weights: FloatArray, steps: int
) -> HeadView:
    """Gauss-Newton on rotation, scale and translation."""
    root = np.sqrt(weights)[:, None]
    for _ in range(steps):
        world = points @ view.rotation.T
        slopes = view.slopes(world)
        jacobian = np.empty((len(points), 2, 6))
        for axis in range(3):
            # A small turn about an axis moves x along axis × x.
            one, two = (axis + 1) % 3, (axis + 2) % 3
            jacobian[:, :, axis] = slopes[:, :, two] * world[:, one, None] - slopes[:, :, one] * world[:, two, None]
            turned = np.cross(np.eye(3)[axis], view.rotation[:, 2])
            jacobian[:, 0, axis] += view.scale * turned[0] * depth[:, 0]
            jacobian[:, 1, axis] -= view.scale * turned[1] * depth[:, 1]
        projected = view.project(points, depth)
        jacobian[:, 0, 3], jacobian[:, 1, 3] = projected[:, 0] - FRAME_SIZE / 2, projected[:, 1] - FRAME_SIZE / 2
        jacobian[:, 0, 4], jacobian[:, 1, 4] = view.scale, 0.0
        jacobian[:, 0, 5], jacobian[:, 1, 5] = 0.0, -view.scale
        rows = (jacobian * root[..., None]).reshape(-1, 6)
        step = np.linalg.solve(rows.T @ rows + 1e-9 * np.eye(6), rows.T @ ((target - projected) * root).ravel())
        turn = axis_angle_matrix(step[None, :3])[0]
        view = HeadView(turn @ view.rotation, view.scale * float(np.exp(step[3])), view.tx + step[4], view.ty + step[5])
    return view
