"""Steady parameters over the frames of a video: the One-Euro filter (Casiez, Roussel & Vogel 2012) on FaceParameters.

The filter is a low-pass whose cut-off rises with speed: still faces stop trembling, quick ones do not lag.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.parameters import FaceParameters
from models.face3d.rotations import axis_angle_matrix, matrix_axis_angle

__all__ = ["OneEuro", "SmoothingSettings", "smooth_frames"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothingSettings:
    """Cut-off frequencies of the filter, for coefficients of unit scale."""

    frames_per_second: float = 25.0
    least_cutoff: float = 1.2
    """Hz at rest: lower is steadier."""
    speed_factor: float = 0.25
    """How much the cut-off rises with speed (units a second): higher lags less."""
    speed_cutoff: float = 1.0
    """Hz of the low-pass on speed itself."""

    def __post_init__(self) -> None:
        for name in ("frames_per_second", "least_cutoff", "speed_cutoff"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)} must be above 0")
        if self.speed_factor < 0:
            raise ValueError(f"speed_factor {self.speed_factor} must not be negative")


class OneEuro:
    """The filter for vectors of one length; call it with one frame after another."""

    def __init__(self, settings: SmoothingSettings) -> None:
        self._settings = settings
        self._value: FloatArray | None = None
        self._speed: FloatArray | None = None

    def __call__(self, value: FloatArray) -> FloatArray:
        """The filtered value of this frame; the first frame passes unchanged."""
        settings = self._settings
        if self._value is None or self._speed is None:
            self._value, self._speed = value.astype(np.float64), np.zeros(value.shape)
            return self._value
        step = (value - self._value) * settings.frames_per_second
        self._speed = self._speed + self._share(np.array(settings.speed_cutoff)) * (step - self._speed)
        cutoff = settings.least_cutoff + settings.speed_factor * np.abs(self._speed)
        self._value = self._value + self._share(cutoff) * (value - self._value)
        return self._value

    def _share(self, cutoff: FloatArray) -> FloatArray:
        turn = 2 * math.pi * cutoff / self._settings.frames_per_second
        return np.asarray(turn / (turn + 1))


# Standard deviation a quantity has at rest, so that one setting serves all.
_SCALES: Final = {"shape": 0.6, "expression": 0.12, "pose": 0.05, "camera": 0.05, "light": 0.15, "shift": 0.01}
_IDENTITY: Final = SmoothingSettings(least_cutoff=0.15, speed_factor=0.0)


def smooth_frames(
    frames: Iterable[FaceParameters], settings: SmoothingSettings | None = None
) -> Iterator[FaceParameters]:
    """Filtered parameters, one for each frame of one person in order.

    Identity is filtered very slowly (it does not change); rotations are filtered as the turn since the first frame.
    The albedo picture and `tform` of each frame pass unchanged.
    """
    chosen = settings or SmoothingSettings()
    filters = {name: OneEuro(_IDENTITY if name == "shape" else chosen) for name in _SCALES}
    first: FloatArray | None = None
    for frame in frames:
        if first is None:
            first = axis_angle_matrix(frame.pose[None, :3])[0].astype(np.float64)
        changed = {}
        for name, scale in _SCALES.items():
            value = np.asarray(getattr(frame, name), dtype=np.float64)
            if name == "pose":
                turn = first.T @ axis_angle_matrix(value[None, :3])[0]
                value = np.concatenate([matrix_axis_angle(turn), value[3:]])
            smooth = filters[name](value / scale) * scale
            if name == "pose":
                back = first @ axis_angle_matrix(smooth[None, :3])[0]
                smooth = np.concatenate([matrix_axis_angle(back), smooth[3:]])
            changed[name] = smooth.astype(np.float32)
        yield frame.replaced(**changed)
