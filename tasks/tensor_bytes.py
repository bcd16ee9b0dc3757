"""Tensors as safetensors bytes, refused where they are not finite."""

from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Raises: ValueError naming the tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"the tensor {name!r} holds NaN or infinity: the training diverged; lower the learning rate"
            )
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def from_safetensors(data: bytes) -> dict[str, Tensor]:
    """Raises: ValueError for NaN or infinity, which safetensors itself accepts."""
    tensors = load(data)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the tensor {name!r} holds NaN or infinity: the file is damaged")
    return tensors
