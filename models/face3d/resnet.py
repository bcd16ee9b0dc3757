"""ResNet-50 (He et al. 2015, §4) in the v1.5 layout: the stride sits on the 3 × 3 convolution of a bottleneck.

Module names are those of the published weight files: conv1, bn1, layer1…layer4, downsample.0/1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1 × 1 → 3 × 3 → 1 × 1 convolutions with batch norm, added to the (projected) input."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * EXPANSION)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != planes * EXPANSION:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, planes * EXPANSION, 1, stride, bias=False), nn.BatchNorm2d(planes * EXPANSION)
            )

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return torch.relu(self.bn3(self.conv3(x)) + kept)


class ResNet50(nn.Module):
    """(B, 3, H, W) → (B, 32·width) pooled features; 2,048 at the published width of 64."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for index, blocks in enumerate(BLOCKS):
            planes = width << index
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(Bottleneck(channels, planes, stride=2 if block == 0 and index > 0 else 1))
                channels = planes * EXPANSION
            self.add_module(f"layer{index + 1}", layer)
        self.features = channels

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for index in range(len(BLOCKS)):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return x.mean(dim=(2, 3))
