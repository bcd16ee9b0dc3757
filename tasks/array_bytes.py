"""Arrays and tensors as bytes: npy without pickle, safetensors without NaN."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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


def npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array
