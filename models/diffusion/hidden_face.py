"""A photograph whose face is hidden: what is left of it to the tokens and the maps is hair, shape, light and colours.

The maps of the paper come from DECA, whose albedo lies in a space of fifty smooth textures: who somebody is has to be told by
the face embedding. Maps that carry the photograph's own texture leave it nothing to tell. Training that hides the face in a share
of the rows, and ablations in which it is hidden, ask for what the embedding alone knows.
"""

import torch
from torch import Tensor

from models.diffusion.config import InstaFaceConfig

FACE_BOX = (0.25, 0.25, 0.75, 0.875)
"""Left, top, right, bottom of forehead, brows, eyes, nose and mouth in an FFHQ-aligned picture: eyes 0.25 of a side apart at a
height of 0.47, with the mouth at 0.75 (the alignment's own constants, Karras et al. 2019)."""
TEXTURED = ("albedo", "render")
"""Maps that show the face's texture."""
_WINDOW = 3 / 16
"""Share of the side over which their latents are averaged inside the box."""


def face_cells(grid: int) -> Tensor:
    """Which cells of a grid over an aligned picture lie on the middle of the face: bool (grid, grid)."""
    centres = (torch.arange(grid) + 0.5) / grid
    left, top, right, bottom = FACE_BOX
    across, down = (centres > left) & (centres < right), (centres > top) & (centres < bottom)
    return down[:, None] & across[None, :]


def hide_face(config: InstaFaceConfig, semantic_BLD: Tensor, conditions_BChw: Tensor) -> tuple[Tensor, Tensor]:
    """Semantic tokens whose cells on the face are zero, and condition latents whose texture is averaged there; copies.

    Raises:
        ValueError: the semantic tokens of these networks lie on no grid (`identity_grid`).
    """
    if not config.identity_grid:
        raise ValueError(
            "these networks have no identity_grid: nobody knows which of their semantic tokens show the face, so it cannot be "
            "hidden"
        )
    semantic = semantic_BLD.clone()
    cells = face_cells(config.identity_grid).flatten().to(semantic.device)
    semantic[:, -len(cells) :][:, cells] = 0
    maps = dict(zip(config.maps, conditions_BChw.split(config.latent_channels, dim=1), strict=True))
    side = conditions_BChw.shape[-1]
    inside = face_cells(side).to(conditions_BChw.device)
    width = 2 * max(1, round(_WINDOW * side / 2 - 0.5)) + 1
    for name in TEXTURED:
        if name in maps:
            smooth = torch.nn.functional.avg_pool2d(
                maps[name], width, stride=1, padding=width // 2, count_include_pad=False
            )
            maps[name] = torch.where(inside, smooth, maps[name])
    return semantic, torch.cat([maps[name] for name in config.maps], dim=1)
