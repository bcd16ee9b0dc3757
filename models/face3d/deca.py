"""DECA (Feng et al. 2021): from a 224-pixel crop to FLAME parameters, detail code and displacement.

E_flame and E_detail are ResNet-50 regressors of 236 and 128 numbers, D_detail decodes a 256² displacement
map. The networks see RGB in 0…1, without ImageNet's mean and deviation. Weights are a user's
``deca_model.tar``, converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.face3d.parameters import DECA_SIZES, FaceParameters
from models.face3d.resnet import ResNet50
from models.face3d.weight_files import check_tensors, read_tensors

E_FLAME, E_DETAIL, D_DETAIL = "E_flame", "E_detail", "D_detail"
NETWORKS = "deca/networks.safetensors"

CODE = sum(DECA_SIZES.values())
"""236 numbers: shape, texture, expression, pose, camera, light."""
DETAIL = 128
DISPLACEMENT = 0.01
"""Metres: D_detail's tanh is scaled to ± this."""


class Regressor(nn.Module):
    """E_flame and E_detail: ResNet-50 features → Linear → ReLU → Linear; (B, 3, 224, 224) → (B, outputs)."""

    def __init__(self, outputs: int, *, width: int = 64, hidden: int = 1024) -> None:
        super().__init__()
        self.encoder = ResNet50(width)
        self.layers = nn.Sequential(nn.Linear(self.encoder.features, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.layers(self.encoder(images)))


class DetailDecoder(nn.Module):
    """D_detail: [jaw pose 3, expression 50, detail 128] (B, 181) → displacement along normals (B, 1, 256, 256), metres.

    Batch norms but the first have eps 0.8: upstream passes 0.8 where eps is expected, and was trained so.
    """

    def __init__(self, inputs: int = 3 + DECA_SIZES["expression"] + DETAIL) -> None:
        super().__init__()
        self.start = (128, 8, 8)
        self.l1 = nn.Sequential(nn.Linear(inputs, int(np.prod(self.start))))
        blocks: list[nn.Module] = [nn.BatchNorm2d(128)]
        for channels, planes in ((128, 128), (128, 64), (64, 64), (64, 32), (32, 16)):
            blocks += [
                nn.Upsample(scale_factor=2, mode="bilinear"),
                nn.Conv2d(channels, planes, 3, padding=1),
                nn.BatchNorm2d(planes, eps=0.8),
                nn.LeakyReLU(0.2),
            ]
        self.conv_blocks = nn.Sequential(*blocks, nn.Conv2d(16, 1, 3, padding=1), nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        return torch.as_tensor(self.conv_blocks(self.l1(codes).view(-1, *self.start)) * DISPLACEMENT)


def build_network(group: str) -> nn.Module:
    """E_flame, E_detail or D_detail at full size, with random weights."""
    if group == D_DETAIL:
        return DetailDecoder()
    return Regressor({E_FLAME: CODE, E_DETAIL: DETAIL}[group])


@cache
def network_shapes(group: str) -> dict[str, tuple[int, ...]]:
    """State-dict keys and shapes of a network."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in build_network(group).state_dict().items()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Deca:
    """The three networks, in evaluation mode, on one device."""

    coarse: Regressor
    detail: Regressor
    displacement: DetailDecoder

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """From a folder of converted assets. Raises ``MissingAsset``, or ``ValueError`` naming the wrong tensor."""
        path = folder / NETWORKS
        tensors = read_tensors(path)
        networks = {}
        for group in (E_FLAME, E_DETAIL, D_DETAIL):
            prefix = f"{group}."
            state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            check_tensors(state, network_shapes(group), path, group)
            network = build_network(group)
            network.load_state_dict(state)
            networks[group] = network.to(device).eval().requires_grad_(False)
        coarse, detail, displacement = (networks[group] for group in (E_FLAME, E_DETAIL, D_DETAIL))
        assert isinstance(coarse, Regressor)
        assert isinstance(detail, Regressor)
        assert isinstance(displacement, DetailDecoder)
        return cls(coarse=coarse, detail=detail, displacement=displacement)

    @property
    def device(self) -> torch.device:
        return next(self.coarse.parameters()).device

    @torch.inference_mode()
    def encode(
        self, crops: Sequence[NDArray[np.float32]], tforms: Sequence[NDArray[np.float64]]
    ) -> list[FaceParameters]:
        """(224, 224, 3) crops in 0…1 and their transforms (models/face3d/deca_crop.py) → parameters of the "flame" model."""
        codes = self.coarse(self._images(crops)).float().cpu().numpy()
        return [FaceParameters.from_vector236(code, tform=tform) for code, tform in zip(codes, tforms, strict=True)]

    @torch.inference_mode()
    def encode_detail(self, crops: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(224, 224, 3) crops in 0…1 → (B, 128) detail codes."""
        return np.asarray(self.detail(self._images(crops)).float().cpu().numpy())

    @torch.inference_mode()
    def decode_detail(self, parameters: Sequence[FaceParameters], details: NDArray[np.float32]) -> NDArray[np.float32]:
        """Faces and their detail codes (B, 128) → (B, 256, 256) displacement in metres, before masking."""
        codes = np.stack(
            [
                np.concatenate([one.pose[3:], one.expression, detail])
                for one, detail in zip(parameters, details, strict=True)
            ]
        )
        maps = self.displacement(torch.from_numpy(codes).to(self.device))
        return np.asarray(maps[:, 0].float().cpu().numpy())

    def _images(self, crops: Sequence[NDArray[np.float32]]) -> Tensor:
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).to(self.device)
