"""A codec without weights: the block cosine transform, cut to what the eye sees.

Each 8×8 block of pixels is turned into an opponent colour space (one luma, two chroma axes) and into its
orthonormal two-dimensional cosine transform; 16 of the 192 coefficients are kept, the lowest frequencies,
most of them luma. The rows are orthonormal, so decoding is the transpose and the kept part is the best
least-squares picture they can give. Nothing is learned, nothing is downloaded, and encoding is one matrix
product.
"""

import functools
import itertools
import math

import torch
from torch import Tensor

from models.encoders.codec import LOG_VARIANCE_OF_NONE, check_pictures
from models.encoders.weights import digest_of_tensors

_BLOCK = 8
_KEPT = (10, 3, 3)
"""Coefficients kept of luma, red-blue and green-magenta: the lowest frequencies of each."""


def cosine_basis(size: int = _BLOCK) -> Tensor:
    """Orthonormal DCT-II: row u is √(2/N) cos((2x+1)uπ/2N), row 0 divided by √2. float64 (size, size)."""
    x = torch.arange(size, dtype=torch.float64)
    basis = math.sqrt(2 / size) * torch.cos((2 * x[None] + 1) * x[:, None] * math.pi / (2 * size))
    basis[0] /= math.sqrt(2)
    return basis


def opponent_colours() -> Tensor:
    """Orthonormal rows: luma (1,1,1)/√3, red-blue (1,0,−1)/√2, green-magenta (1,−2,1)/√6. float64 (3, 3)."""
    rows = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    orthonormal: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return orthonormal


def typical_deviation(colour: int, frequency: float) -> float:
    """Standard deviation of a coefficient over photographs and condition maps, pictures in [-1, 1].

    A power law: 8 for the mean of luma and 1.3/f^1.3 above it, 3 and 0.35/f for chroma (measured, rounded).
    """
    if colour == 0:
        return 8.0 if frequency == 0 else 1.3 / frequency**1.3
    return 3.0 if frequency == 0 else 0.35 / frequency


class PatchCosineCodec:
    """Fixed linear patch codec: 8×8×3 pixels ↔ 16 channels, no weights (an implementation of `LatentCodec`).

    Channels are divided by the square root of their typical deviation, half-way to whitening: large scales
    keep more energy than fine ones, as in a learned latent space, and the average variance is about 1.
    """

    name = "patch-cosine-8x8x16"
    channels = sum(_KEPT)
    factor = _BLOCK

    def __init__(self) -> None:
        cosine, colours = cosine_basis(), opponent_colours()
        frequencies = sorted(itertools.product(range(_BLOCK), repeat=2), key=lambda uv: (math.hypot(*uv), uv))
        rows, gains = [], []
        for colour, kept in enumerate(_KEPT):
            for u, v in frequencies[:kept]:
                rows.append(torch.einsum("c,y,x->cyx", colours[colour], cosine[u], cosine[v]))
                gains.append(0.9 / math.sqrt(typical_deviation(colour, math.hypot(u, v))))
        gain = torch.tensor(gains, dtype=torch.float64)[:, None, None, None]
        basis = torch.stack(rows)
        self.analysis = (basis * gain).float()
        """(16, 3, 8, 8): latent = analysis · block."""
        self.synthesis = (basis / gain).float()
        """(16, 3, 8, 8): block = synthesisᵀ · latent."""

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(self.name, {"analysis": self.analysis, "synthesis": self.synthesis})

    def moments(self, images_BCHW: Tensor) -> Tensor:
        check_pictures(images_BCHW, self.factor)
        analysis = self.analysis.to(images_BCHW.device)
        mean = torch.nn.functional.conv2d(images_BCHW.float(), analysis, stride=self.factor)
        return torch.cat([mean, torch.full_like(mean, LOG_VARIANCE_OF_NONE)], dim=1)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        if latents_BCHW.shape[1] != self.channels:
            raise ValueError(f"{self.name} decodes {self.channels} channels, not {latents_BCHW.shape[1]}")
        synthesis = self.synthesis.to(latents_BCHW.device)
        return torch.nn.functional.conv_transpose2d(latents_BCHW.float(), synthesis, stride=self.factor)
