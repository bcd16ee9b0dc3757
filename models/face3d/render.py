"""Parameters → geometry → condition maps on a CPU core; torch_render.py is batched and differentiable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.face3d.camera import crop_to_picture, ndc_to_pixels, project
from models.face3d.maps import ConditionMaps
from models.face3d.morphable import MorphableModel, landmark_points, pose_vertices
from models.face3d.parameters import FRAME, FaceParameters
from models.face3d.rasterize import Canvas
from models.face3d.shading import shade_pixels, weighted_light
from models.face3d.skinning import vertex_normals

Floats = NDArray[np.float32]

_NO_DETAIL = np.empty((0, 0, 3), np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Geometry:
    """One posed head and where it is in the picture."""

    vertices: Floats
    """(V, 3) world, metres, ``shift`` included."""
    vertices_ndc: Floats
    """(V, 3) NDC of the picture: x right, y down, z smaller = nearer."""
    landmarks_world: Mapping[str, Floats]
    """(N, 3) metres, by set name."""
    landmarks: Mapping[str, Floats]
    """(N, 2) pixels of the picture, the centre of pixel (row i, column j) being (j + 0.5, i + 0.5)."""


def picture_ndc(
    model: MorphableModel, parameters: FaceParameters, points: Floats, frame: tuple[int, int] = FRAME
) -> Floats:
    """(N, 3) world points → (N, 3) NDC of the picture of ``frame`` = (height, width) pixels."""
    world = torch.from_numpy(np.ascontiguousarray(points, np.float32))[None]
    ndc = project(world, torch.from_numpy(parameters.camera.copy())[None], model.camera_distance)
    if parameters.in_crop:
        ndc = crop_to_picture(ndc, torch.from_numpy(parameters.tform.copy())[None], frame)
    return np.asarray(ndc[0].numpy(), np.float32)


def geometry(model: MorphableModel, parameters: FaceParameters, *, frame: tuple[int, int] = FRAME) -> Geometry:
    """The posed head in the world and in the picture of ``frame`` = (height, width) pixels.

    ``frame`` is the picture that ``parameters.tform`` was measured in; it matters only for parameters of a
    crop and for the unit of ``landmarks``.
    """
    vertices = pose_vertices(model, [parameters])[0]
    world = {name: landmark_points(model, vertices, name) for name in model.landmarks}
    pixels = {
        name: ndc_to_pixels(torch.from_numpy(picture_ndc(model, parameters, points, frame)[:, :2]), frame).numpy()
        for name, points in world.items()
    }
    return Geometry(
        vertices=vertices,
        vertices_ndc=picture_ndc(model, parameters, vertices, frame),
        landmarks_world=world,
        landmarks=pixels,
    )


def render_maps(
    model: MorphableModel,
    parameters: FaceParameters,
    size: int | tuple[int, int] = 256,
    *,
    frame: tuple[int, int] = FRAME,
    detail: Floats | None = None,
) -> ConditionMaps:
    """Condition maps of ``size`` (side, or height and width), albedo and render clipped to [0, 1].

    ``detail`` is a UV picture of world normals (models/face3d/detail.py) in place of the mesh's own. Raises
    ``ValueError`` for parameters of another model, and when there is neither a UV picture nor a texture
    space.
    """
    details = None if detail is None else [detail]
    (maps,) = render_many(model, [parameters], size, frame=frame, details=details)
    return maps


def render_many(
    model: MorphableModel,
    parameters: Sequence[FaceParameters],
    size: int | tuple[int, int] = 256,
    *,
    frame: tuple[int, int] = FRAME,
    details: Sequence[Floats] | None = None,
    clip: bool = True,
) -> Iterator[ConditionMaps]:
    """:func:`render_maps` for several faces, whose blend shapes and textures are decoded together.

    ``clip`` False leaves albedo and render as they come, like DiffusionRig's stored maps (below 0 or above 1
    where a texture code or a light is extreme).
    """
    height, width = (size, size) if isinstance(size, int) else size
    canvas = Canvas(height, width)
    vertices, textures = pose_vertices(model, parameters), _textures(model, parameters)
    for index, one in enumerate(parameters):
        seen = canvas.draw(picture_ndc(model, one, vertices[index], frame), model.faces)
        albedo, normal, render = (np.empty((height, width, 3), np.float32) for _ in range(3))
        shade_pixels(
            seen.face,
            seen.barycentric,
            model.faces,
            vertex_normals(vertices[index], model.faces),
            model.corner_uvs,
            textures[index],
            weighted_light(one.light),
            _NO_DETAIL if details is None else details[index],
            albedo,
            normal,
            render,
        )
        if clip:
            np.clip(albedo, 0.0, 1.0, out=albedo)
            np.clip(render, 0.0, 1.0, out=render)
        yield ConditionMaps(albedo=albedo, normal=normal, render=render, mask=seen.face >= 0)


def _textures(model: MorphableModel, parameters: Sequence[FaceParameters]) -> list[Floats | NDArray[np.uint8]]:
    """The UV albedo (H, W, 3) of each face: its picture in bytes, else its code or the model's mean in 0…1."""
    coded = [one for one in parameters if one.albedo is None]
    decoded: Iterator[Floats] = iter(())
    if coded:
        if model.texture is None:
            raise ValueError(f"parameters without an albedo picture, and the model {model.name!r} has no texture space")
        decoded = iter(model.texture.decode(np.stack([_code(model.texture.components, one) for one in coded])))
    return [next(decoded) if one.albedo is None else one.albedo for one in parameters]


def _code(components: int, parameters: FaceParameters) -> Floats:
    """An empty texture code means the mean texture."""
    if parameters.texture.size in (0, components):
        return parameters.texture if parameters.texture.size else np.zeros(components, np.float32)
    raise ValueError(f"texture has {parameters.texture.size} coefficients; this texture space has {components}")
