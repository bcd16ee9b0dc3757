"""Inception v3 up to its 2048 pooled features, in the variant that FID is defined on (Szegedy et al. 2015; Heusel et al. 2017).

Names and shapes are torchvision's. FID's variant averages without counting the padding, and its last block takes a maximum
where the others average. The weights are the user's: `pt_inception-2015-12-05-6726825d.pth`, converted from the
TensorFlow graph that FID was published with.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 2048
SIDE = 299
_POOLS = {"Mixed_6a": "halve", "Mixed_7a": "halve", "Mixed_7c": "maximum"}


class _Convolution(nn.Module):
    """Convolution, batch norm of ε 0.001, rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        same = (0, 0) if stride == 2 else (size[0] // 2, size[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, size, stride, same, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


_Layer = tuple[str, int, int | tuple[int, int]]
_Branch = tuple[_Layer, ...]
ROW, COLUMN, ROW3, COLUMN3 = (1, 7), (7, 1), (1, 3), (3, 1)


class _Mixed(nn.Module):
    """Branches of convolutions beside each other; a layer whose names ends in a and b runs side by side and is joined."""

    def __init__(self, name: str, inputs: int, branches: tuple[_Branch, ...], *, halves: bool = False) -> None:
        super().__init__()
        self.pool = _POOLS.get(name, "average")
        self.plan = branches
        for branch in branches:
            width = inputs
            for place, (layer, outputs, kernel) in enumerate(branch):
                last = place == len(branch) - 1
                stride = 2 if halves and last else 1
                self.add_module(layer, _Convolution(width, outputs, kernel, stride))
                if not layer.endswith("a"):
                    width = outputs

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for branch in self.plan:
            h = self._pooled(x) if branch[0][0] == "branch_pool" else x
            joined: list[Tensor] = []
            for layer, _, _ in branch:
                made = self.get_submodule(layer)(h)
                if layer[-1] in "ab" and layer[-2].isdigit():
                    joined.append(made)
                else:
                    h = made
            out += joined or [h]
        if self.pool == "halve":
            out.append(functional.max_pool2d(x, 3, 2))
        return torch.cat(out, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "maximum":
            return functional.max_pool2d(x, 3, 1, 1)
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _a(name: str, inputs: int, pooled: int) -> _Mixed:
    branches: tuple[_Branch, ...] = (
        (("branch1x1", 64, 1),), (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)), (("branch_pool", pooled, 1),),
    )  # fmt: skip
    return _Mixed(name, inputs, branches)


def _c(name: str, width: int) -> _Mixed:
    branches: tuple[_Branch, ...] = (
        (("branch1x1", 192, 1),),
        (("branch7x7_1", width, 1), ("branch7x7_2", width, ROW), ("branch7x7_3", 192, COLUMN)),
        (("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, COLUMN), ("branch7x7dbl_3", width, ROW),
         ("branch7x7dbl_4", width, COLUMN), ("branch7x7dbl_5", 192, ROW)),
        (("branch_pool", 192, 1),),
    )  # fmt: skip
    return _Mixed(name, 768, branches)


def _e(name: str, inputs: int) -> _Mixed:
    branches: tuple[_Branch, ...] = (
        (("branch1x1", 320, 1),),
        (("branch3x3_1", 384, 1), ("branch3x3_2a", 384, ROW3), ("branch3x3_2b", 384, COLUMN3)),
        (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), ("branch3x3dbl_3a", 384, ROW3),
         ("branch3x3dbl_3b", 384, COLUMN3)),
        (("branch_pool", 192, 1),),
    )  # fmt: skip
    return _Mixed(name, inputs, branches)


_B: tuple[_Branch, ...] = (
    (("branch3x3", 384, 3),), (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))
)  # fmt: skip
_D: tuple[_Branch, ...] = (
    (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)),
    (("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, ROW), ("branch7x7x3_3", 192, COLUMN), ("branch7x7x3_4", 192, 3)),
)  # fmt: skip


class InceptionFeatures(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] → features (B, 2048) of FID."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2a_3x3.conv.padding = (0, 0)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Conv2d_4a_3x3.conv.padding = (0, 0)
        for name, inputs, pooled in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
            self.add_module(name, _a(name, inputs, pooled))
        self.Mixed_6a = _Mixed("Mixed_6a", 288, _B, halves=True)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            self.add_module(name, _c(name, width))
        self.Mixed_7a = _Mixed("Mixed_7a", 768, _D, halves=True)
        self.Mixed_7b = _e("Mixed_7b", 1280)
        self.Mixed_7c = _e("Mixed_7c", 2048)
        self.eval().requires_grad_(False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Resized to 299² (bilinear, no antialiasing, as FID's reference implementations)."""
        x = functional.interpolate(images_BCHW, (SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))


def load_inception(weights: Path) -> InceptionFeatures:
    """FID's network from the user's file, strictly; the classifier in it is left out.

    Raises:
        ValueError: tensors are missing, unknown or misshapen.
    """
    state = torch.load(weights, map_location="cpu", weights_only=True)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(("fc.", "AuxLogits."))}
    network = InceptionFeatures()
    wanted = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    given = {name for name in kept if not name.endswith("num_batches_tracked")}
    if wanted != given:
        odd = sorted(wanted ^ given)[:3]
        raise ValueError(f"{weights} is not FID's Inception: {', '.join(odd)} … are missing or unknown")
    network.load_state_dict({name: kept[name] for name in given}, strict=False)
    return network
