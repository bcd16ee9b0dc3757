"""Perceptual distances: LPIPS (Zhang et al. 2018) and its shift-tolerant variant (ST-LPIPS, Ghildyal and Liu 2022).

LPIPS needs an AlexNet that the user brings. ST-LPIPS has the same formula over an anti-aliased AlexNet whose weights come
with the PyPI package `stlpips-pytorch` (BSD 2-clause); its numbers are not LPIPS numbers and carry its own name.
"""

import functools
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.weights import digest_of_tensors

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""LPIPS' input scaling: (x - shift) / scale of x in [-1, 1]."""
WIDTHS = (64, 192, 384, 256, 256)
"""Channels of AlexNet's five rectified layers."""
EPSILON = 1e-10
_PACKAGE = "stlpips-pytorch"
_WEIGHTS = "alex_shift_tolerant.pth"


class MetricUnavailable(RuntimeError):
    """The weights of a metric are not here; its value is `not available`, never a number."""


def scale_input(images_BCHW: Tensor) -> Tensor:
    """LPIPS' scaling layer: pictures in [-1, 1] → about unit variance by channel."""
    shift, scale = (images_BCHW.new_tensor(v)[None, :, None, None] for v in (SHIFT, SCALE))
    return (images_BCHW - shift) / scale


def layer_differences(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """Squared differences of features (B, C, h, w) normalised to length one over the channels."""

    def unit(features: Tensor) -> Tensor:
        return features / (features.square().sum(dim=1, keepdim=True).sqrt() + EPSILON)

    return [(unit(a) - unit(b)).square() for a, b in zip(first, second, strict=True)]


def weighted_distance(differences: Sequence[Tensor], heads: Sequence[Tensor]) -> Tensor:
    """Σ over layers of the spatial mean of the channel-weighted differences: (B,). `heads` are (C,) a layer."""
    layers = [(d * h[None, :, None, None]).sum(dim=1).mean(dim=(1, 2)) for d, h in zip(differences, heads, strict=True)]
    return torch.stack(layers).sum(dim=0)


def weighted_map(differences: Sequence[Tensor], heads: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Where pictures differ: every layer's weighted difference, upsampled bilinearly to `size` and summed: (B, 1, H, W)."""
    layers = [
        functional.interpolate(
            (d * h[None, :, None, None]).sum(dim=1, keepdim=True), size=size, mode="bilinear", align_corners=False
        )
        for d, h in zip(differences, heads, strict=True)
    ]
    return torch.stack(layers).sum(dim=0)


class _BlurPool(nn.Module):
    """A [1, 2, 1]⊗[1, 2, 1]/16 blur with two pixels of reflection on every side, then every second pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filt = nn.Buffer(torch.zeros(channels, 1, 3, 3))

    def forward(self, features: Tensor) -> Tensor:
        padded = functional.pad(features, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=features.shape[1])


class _AlexNet(nn.Module):
    """torchvision's AlexNet up to the fifth rectified layer; returns all five."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in sizes)

    def forward(self, images: Tensor) -> list[Tensor]:
        layers: list[Tensor] = []
        x = images
        for index, convolution in enumerate(self.convolutions):
            if index in (1, 2):
                x = functional.max_pool2d(x, kernel_size=3, stride=2)
            x = convolution(x).relu()
            layers.append(x)
        return layers


class _ShiftTolerantAlexNet(nn.Module):
    """AlexNet with a stride of 1 throughout and a blur in every stride's place; returns the five rectified layers."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 64, 11, 2), (64, 192, 5, 2), (192, 384, 3, 1), (384, 256, 3, 1), (256, 256, 3, 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, 1, p) for i, o, k, p in sizes)
        self.blurs = nn.ModuleList(_BlurPool(channels) for channels in (64, 64, 192))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.blurs[0](self.convolutions[0](images)).relu()
        layers = [x]
        for index, convolution in enumerate(self.convolutions):
            if index == 0:
                continue
            if index in (1, 2):
                x = self.blurs[index](functional.max_pool2d(x, kernel_size=3, stride=1))
            x = convolution(x).relu()
            layers.append(x)
        return layers


class PerceptualDistance(nn.Module):
    """Perceptual distance of pairs of pictures; 0 for equal ones. Use `shift_tolerant` or `lpips_alex`."""

    def __init__(self, name: str, trunk: nn.Module, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.name = name
        """What the numbers are called in a table."""
        # A third less time on a CPU than channels first.
        self.trunk = trunk.eval().requires_grad_(False)
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
        self.heads = nn.ParameterList(nn.Parameter(h.flatten().float(), requires_grad=False) for h in heads)

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(self.name, self.state_dict())

    def forward(self, images_BCHW: Tensor, references_BCHW: Tensor) -> Tensor:
        """Pictures in [-1, 1], float32 (B, 3, H, W) with sides of at least 64 → distances (B,).

        Raises:
            ValueError: shapes that differ, or pictures too small for five layers.
        """
        if images_BCHW.shape != references_BCHW.shape:
            raise ValueError(
                f"pictures {tuple(images_BCHW.shape)} and references {tuple(references_BCHW.shape)} must both be (B, 3, H, W)"
            )
        both = self.features(torch.cat([images_BCHW, references_BCHW]))
        pairs = [layer.chunk(2) for layer in both]
        return self.between([a for a, _ in pairs], [b for _, b in pairs])

    def features(self, images_BCHW: Tensor) -> list[Tensor]:
        """Five layers (B, C, h, w) of pictures in [-1, 1]: to compare one picture with several, run the network once.

        Raises:
            ValueError: not three channels, or pictures too small for five layers.
        """
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
            raise ValueError(f"pictures must be (B, 3, H, W), not {tuple(images_BCHW.shape)}")
        if min(images_BCHW.shape[-2:]) < 64:
            raise ValueError(
                f"perceptual distances need sides of at least 64 pixels, not {tuple(images_BCHW.shape[-2:])}"
            )
        scaled = scale_input(images_BCHW).contiguous(memory_format=torch.channels_last)
        layers: list[Tensor] = self.trunk(scaled)
        return layers

    def between(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Distances (B,) of pictures by their `features`."""
        return weighted_distance(layer_differences(first, second), list(self.heads))


def shift_tolerant_weights() -> Path:
    """The weight file of the installed `stlpips-pytorch`; nothing of the package is imported (it wants torchvision).

    Raises:
        MetricUnavailable: the package is not installed.
    """
    try:
        found = [f for f in files(_PACKAGE) or () if f.name == _WEIGHTS]
    except PackageNotFoundError:
        found = []
    if not found:
        raise MetricUnavailable(
            f"ST-LPIPS is not available: {_PACKAGE} is not installed (pip install --no-deps -r requirements-assets.txt)"
        )
    return Path(str(found[0].locate()))


def shift_tolerant(weights: Path | None = None) -> PerceptualDistance:
    """ST-LPIPS over AlexNet, from the file of `stlpips-pytorch` (weights only, no code of it runs).

    Raises:
        MetricUnavailable: the weights are not installed.
    """
    state = torch.load(weights or shift_tolerant_weights(), map_location="cpu", weights_only=True)
    trunk = _ShiftTolerantAlexNet()
    renamed: dict[str, Tensor] = {}
    convolutions = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
    for index, name in enumerate(convolutions):
        renamed |= {f"convolutions.{index}.{kind}": state[f"net.{name}.{kind}"] for kind in ("weight", "bias")}
    for index, name in enumerate(("slice1.1", "slice2.4", "slice3.8")):
        renamed[f"blurs.{index}.filt"] = state[f"net.{name}.filt"]
    trunk.load_state_dict(renamed, strict=True)
    return PerceptualDistance("ST-LPIPS (AlexNet)", trunk, [state[f"lin{i}.model.1.weight"] for i in range(5)])


def lpips_alex(trunk: Path, heads: Path) -> PerceptualDistance:
    """LPIPS 0.1 over AlexNet: `trunk` is torchvision's `alexnet-owt-….pth`, `heads` is lpips' `weights/v0.1/alex.pth`.

    Raises:
        MetricUnavailable: a file is missing.
        ValueError: a file without the tensors expected.
    """
    for file in (trunk, heads):
        if not file.is_file():
            raise MetricUnavailable(f"LPIPS is not available: {file} is missing")
    backbone = torch.load(trunk, map_location="cpu", weights_only=True)
    linear = torch.load(heads, map_location="cpu", weights_only=True)
    try:
        renamed = {
            f"convolutions.{index}.{kind}": backbone[f"features.{place}.{kind}"]
            for index, place in enumerate((0, 3, 6, 8, 10))
            for kind in ("weight", "bias")
        }
        weights = [linear[f"lin{i}.model.1.weight"] for i in range(5)]
    except KeyError as error:
        raise ValueError(
            f"{trunk} or {heads} has no tensor {error}: give torchvision's AlexNet and lpips' alex.pth"
        ) from error
    network = _AlexNet()
    network.load_state_dict(renamed, strict=True)
    return PerceptualDistance("LPIPS (AlexNet, v0.1)", network, weights)
