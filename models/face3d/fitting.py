"""Mesh landmarks → identity, expression, pose and camera of the open head.

Energy: squared distances of projected to detected points in millimetres, robustly weighted, plus the
    same for the
differences of opposite lids and lips (so that apertures are right even where positions are not), plus
Gaussian priors.
Alternates Gauss-Newton on pose and camera with a box-constrained quadratic programme over all
coefficients at once.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from models.face3d.head_view import FRAME_SIZE, HeadView, solve_view, start_view
from models.face3d.mesh_topology import (
    BROW_LEFT,
    BROW_RIGHT,
    EYE_LEFT,
    EYE_RIGHT,
    LIPS_INNER,
    LIPS_OUTER,
    OVAL,
    lid_gap,
    outer_eye_distance,
)  # fmt: skip
from models.face3d.open_head import OpenHead
from models.face3d.rotations import matrix_axis_angle

__all__ = ["FRAME_SIZE", "FitSettings", "LandmarkFit", "LandmarkFitter"]

FloatArray = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_LIP_PAIRS: Final = ((82, 87), (13, 14), (312, 317), (81, 178), (311, 402), (80, 88), (310, 318), (191, 95), (415, 324))
_LID_PAIRS: Final = tuple(pair for eye in (EYE_RIGHT, EYE_LEFT) for pair in zip(eye[9:16], eye[1:8], strict=True))
_EXCLUSIVE: Final = (
    ("eyeBlinkLeft", "eyeWideLeft"), ("eyeBlinkRight", "eyeWideRight"), ("eyeSquintLeft", "eyeWideLeft"),
    ("eyeSquintRight", "eyeWideRight"), ("mouthSmileLeft", "mouthFrownLeft"), ("mouthSmileRight",
    "mouthFrownRight"),
    ("jawLeft", "jawRight"), ("mouthLeft", "mouthRight"), ("browDownLeft", "browOuterUpLeft"),
    ("browDownRight", "browOuterUpRight"), ("mouthPucker", "mouthStretchLeft"), ("mouthPucker",
    "mouthStretchRight"),
)  # fmt: skip
_UNSEEN: Final = ("tongueOut", "cheekPuff")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """Weights of the fit; the defaults were set on photographs, see docs/open-head.md."""

    iterations: int = 8
    """Alternations of pose and coefficients."""
    noise: float = 2.4
    """Millimetres one landmark is trusted to; larger than its error, because neighbours err alike."""
    gap_noise: float = 0.8
    """Millimetres for differences of opposite lids and lips."""
    identity: float = 1.0
    """Factor on the identity prior N(0, 1)."""
    identity_bound: float = 3.0
    unit_square: float = 5.0
    """Weight of squared unit weights."""
    unit_linear: float = 0.6
    """Weight of unit weights themselves: keeps idle units at zero."""
    symmetry: float = 4.0
    """Weight of squared differences of left and right units."""
    closed_below: float = 0.12
    """Lid aperture at or below which an eye counts as closed."""
    open_above: float = 0.17
    """Lid aperture from which it is taken as measured."""

    def __post_init__(self) -> None:
        if self.iterations < 2:
            raise ValueError(f"iterations {self.iterations}: at least 2 alternations are needed")
        if not 0 < self.closed_below < self.open_above:
            raise ValueError(f"lid apertures {self.closed_below} and {self.open_above} must grow")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LandmarkFit:
    """What a fit found."""

    shape: Floats
    """(S,)."""
    expression: Floats
    """(E,) in [0, 1]."""
    rotation: Floats
    """(3,) axis-angle."""
    camera: Floats
    """(3,) s, tx, ty."""
    fitted: Floats
    """(468, 2) pixels of the 256-pixel frame."""
    residual: float
    """Mean distance of fitted to detected points over the outer-eye distance (foreshortening undone by
    yaw)."""


@njit(cache=True, nogil=True)
def solve_box(
    hessian: FloatArray, gradient: FloatArray, low: FloatArray, high: FloatArray, start: FloatArray, sweeps: int
) -> FloatArray:
    """Minimise x'Hx/2 - g'x within bounds by cyclic coordinate descent (H positive definite)."""
    x = np.minimum(np.maximum(start, low), high)
    slope = hessian @ x - gradient
    for _ in range(sweeps):
        largest = 0.0
        for i in range(len(x)):
            wanted = min(max(x[i] - slope[i] / hessian[i, i], low[i]), high[i])
            step = wanted - x[i]
            if step != 0.0:
                slope += hessian[i] * step
                x[i] = wanted
                largest = max(largest, abs(step))
        if largest < 1e-5:
            break
    return x


class LandmarkFitter:
    """Fits one head model; holds its landmark rows, so make one and keep it."""

    def __init__(self, head: OpenHead, settings: FitSettings | None = None) -> None:
        self.settings = settings or FitSettings()
        model = head.model
        points = model.landmarks["mesh468"]
        corners = model.faces[points.faces]
        weights = points.barycentric.astype(np.float64)
        basis = np.concatenate([model.shape_basis, model.expression_basis], axis=2).astype(np.float64)
        self.template = np.einsum("nkc,nk->nc", model.template[corners].astype(np.float64), weights)
        self.depth = head.landmark_depth.astype(np.float64)
        self.rows = np.einsum("nkcb,nk->ncb", basis[corners], weights)
        self.identities = model.shape_basis.shape[2]
        self.names = model.expression_names
        flat = model.template[corners].astype(np.float64)
        normals = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
        self.normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        self.eyes = _eye_geometry(head)
        # mouthClose is meant on top of an open jaw: its column carries jawOpen along.
        self._close, self._open = (self.identities + self.names.index(n) for n in ("mouthClose", "jawOpen"))
        self.rows_tied = self.rows.copy()
        self.rows_tied[..., self._close] += self.rows[..., self._open]
        self._rows_single = self.rows_tied.astype(np.float32)
        self._weights = self._point_weights(head)
        self._prior = self._prior_matrix()
        self._pairs = np.array([*_LIP_PAIRS, *_LID_PAIRS])
        self._linear = np.zeros(self.rows.shape[2])
        self._linear[self.identities :] = self.settings.unit_linear

    def _point_weights(self, head: OpenHead) -> FloatArray:
        weights = np.full(468, 0.6)
        for chosen, weight in (
            (OVAL, 0.8), (BROW_LEFT + BROW_RIGHT, 0.5), (LIPS_OUTER + LIPS_INNER, 0.8), (EYE_LEFT +
            EYE_RIGHT, 1.0),
        ):  # fmt: skip
            weights[list(chosen)] = weight
        return weights / (1 + (head.landmark_spread.astype(np.float64) / 0.006) ** 2)

    def _prior_matrix(self) -> FloatArray:
        settings, count = self.settings, self.rows.shape[2]
        prior = np.zeros((count, count))
        identity = np.arange(self.identities)
        prior[identity, identity] = settings.identity
        units = np.arange(self.identities, count)
        prior[units, units] = settings.unit_square
        for number, name in enumerate(self.names):
            if name.endswith("Left") and name.removesuffix("Left") + "Right" in self.names:
                one = self.identities + number
                two = self.identities + self.names.index(name.removesuffix("Left") + "Right")
                if not name.startswith(("jaw", "mouthLeft", "eyeLook")):
                    prior[[one, two], [one, two]] += settings.symmetry
                    prior[[one, two], [two, one]] -= settings.symmetry
        # Identity may not open the lips.
        gaps = np.stack(
            [self.rows[a, 1, : self.identities] - self.rows[b, 1, : self.identities] for a, b in _LIP_PAIRS]
        )
        prior[: self.identities, : self.identities] += gaps.T @ gaps * (1e3 / 0.25) ** 2
        return prior

    def fit(self, mesh: FloatArray | Floats, iris: FloatArray | Floats | None = None) -> LandmarkFit:
        """Fit detected points.

        Args:
            mesh: (468, 3) in pixels of a 256 x 256 frame, z smaller = nearer.
            iris: (2, 5, 2) right and left iris in the same pixels, or None to leave the gaze straight.
        """
        detected = mesh.astype(np.float64)
        target = self._close_lids(detected[:, :2])
        state = start_view(self.template, detected, self._weights)
        coefficients = np.zeros(self.rows.shape[2])
        low, high = self._bounds()
        for iteration in range(self.settings.iterations):
            points = self.template + self.rows_tied @ coefficients
            weights = self._weights * _facing(state.rotation, self.normals)
            residual = np.linalg.norm(target - state.project(points, self.depth), axis=1) / state.scale * 1e3
            weights = weights / (1 + (residual / (12.0 if iteration < 2 else 6.0)) ** 2)
            state = solve_view(state, points, self.depth, target, weights, 4 if iteration == 0 else 2)
            if iteration == 2 and iris is not None:
                low, high = self._look(state, points, iris.astype(np.float64), low, high)
            if iteration == 4:
                high = self._exclude(coefficients, high)
            coefficients = self._solve(state, target, weights, coefficients, low, high, iteration)
        points = self.template + self.rows_tied @ coefficients
        state = solve_view(state, points, self.depth, target, weights, 2)
        return self._result(state, coefficients, points, detected)

    def _bounds(self) -> tuple[FloatArray, FloatArray]:
        count = self.rows.shape[2]
        low, high = np.zeros(count), np.ones(count)
        bound = self.settings.identity_bound
        low[: self.identities], high[: self.identities] = -bound, bound
        for number, name in enumerate(self.names):
            if name in _UNSEEN or name.startswith("eyeLook"):
                high[self.identities + number] = 0.0
        return low, high

    def _close_lids(self, points: FloatArray) -> FloatArray:
        """Points (468, 2) with the lids of nearly closed eyes brought together."""
        gaps = np.array(lid_gap(points))
        gaps = 0.5 * gaps + 0.5 * gaps.mean()
        settings, target = self.settings, points.copy()
        for eye, gap in zip((EYE_RIGHT, EYE_LEFT), gaps, strict=True):
            keep = np.clip((gap - settings.closed_below) / (settings.open_above - settings.closed_below), 0.0, 1.0)
            lower, upper = list(eye[1:8]), list(eye[9:16])
            target[upper] = target[lower] + keep * (points[upper] - points[lower])
        return target

    def _solve(
        self, state: HeadView, target: FloatArray, weights: FloatArray, start: FloatArray, low: FloatArray,
        high: FloatArray, iteration: int,
    ) -> FloatArray:  # fmt: skip
        """Coefficients for a fixed view: the linearised quadratic programme."""
        points = self.template + self.rows_tied @ start
        millimetre = 1e3 / state.scale
        # float32 halves the time of the products; the solver works in float64.
        jacobian = state.jacobian(points, self._rows_single) * np.float32(millimetre)
        error = (target - state.project(points, self.depth)) * millimetre
        noise = 1 / self.settings.noise
        rows = jacobian * (np.sqrt(weights) * noise).astype(np.float32)[:, None, None]
        values = error * (np.sqrt(weights) * noise)[:, None]
        upper, lower = self._pairs[:, 0], self._pairs[:, 1]
        trust = np.sqrt(np.minimum(weights[upper], weights[lower])) / self.settings.gap_noise
        gap_rows = (jacobian[upper] - jacobian[lower]) * trust.astype(np.float32)[:, None, None]
        gap_values = (error[upper] - error[lower]) * trust[:, None]
        rows = np.concatenate([rows, gap_rows]).reshape(-1, jacobian.shape[2])
        values = np.concatenate([values, gap_values]).ravel().astype(np.float32) + rows @ start.astype(np.float32)
        prior = self._prior
        if iteration < 2:
            prior = prior.copy()
            identity = np.arange(self.identities)
            prior[identity, identity] += 2.0
        hessian = (rows.T @ rows).astype(np.float64) + prior
        gradient = (rows.T @ values).astype(np.float64) - self._linear
        return np.asarray(solve_box(hessian, gradient, low, high, start, 60))

    def _exclude(self, coefficients: FloatArray, high: FloatArray) -> FloatArray:
        """Bounds with the weaker of each exclusive pair of units held at zero."""
        limited = high.copy()
        for one, two in _EXCLUSIVE:
            a, b = self.identities + self.names.index(one), self.identities + self.names.index(two)
            limited[a if coefficients[a] < coefficients[b] else b] = 0.0
        return limited

    def _look(
        self, state: HeadView, points: FloatArray, iris: FloatArray, low: FloatArray, high: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Bounds that fix the eyeLook units to the seen gaze (mean of both eyes)."""
        turns = []
        for (eye, (centre, radius)), seen in zip(zip((EYE_RIGHT, EYE_LEFT), self.eyes, strict=True), iris, strict=True):
            # The eye moves with the face around it: shift its centre by what its corners were shifted.
            corners = [eye[0], eye[8]]
            moved = centre + (points[corners] - self.template[corners]).mean(axis=0)
            offset = (seen[0] - state.project(moved[None])[0]) / state.scale / radius
            offset = np.clip(offset, -0.6, 0.6)
            depth = np.sqrt(max(1 - float(offset @ offset), 0.2))
            direction = state.rotation.T @ np.array([offset[0], -offset[1], depth])
            turns.append([np.arctan2(direction[0], direction[2]), np.arcsin(np.clip(direction[1], -1, 1))])
        yaw, pitch = np.degrees(np.mean(turns, axis=0))
        wanted = {
            "eyeLookInRight": yaw / 13.5, "eyeLookOutLeft": yaw / 13.1, "eyeLookOutRight": -yaw / 13.1,
            "eyeLookInLeft": -yaw / 13.5, "eyeLookUpLeft": pitch / 9.4, "eyeLookUpRight": pitch / 9.4,
            "eyeLookDownLeft": -pitch / 9.9, "eyeLookDownRight": -pitch / 9.9,
        }  # fmt: skip
        low, high = low.copy(), high.copy()
        for name, amount in wanted.items():
            place = self.identities + self.names.index(name)
            low[place] = high[place] = float(np.clip(amount, 0.0, 1.0))
        return low, high

    def _result(
        self, state: HeadView, coefficients: FloatArray, points: FloatArray, detected: FloatArray
    ) -> LandmarkFit:
        fitted = state.project(points, self.depth)
        expression = coefficients[self.identities :].copy()
        place_open, place_close = self._open - self.identities, self._close - self.identities
        expression[place_open] = min(expression[place_open] + expression[place_close], 1.0)
        yaw = np.arctan2(state.rotation[0, 2], state.rotation[2, 2])
        eyes = outer_eye_distance(detected) / max(float(np.cos(yaw)), 0.5)
        return LandmarkFit(
            shape=coefficients[: self.identities].astype(np.float32),
            expression=expression.astype(np.float32),
            rotation=matrix_axis_angle(state.rotation).astype(np.float32),
            camera=np.array([state.scale / (FRAME_SIZE / 2), state.tx, state.ty], np.float32),
            fitted=fitted.astype(np.float32),
            residual=float(np.linalg.norm(fitted - detected[:, :2], axis=1).mean() / eyes),
        )


def _facing(rotation: FloatArray, normals: FloatArray) -> FloatArray:
    """(N,) in [0.15, 1]: points on the far side of a turned head count less."""
    return np.asarray(np.clip((normals @ rotation[2] + 0.25) / 0.5, 0.15, 1.0))


def _eye_geometry(head: OpenHead) -> tuple[tuple[FloatArray, float], tuple[FloatArray, float]]:
    """Centre (3,) and radius in metres of the right and the left eyeball of the template."""
    found = []
    for part in ("eye_right", "eye_left"):
        ball = head.model.template[head.part_of_vertex == part].astype(np.float64)
        found.append((ball[-2:].mean(axis=0), float(np.linalg.norm(ball[-2] - ball[-1]) / 2)))
    return found[0], found[1]
