"""FLAME parameters → geometry, landmarks and pictures, for batches, in the crop's frame or the picture's: DECA's decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.face3d.camera import CROP, crop_to_picture, project
from models.face3d.flame import flame_landmarks
from models.face3d.morphable import MorphableModel, lbs, surface_points
from models.face3d.parameters import FaceParameters
from models.face3d.torch_rasterize import Backend
from models.face3d.torch_render import Rendering, render, torch_vertex_normals


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decoded:
    """A batch of posed heads. NDC are those of the frame asked for: x right, y down, z smaller = nearer."""

    vertices: Tensor
    """(B, V, 3) world, metres, shifted."""
    vertices_ndc: Tensor
    """(B, V, 3)."""
    landmarks2d: Tensor
    """(B, 68, 2) NDC: 17 sliding contour points and 51 static ones."""
    landmarks3d: Tensor
    """(B, 68, 3) NDC: the full set."""
    landmarks3d_world: Tensor
    """(B, 68, 3) metres."""
    visible: Tensor
    """(B, 68) bool: the projected normal at each of ``landmarks3d`` has z < 0.1."""
    normals: Tensor
    """(B, V, 3) of the world."""
    projected_normals: Tensor
    """(B, V, 3) of the projected head."""
    pictures: Rendering


class Decoder:
    """Decodes faces of one model on one device; make one and keep it, it holds the model's tensors.

    ``backend`` names the rasteriser (models/face3d/torch_rasterize.py). Raises ``ValueError`` for a model
    without texture space or contour table.
    """

    def __init__(
        self,
        model: MorphableModel,
        *,
        backend: Backend = "numba",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if model.texture is None:
            raise ValueError(f"the model {model.name!r} has no texture space; convert one of FLAME's texture files")
        self._model, self._backend, self._device, self._dtype = model, backend, device, dtype
        self._tensors = model.tensors(device, dtype)
        self._faces = torch.from_numpy(model.faces).long().to(device)
        self._corner_uvs = torch.from_numpy(model.corner_uvs).to(device, dtype)
        self._texture = model.texture.tensors(device, dtype)
        self._texture_size = model.texture.mean.shape[:2]

    def __call__(self, parameters: Sequence[FaceParameters], frame: tuple[int, int] | None = None) -> Decoded:
        """``frame`` None: the 224-pixel crop, else (height, width) of the original picture.

        Raises ``ValueError`` for parameters of another model.
        """
        for one in parameters:
            self._model.check(one)

        def stacked(name: str) -> Tensor:
            values = np.stack([getattr(one, name) for one in parameters])
            return torch.from_numpy(values).to(self._device, self._dtype)

        model, expression, shift = self._model, stacked("expression"), stacked("shift")[:, None]
        pose = model.joint_rotations(stacked("pose"), expression)
        posed = lbs(self._tensors, stacked("shape"), expression, pose)
        vertices = posed.vertices + shift
        contour, full = (points + shift for points in flame_landmarks(model, posed))
        camera, tform = stacked("camera"), stacked("tform")

        def placed(points: Tensor) -> Tensor:
            ndc = project(points, camera, model.camera_distance)
            return ndc if frame is None else crop_to_picture(ndc, tform, frame)

        vertices_ndc = placed(vertices)
        pictures = render(
            vertices,
            vertices_ndc,
            self._faces,
            self._corner_uvs,
            self._textures(stacked("texture")),
            stacked("light"),
            frame or (CROP, CROP),
            self._backend,
        )
        projected_normals = torch_vertex_normals(vertices_ndc, self._faces)
        facing = landmarks_of(model, projected_normals, self._faces, "full68")
        return Decoded(
            vertices=vertices,
            vertices_ndc=vertices_ndc,
            landmarks2d=placed(contour)[..., :2],
            landmarks3d=placed(full),
            landmarks3d_world=full,
            visible=facing[..., 2] < 0.1,
            normals=torch_vertex_normals(vertices, self._faces),
            projected_normals=projected_normals,
            pictures=pictures,
        )

    def _textures(self, codes: Tensor) -> Tensor:
        """(B, T) → (B, 3, H, W) albedo in UV layout, unclamped."""
        mean, basis = self._texture
        return (mean + codes @ basis).view(-1, *self._texture_size, 3).permute(0, 3, 1, 2)


def landmarks_of(model: MorphableModel, values: Tensor, faces: Tensor, name: str) -> Tensor:
    """Per-vertex values (B, V, 3) at one landmark set → (B, N, 3)."""
    points = model.landmarks[name]
    triangles = torch.from_numpy(points.faces).long().to(values.device)
    return surface_points(values, faces, triangles, torch.from_numpy(points.barycentric))
