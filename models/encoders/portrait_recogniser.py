"""A small face recogniser trained on synthetic portraits: the identity that conditions `tiny`.

dlib's recogniser stays out of it, so that it can judge the results. `models/tiny/train_recogniser.py` makes it.
"""

import functools
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.encoders.face_recognition import Floats, Pixels, Points, arcface_crop
from models.encoders.weights import digest_of_tensors, load_strictly

CROP = 56
"""Side of the aligned crop in pixels: ArcFace's 112, halved."""
WIDTH = 128
_CHANNELS = (32, 64, 128, 192)


class _Stage(nn.Sequential):
    """Halve the sides, then one residual pair of convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.down_norm = nn.BatchNorm2d(outputs)
        self.first = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.down_norm(self.down(x)))
        inner = torch.relu(self.first_norm(self.first(h)))
        return torch.relu(h + self.second_norm(self.second(inner)))


class RecogniserNetwork(nn.Module):
    """Crops (B, 3, 56, 56) in [-1, 1] → (B, 128), not normalised."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *_CHANNELS[:-1])
        self.stages = nn.Sequential(*(_Stage(i, o) for i, o in zip(inputs, _CHANNELS, strict=True)))
        cells = 4 * 4  # 56 → 28 → 14 → 7 → 4
        self.output = nn.Linear(_CHANNELS[-1] * cells, WIDTH, bias=False)
        self.output_norm = nn.BatchNorm1d(WIDTH)

    def forward(self, crops_BCHW: Tensor) -> Tensor:
        embedding: Tensor = self.output_norm(self.output(self.stages(crops_BCHW).flatten(1)))
        return embedding


class PortraitRecogniser:
    """128 numbers a face of root mean square 1; the cosine tells persons apart (an implementation of
    `FaceEncoder`)."""

    name = "portrait-recogniser"
    width = WIDTH

    def __init__(self, path: Path) -> None:
        """Reads a safetensors file, strictly. ValueError when tensors are missing, unknown or misshapen."""
        self.path = path
        self.network = RecogniserNetwork()
        state = {k: t.float() if t.is_floating_point() else t for k, t in load_file(path).items()}
        load_strictly(self.network, state, path)
        self.network.eval().requires_grad_(False)

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(f"{self.name}:{CROP}", self.network.state_dict())

    @torch.no_grad()
    def embed(self, image: Pixels, five_points: Points) -> Floats:
        crop = torch.from_numpy(recogniser_crop(image, five_points)).permute(2, 0, 1)[None].float() / 127.5 - 1
        vector = self.network(crop.to(self.network.output.weight.device))[0].cpu()
        return np.asarray((vector * (WIDTH**0.5 / vector.norm())).numpy(), np.float32)

    def __reduce__(self) -> tuple[type["PortraitRecogniser"], tuple[Path]]:
        return PortraitRecogniser, (self.path,)


def recogniser_crop(image: Pixels, five_points: Points) -> Pixels:
    """The aligned crop, uint8 (56, 56, 3)."""
    crop = arcface_crop(image, five_points)
    return np.asarray(cv2.resize(crop, (CROP, CROP), interpolation=cv2.INTER_AREA), np.uint8)
