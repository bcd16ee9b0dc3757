"""A complete InstaFace of half a million parameters, and data of its shapes."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace
from models.diffusion.presets import debug_config
from models.rng import torch_generator

SMALL = dataclasses.replace(
    debug_config(latent_size=16),
    latent_channels=4,
    widths=(16, 32),
    attention=(True, True),
    token_width=64,
    tokens=4,
    semantic_width=24,
    face_width=12,
    min_snr_gamma=None,
)

SMALL_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
}
"""Keyword arguments of a small AutoencoderKL."""


def small_config(**changes: Any) -> InstaFaceConfig:
    return dataclasses.replace(SMALL, **changes)


def small_model(**changes: Any) -> InstaFace:
    return InstaFace.from_config(small_config(**changes), seed=3)


def batch_of(config: InstaFaceConfig, rows: int, name: str = "batch") -> dict[str, Tensor]:
    """Random features of `rows` photographs."""
    generator = torch_generator(name, rows)
    c, side = config.latent_channels, config.latent_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    return {
        "moments": torch.cat([normal(c, side, side), normal(c, side, side) - 4], dim=1),
        "conditions": normal(config.condition_channels, side, side),
        "semantic": normal(5, config.semantic_width),
        "face": normal(config.face_width),
        "mask": (normal(1, side, side) > 0).float(),
    }


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(model: torch.nn.Module, expected: dict[str, Tensor], relative: float) -> None:
    """Every gradient within `relative` of the largest entry of its tensor, and of the network's typical gradient.

    The second allowance is for gradients that are zero but for rounding (a bias before a normalisation, say).
    """
    found = gradients(model)
    assert found.keys() == expected.keys()
    typical = torch.stack([g.abs().max() for g in expected.values()]).median().item()
    for name, gradient in found.items():
        bound = relative * max(expected[name].abs().max().item(), typical)
        assert (gradient - expected[name]).abs().max().item() <= bound, name
