"""What a picture shows, cell by cell: a frozen semantic encoder made of a codec's latents.

A semantic encoder for small worlds. Nothing is thrown away: four neighbouring latent cells make one token, so hair,
clothes and background reach the Identity Preserver with their colours and places.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.encoders.codec import LatentCodec, mode
from models.encoders.semantic import Pixels, resized
from models.encoders.weights import digest_of_tensors

_GRID = 8
_PERIODS = (2.0, 1.0, 0.5)
"""Of the place's sines and cosines, in sides of the picture."""


class LatentGridEncoder:
    """An 8×8 grid of tokens: the latents of 2×2 cells and the sines and cosines of the token's place.

    Pictures are resized so that the codec gives 16×16 cells; D = 4·C + 12.
    """

    name = "latent-grid8"
    tokens = _GRID * _GRID

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec
        self.width = 4 * codec.channels + 4 * len(_PERIODS)
        self.size = 2 * _GRID * codec.factor

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(f"{self.name}:{self.codec.digest}", {"places": places()})

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> Tensor:
        latents = mode(self.codec.moments(resized(images, self.size) * 2 - 1)).cpu()
        cells = torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)
        return torch.cat([cells, places().expand(len(cells), -1, -1)], dim=2)


def places() -> Tensor:
    """Sines and cosines of the 64 tokens' centres, row by row: (64, 12)."""
    centres = (torch.arange(_GRID, dtype=torch.float32) + 0.5) / _GRID
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    waves = [
        wave(2 * math.pi * axis / period) for period in _PERIODS for axis in (x, y) for wave in (torch.sin, torch.cos)
    ]
    return torch.stack([wave.flatten() for wave in waves], dim=1)
