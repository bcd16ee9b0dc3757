"""Maps as channels of the denoiser instead of a Guidance Network: the conditioning of DiffusionRig (arXiv:2304.06711), kept as a
baseline.

Only the way of the maps differs: codec, Identity Preserver, tokens on the grid, noise process, training and sampling are
those of InstaFace. The denoiser's first convolution reads [z_t, condition latents].
"""

from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from models.diffusion.config import InstaFaceConfig
from models.diffusion.guidance import Features, TokenLayout, token_layout

MAPS = "maps"
"""The one entry of these features: (B, 3C, h, w)."""


class ConditionConcatenation(nn.Module):
    """In the Guidance Network's place: condition latents (B, 3C, h, w), identity tokens (B, N, W) → {"maps": (B, 3C, h, w)}.

    Tokens of the `identity_grid` are added to the condition latents where they lie, as the Guidance Network does; without
    a grid nothing here is learned.
    """

    def __init__(self, config: InstaFaceConfig) -> None:
        super().__init__()
        self.layout: TokenLayout | None = token_layout(config)
        self.gates = nn.ParameterDict()

    def forward(self, conditions_BChw: Tensor, tokens_BNW: Tensor, timesteps: Tensor | None = None) -> Features:
        if self.layout is not None:
            conditions_BChw = conditions_BChw + self.layout(tokens_BNW)
        return {MAPS: conditions_BChw}


def beside(z: Tensor, features: Mapping[str, Tensor] | None, channels: int) -> Tensor:
    """[z, maps] along the channels; no features are maps of zeros."""
    if features is None:
        return torch.cat([z, z.new_zeros(len(z), channels, *z.shape[2:])], dim=1)
    return torch.cat([z, features[MAPS].to(z.dtype).expand(len(z), -1, -1, -1)], dim=1)


def reading_maps(denoiser: UNet2DConditionModel, config: InstaFaceConfig) -> UNet2DConditionModel:
    """A (pretrained) denoiser whose first convolution reads the maps too, with kernels of zero: at first it computes what it
    did. One that has the channels already is returned as it is."""
    if denoiser.conv_in.in_channels == config.denoiser_channels:
        return denoiser
    with torch.device("meta"):
        wide = UNet2DConditionModel.from_config({**denoiser.config, "in_channels": config.denoiser_channels})
    state = dict(denoiser.state_dict())
    kernel = state["conv_in.weight"]
    nothing = kernel.new_zeros(len(kernel), config.condition_channels, *kernel.shape[2:])
    state["conv_in.weight"] = torch.cat([kernel, nothing], dim=1)
    wide.load_state_dict(state, strict=True, assign=True)
    return wide
