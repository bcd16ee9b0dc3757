"""Condition maps: what the 3D face tells the image generator, and their form as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.face3d.quantize import from_bytes, to_bytes
from models.images import decode_png, encode_png

MAP_FILES = ("albedo.png", "normal.png", "render.png", "mask.png")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConditionMaps:
    """Albedo, world normals and Lambertian render of one face; outside the mask all three are exactly 0."""

    albedo: NDArray[np.float32]
    """(H, W, 3) in [0, 1], RGB."""
    normal: NDArray[np.float32]
    """(H, W, 3) in [-1, 1]: world x right, y up, z towards the camera; interpolated, so of length ≤ 1."""
    render: NDArray[np.float32]
    """(H, W, 3) in [0, 1], RGB: albedo times spherical-harmonics shading."""
    mask: NDArray[np.bool_]
    """(H, W): pixels whose centre the head covers."""

    def __post_init__(self) -> None:
        height, width = self.mask.shape
        for name in ("albedo", "normal", "render"):
            shape = getattr(self, name).shape
            if shape != (height, width, 3):
                raise ValueError(f"{name} has shape {shape}; the mask asks for {(height, width, 3)}")

    def encode(self) -> dict[str, bytes]:
        """The four maps as 8-bit PNG files; normals are stored as round((n + 1) / 2 · 255), 128 outside.

        Quantisation turns a normal by at most 0.41° (JPEG: up to 55°, hence PNG).
        """
        return {
            "albedo.png": encode_png(to_bytes(self.albedo, 1.0, 0.0)),
            "normal.png": encode_png(to_bytes(self.normal, 0.5, 0.5)),
            "render.png": encode_png(to_bytes(self.render, 1.0, 0.0)),
            "mask.png": encode_png(self.mask.astype(np.uint8) * np.uint8(255)),
        }

    @classmethod
    def decode(cls, files: Mapping[str, bytes]) -> ConditionMaps:
        """The maps of :meth:`encode`. Raises ``ValueError`` when a file is missing or sizes differ."""
        missing = [name for name in MAP_FILES if name not in files]
        if missing:
            raise ValueError(f"no {', '.join(missing)} among {sorted(files)}: a sample of maps has {MAP_FILES}")
        mask = decode_png(files["mask.png"])
        inside = (mask if mask.ndim == 2 else mask[..., 0]) >= 128
        normal = from_bytes(decode_png(files["normal.png"]), 2.0, -1.0)
        normal[~inside] = 0.0
        return cls(
            albedo=from_bytes(decode_png(files["albedo.png"]), 1.0, 0.0),
            normal=normal,
            render=from_bytes(decode_png(files["render.png"]), 1.0, 0.0),
            mask=inside,
        )

    def mirrored(self) -> ConditionMaps:
        """The maps of the left-right mirrored scene: columns reversed and the normals' x negated."""
        normal = self.normal[:, ::-1] * np.array([-1.0, 1.0, 1.0], np.float32)
        return ConditionMaps(
            albedo=np.ascontiguousarray(self.albedo[:, ::-1]),
            normal=normal + np.float32(0.0),  # -0 → 0, so that the background stays exactly 0 in bytes too
            render=np.ascontiguousarray(self.render[:, ::-1]),
            mask=np.ascontiguousarray(self.mask[:, ::-1]),
        )
