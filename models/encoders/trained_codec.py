"""A small trained codec: linear patches in, patches and a learned correction out.

The encoder is the principal-component basis of 16×16×3 blocks of portraits, condition maps and photographs: one
matrix product, 64 channels. Channels are scaled by variance^-¼, half-way to whitening, so that large scales keep
more energy than fine ones. The decoder is the transposed basis plus a convolutional residual that starts at zero: it
removes the seams between blocks and restores what 64 of 768 numbers leave out. `models/tiny/train_codec.py` makes it.
"""

import functools
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.encoders.codec import LOG_VARIANCE_OF_NONE, check_pictures
from models.encoders.weights import digest_of_tensors, load_strictly

BLOCK = 16
CHANNELS = 64
_WIDTHS = (128, 96, 48)
"""Channels of the correction on the latent grid, on the grid twice as fine, and four times as fine."""


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), 3×3; the second starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        if self.second.bias is not None:
            nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(nn.functional.silu(x))
        output: Tensor = x + self.second(nn.functional.silu(h))
        return output


class Correction(nn.Module):
    """Latents (B, C, h, w) and their linear picture (B, 3, 16h, 16w) → what to add to the picture; zero at first."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        coarse, middle, fine = _WIDTHS
        self.input = nn.Conv2d(channels, coarse, 3, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse) for _ in range(3)))
        self.to_middle = nn.Conv2d(coarse, 4 * middle, 3, padding=1)
        self.middle = nn.Sequential(*(ResidualBlock(middle) for _ in range(2)))
        self.to_fine = nn.Conv2d(middle, 4 * fine, 3, padding=1)
        self.picture = nn.Conv2d(48, fine, 3, padding=1)
        self.fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(2)))
        self.output = nn.Conv2d(fine, 48, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)

    def forward(self, latents: Tensor, picture: Tensor) -> Tensor:
        h = self.coarse(self.input(latents))
        h = self.middle(nn.functional.pixel_shuffle(self.to_middle(h), 2))
        h = nn.functional.pixel_shuffle(self.to_fine(h), 2)
        h = self.fine(h + self.picture(nn.functional.pixel_unshuffle(picture, 4)))
        return nn.functional.pixel_shuffle(self.output(nn.functional.silu(h)), 4)


class TrainedPatchCodec(nn.Module):
    """16×16×3 pixels → 64 channels, linear; back with a learned correction (an implementation of `LatentCodec`)."""

    name = "patch-trained-16x16x64"
    channels = CHANNELS
    factor = BLOCK

    def __init__(self) -> None:
        super().__init__()
        values = 3 * BLOCK * BLOCK
        self.mean: Tensor
        self.basis: Tensor
        self.gain: Tensor
        self.register_buffer("mean", torch.zeros(values))
        """Mean block."""
        self.register_buffer("basis", torch.zeros(CHANNELS, values))
        """Orthonormal rows."""
        self.register_buffer("gain", torch.ones(CHANNELS))
        """latent = gain · basis · (block − mean)."""
        self.correction = Correction()

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(self.name, self.state_dict())

    @torch.no_grad()
    def fit(self, blocks: Tensor) -> None:
        """Set mean, basis and gain from blocks (N, 768) of pictures in [-1, 1]: principal components, scaled to an
        average variance of 1."""
        mean = blocks.mean(dim=0)
        centred = (blocks - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(blocks))
        variance, basis = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS].T
        # The sign of a component is free: make its largest entry positive.
        largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
        gain = variance**-0.25
        gain = gain / (gain.square() * variance).mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis * largest.sign())
        self.gain.copy_(gain)

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Pictures in [-1, 1] → latents (B, 64, h, w)."""
        check_pictures(images_BCHW, BLOCK)
        x = images_BCHW.to(self.basis.device, torch.float32)
        analysis = (self.basis * self.gain[:, None]).unflatten(1, (3, BLOCK, BLOCK))
        offset = -(self.basis @ self.mean) * self.gain
        return nn.functional.conv2d(x, analysis, offset, stride=BLOCK)

    def linear_picture(self, latents_BCHW: Tensor) -> Tensor:
        """What the basis alone decodes."""
        synthesis = (self.basis / self.gain[:, None]).unflatten(1, (3, BLOCK, BLOCK))
        picture = nn.functional.conv_transpose2d(latents_BCHW, synthesis, stride=BLOCK)
        mean = self.mean.view(1, 3, BLOCK, BLOCK)
        return picture + mean.repeat(1, 1, latents_BCHW.shape[-2], latents_BCHW.shape[-1])

    @torch.no_grad()
    def moments(self, images_BCHW: Tensor) -> Tensor:
        mean = self.encode(images_BCHW)
        return torch.cat([mean, torch.full_like(mean, LOG_VARIANCE_OF_NONE)], dim=1)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        if latents_BCHW.shape[1] != CHANNELS:
            raise ValueError(f"{self.name} decodes {CHANNELS} channels, not {latents_BCHW.shape[1]}")
        latents = latents_BCHW.to(self.basis.device, torch.float32)
        picture = self.linear_picture(latents)
        output: Tensor = picture + self.correction(latents, picture)
        return output


def blocks_of(images_BCHW: Tensor) -> Tensor:
    """The 16×16 blocks of pictures, row by row: (N, 768)."""
    blocks = nn.functional.unfold(images_BCHW, BLOCK, stride=BLOCK)
    return blocks.transpose(1, 2).reshape(-1, math.prod((3, BLOCK, BLOCK)))


def load_trained_codec(path: Path) -> TrainedPatchCodec:
    """Read a safetensors file, strictly, and freeze it. ValueError when tensors are missing, unknown or misshapen."""
    codec = TrainedPatchCodec()
    load_strictly(codec, {key: tensor.float() for key, tensor in load_file(path).items()}, path)
    return codec.eval().requires_grad_(False)
