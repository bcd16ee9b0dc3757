"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; Lite variant: no squeeze-excite, ReLU6), as a
feature network.

Key names are those of the public PyTorch weight file `efficientnet-lite0-57934424.pth`.
"""

import torch
from torch import Tensor, nn

# One row a stage: repeats, kernel, stride of the first block, expansion, output channels (Table 1).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class MobileBlock(nn.Module):
    """Inverted bottleneck: expand 1×1, depthwise k×k, project 1×1; residual where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = nn.functional.relu6(self._bn1(self._depthwise_conv(h)))
        output: Tensor = self._bn2(self._project_conv(h))
        return x + output if self.residual else output


class EfficientNetLite0(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] → `features` (B, 320, H/32, W/32), `forward` gives ImageNet logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for i in range(repeats):
                blocks.append(MobileBlock(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def features(self, x: Tensor) -> Tensor:
        h = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            h = block(h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu6(self._bn1(self._conv_head(self.features(x))))
        logits: Tensor = self._fc(h.mean(dim=(2, 3)))
        return logits


def load_efficientnet_lite0(path: str) -> EfficientNetLite0:
    """Load the weight file strictly, without unpickling code, and freeze it for inference."""
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"), strict=True)
    return network.eval().requires_grad_(False)
