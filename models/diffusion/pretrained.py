"""Starting from Stable Diffusion: its UNet as denoiser, from whatever form it has on disk."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from models.diffusion.config import InstaFaceConfig
from models.diffusion.folder import load_unet
from models.encoders.weights import ldm_state, load_strictly, locate


def load_denoiser(
    source: str | Path,
    config: InstaFaceConfig,
    *,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = True,
) -> UNet2DConditionModel:
    """Load a UNet of the configuration's shape, for `InstaFace.from_denoiser`.

    Source is a diffusers folder (its `unet/` where it has one), a single `.safetensors` file (a whole Stable
    Diffusion checkpoint or its UNet, in original or diffusers key names), or a hub name, which is looked up
    in the local cache unless `local_files_only` is False. Raises ValueError when there is nothing to load,
    when tensors are missing or unknown, or when the shape is another one.
    """
    place = locate(source, "unet")
    if isinstance(place, str):
        return load_unet(
            place, config, config.latent_channels, dtype, subfolder="unet", local_files_only=local_files_only
        )
    if place.is_dir():
        return load_unet(place, config, config.latent_channels, dtype)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config.unet_kwargs(config.latent_channels))
    state = ldm_state(place, "unet", dict(unet.config))
    load_strictly(unet, {key: tensor.to(dtype) for key, tensor in state.items()}, place)
    return unet.eval()
