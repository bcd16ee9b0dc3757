"""The 3D Fusion Controller: condition maps → condition latents (paper §4).

Each map goes through the frozen codec, its mean (not a draw) is kept, and the latents are concatenated on
channels in the configured order.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.diffusion.config import MAPS
from models.encoders.codec import LatentCodec, mode


def to_codec_range(name: str, map_BCHW: Tensor) -> Tensor:
    """What the codec sees of a map: albedo and render are clipped to [0, 1] and spread over [-1, 1], so black
    is −1; normals are in [-1, 1] already, and their background, the zero vector, is 0."""
    if name == "normal":
        return map_BCHW.clamp(-1, 1)
    return map_BCHW.clamp(0, 1) * 2 - 1


def fuse(codec: LatentCodec, maps: Mapping[str, Tensor], order: Sequence[str] = MAPS) -> Tensor:
    """Condition latents (B, len(order)·C, h, w) of maps by name, each float32 (B, 3, H, W).

    All maps pass the codec in one batch. Raises ValueError when a map of the order is missing or shapes
    differ.
    """
    if missing := [name for name in order if name not in maps]:
        raise ValueError(f"maps {missing} are missing: the model was configured for {tuple(order)}")
    shapes = {tuple(maps[name].shape) for name in order}
    if len(shapes) > 1:
        raise ValueError(f"maps differ in shape: {sorted(shapes)}")
    pictures = torch.cat([to_codec_range(name, maps[name].float()) for name in order])
    latents = mode(codec.moments(pictures))
    return torch.cat(latents.chunk(len(order)), dim=1)


def as_batch(pictures: Sequence[npt.NDArray[np.floating[npt.NBitBase]]]) -> Tensor:
    """float pictures (H, W, 3) → float32 (B, 3, H, W)."""
    return torch.stack(
        [torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1) for picture in pictures]
    ).float()


def mirror_conditions(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flip maps left-right; a mirrored surface also has the x of its normals negated."""
    flipped = {name: picture.flip(-1) for name, picture in maps.items()}
    if "normal" in flipped:
        flipped["normal"] = flipped["normal"] * torch.tensor([-1.0, 1.0, 1.0]).to(flipped["normal"]).view(1, 3, 1, 1)
    return flipped
