"""FLAME (Li et al. 2017): converted files → MorphableModel, and its 68 landmarks with the sliding contour.

FLAME's expression components are unlabelled: edits by name are the jaw, and vectors a user gives as presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.face3d.morphable import (
    Floats,
    LandmarkSet,
    MorphableModel,
    Posed,
    contour_row,
    surface_points,
)
from models.face3d.texture import TextureSpace
from models.face3d.weight_files import read_tensors

MODEL, LANDMARKS, TEMPLATE, TEXTURE = (
    f"flame/{name}.safetensors" for name in ("model", "landmarks", "template", "texture")
)

IDENTITY = slice(0, 100)
"""Columns of ``shapedirs`` that DECA's identity code speaks of (0…299 are identity)."""
EXPRESSION = slice(300, 350)
"""Columns of its expression code (300…399 are expression)."""


def load_flame(
    folder: Path,
    *,
    identity: slice = IDENTITY,
    expression: slice = EXPRESSION,
    presets: Mapping[str, Floats] | None = None,
) -> MorphableModel:
    """FLAME from a folder of converted assets, with its texture space when that is there.

    Raises ``MissingAsset`` or ``ValueError`` naming file and key, also when model and template do not belong
    together.
    """
    model = read_tensors(
        folder / MODEL,
        {
            "v_template": (None, 3), "shapedirs": (None, 3, None), "posedirs": (None, 3, None), "faces": (None, 3),
            "J_regressor": (None, None), "weights": (None, None), "parents": (None,),
        },
    )  # fmt: skip
    template = read_tensors(folder / TEMPLATE, {"uvs": (None, 2), "faces": (None, 3), "uv_faces": (None, 3)})
    if not torch.equal(model["faces"], template["faces"]):
        raise ValueError(
            f"{folder / TEMPLATE}: its triangles are not those of {folder / MODEL}; "
            f"take head_template.obj and the model from the same FLAME"
        )
    landmarks, contour = _landmarks(folder / LANDMARKS, len(model["faces"]))
    return MorphableModel(
        name="flame",
        template=model["v_template"].numpy(),
        faces=model["faces"].numpy().astype(np.int32),
        shape_basis=np.ascontiguousarray(model["shapedirs"][:, :, identity].numpy()),
        expression_basis=np.ascontiguousarray(model["shapedirs"][:, :, expression].numpy()),
        pose_basis=model["posedirs"].numpy(),
        joint_regressor=model["J_regressor"].numpy(),
        parents=tuple(int(parent) for parent in model["parents"]),
        skinning_weights=model["weights"].numpy(),
        uvs=template["uvs"].numpy(),
        uv_faces=template["uv_faces"].numpy().astype(np.int32),
        landmarks=landmarks,
        contour=contour,
        texture=load_texture(folder / TEXTURE) if (folder / TEXTURE).is_file() else None,
        expression_presets=dict(presets or {}),
    )


def load_texture(path: Path) -> TextureSpace:
    """A converted texture space (models/face3d/asset_conversion.py)."""
    tensors = read_tensors(path, {"mean": (None, None, 3), "basis": (None, None, None, 3)})
    return TextureSpace(mean=tensors["mean"].numpy(), basis=tensors["basis"].numpy())


def _landmarks(path: Path, faces: int) -> tuple[dict[str, LandmarkSet], LandmarkSet]:
    shapes: dict[str, tuple[int | None, ...]] = {}
    for kind, shape in (("static", (51,)), ("dynamic", (79, 17)), ("full", (1, 68))):
        shapes |= {f"{kind}_faces": shape, f"{kind}_barycentric": (*shape, 3)}
    tensors = read_tensors(path, shapes)
    sets = {}
    for kind in ("static", "dynamic", "full"):
        indices = tensors[f"{kind}_faces"].squeeze(0).numpy().astype(np.int32)
        if indices.min() < 0 or indices.max() >= faces:
            raise ValueError(f"{path}: {kind}_faces names triangle {indices.max()}; the model has {faces}")
        weights = tensors[f"{kind}_barycentric"].squeeze(0).numpy()
        sets[kind] = LandmarkSet(faces=indices, barycentric=weights)
    return {"static51": sets["static"], "full68": sets["full"]}, sets["dynamic"]


def flame_landmarks(model: MorphableModel, posed: Posed) -> tuple[Tensor, Tensor]:
    """World landmarks (B, 68, 3) of a posed batch: with the contour that slides with yaw (2D), and the full set (3D)."""
    if model.contour is None:
        raise ValueError(f"the model {model.name!r} has no contour table")
    device = posed.vertices.device
    faces = torch.from_numpy(model.faces).long().to(device)
    rows = contour_row(posed.rotations)

    def points(triangles: Tensor, weights: Tensor) -> Tensor:
        return surface_points(posed.vertices, faces, triangles.long().to(device), weights.to(device))

    table, static, full = model.contour, model.landmarks["static51"], model.landmarks["full68"]
    index = rows.cpu()
    contour = points(torch.from_numpy(table.faces)[index], torch.from_numpy(table.barycentric)[index])
    inner = points(torch.from_numpy(static.faces), torch.from_numpy(static.barycentric))
    return (
        torch.cat([contour, inner], dim=1),
        points(torch.from_numpy(full.faces), torch.from_numpy(full.barycentric)),
    )
