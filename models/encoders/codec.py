"""Latent codecs: pictures to and from the space in which diffusion happens.

Every codec speaks *diffusion units*: its own scaling (0.18215 for Stable Diffusion) is applied inside, so a
latent has about unit variance wherever it is met, and features of one codec need no constant beside them to
be used.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from models.encoders.weights import digest_of_tensors, ldm_state, load_strictly, locate

# exp(½·LOG_VARIANCE_OF_NONE) = 3e-7: a draw from the posterior of a deterministic codec is its mean.
LOG_VARIANCE_OF_NONE = -30.0


class LatentCodec(Protocol):
    """What the pipeline asks of a codec. Latents are in diffusion units (about unit variance)."""

    name: str
    channels: int
    """C, latent channels."""
    factor: int
    """Pixels to a latent cell along each axis."""

    @property
    def digest(self) -> str:
        """Hash of what decides its numbers: name and weights."""

    def moments(self, images_BCHW: Tensor) -> Tensor:
        """float32 in [-1, 1] → mean and log variance (B, 2C, h, w); sides must be multiples of `factor`."""

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Latents in diffusion units → images (B, 3, H, W), float32 about [-1, 1], not clamped."""


def mode(moments: Tensor) -> Tensor:
    """The posterior's mean: (B, 2C, h, w) → (B, C, h, w)."""
    return moments.chunk(2, dim=1)[0]


def posterior_sample(moments: Tensor, noise: Tensor) -> Tensor:
    """z = μ + exp(½ log σ²)·ξ for ξ ~ N(0, 1) of shape (B, C, h, w)."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise


def check_pictures(images_BCHW: Tensor, factor: int) -> None:
    """ValueError unless the batch is (B, 3, H, W) with sides divisible by `factor`."""
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
        raise ValueError(f"a codec takes pictures of shape (B, 3, H, W), not {tuple(images_BCHW.shape)}")
    height, width = images_BCHW.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"picture is {width}×{height}: both sides must be multiples of {factor}; resize it first")


class KLCodec(nn.Module):
    """The variational autoencoder of Stable Diffusion (diffusers AutoencoderKL), frozen."""

    name = "autoencoder-kl"

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.channels = int(vae.config.latent_channels)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling = float(vae.config.scaling_factor)

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(f"{self.name}:{self.scaling!r}", self.vae.state_dict())

    @torch.no_grad()
    def moments(self, images_BCHW: Tensor) -> Tensor:
        check_pictures(images_BCHW, self.factor)
        posterior = self.vae.encode(images_BCHW.to(self.vae.device, self.vae.dtype)).latent_dist
        mean = posterior.mean.float() * self.scaling
        log_variance = posterior.logvar.float() + 2 * math.log(self.scaling)
        return torch.cat([mean, log_variance], dim=1)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        z = latents_BCHW.to(self.vae.device, self.vae.dtype) / self.scaling
        images: Tensor = self.vae.decode(z).sample
        return images.float()


class TinyAutoencoderCodec(nn.Module):
    """A distilled deterministic autoencoder (diffusers AutoencoderTiny): fast previews in the same latent
    space."""

    name = "autoencoder-tiny"

    def __init__(self, vae: AutoencoderTiny) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.channels = int(vae.config.latent_channels)
        self.factor = 2 ** (len(vae.config.encoder_block_out_channels) - 1)
        self.scaling = float(vae.config.scaling_factor)

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(f"{self.name}:{self.scaling!r}", self.vae.state_dict())

    @torch.no_grad()
    def moments(self, images_BCHW: Tensor) -> Tensor:
        check_pictures(images_BCHW, self.factor)
        mean = self.vae.encode(images_BCHW.to(self.vae.device, self.vae.dtype)).latents.float() * self.scaling
        return torch.cat([mean, torch.full_like(mean, LOG_VARIANCE_OF_NONE)], dim=1)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        z = latents_BCHW.to(self.vae.device, self.vae.dtype) / self.scaling
        images: Tensor = self.vae.decode(z).sample
        return images.float()


def load_kl_codec(
    source: str | Path,
    *,
    configuration: Mapping[str, Any] | None = None,
    subfolder: str | None = None,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = True,
) -> KLCodec:
    """Load an AutoencoderKL.

    Source is a diffusers folder (its `vae/` where it has one), a single `.safetensors` file in the original
    (LDM) or diffusers key names, or a hub name (with `subfolder="vae"` where that is a whole pipeline), which is
    looked up in the local cache unless `local_files_only` is False. A single file needs `configuration`, the keyword
    arguments of AutoencoderKL; None means Stable Diffusion's. Raises ValueError when nothing loadable is there or the
    tensors do not fit the configuration.
    """
    place = locate(source, "vae")
    if isinstance(place, Path) and place.is_file():
        vae = AutoencoderKL.from_config(dict(configuration or STABLE_DIFFUSION_VAE))
        load_strictly(vae, ldm_state(place, "vae", dict(vae.config)), place)
        return KLCodec(vae.to(dtype) if dtype != vae.dtype else vae)
    vae = AutoencoderKL.from_pretrained(
        place,
        subfolder=subfolder if isinstance(place, str) else None,
        torch_dtype=dtype,
        local_files_only=local_files_only,
        use_safetensors=True,
    )
    return KLCodec(vae)


def load_tiny_codec(
    source: str | Path, *, dtype: torch.dtype = torch.float32, local_files_only: bool = True
) -> TinyAutoencoderCodec:
    """Load an AutoencoderTiny from a diffusers folder or, as `load_kl_codec`, a hub name."""
    place = locate(source, "vae")
    return TinyAutoencoderCodec(
        AutoencoderTiny.from_pretrained(
            place, torch_dtype=dtype, local_files_only=local_files_only, use_safetensors=True
        )
    )


STABLE_DIFFUSION_VAE: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": 0.18215,
}
"""The autoencoder of Stable Diffusion 1.x (`sd-vae-ft-mse` has the same shapes)."""
