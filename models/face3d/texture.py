"""TextureSpace: albedo pictures in UV layout as mean + basis · code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextureSpace:
    """A linear albedo model: RGB in 0…1 (codes may leave that range), first row at v = 1."""

    mean: Floats
    """(H, W, 3)."""
    basis: Floats
    """(T, H, W, 3); T = 0 is a fixed picture."""

    def __post_init__(self) -> None:
        if self.mean.ndim != 3 or self.mean.shape[2] != 3 or self.basis.shape[1:] != self.mean.shape:
            raise ValueError(f"a texture of mean {self.mean.shape} needs a basis (T, H, W, 3), not {self.basis.shape}")

    @property
    def components(self) -> int:
        return int(self.basis.shape[0])

    def decode(self, codes: Floats) -> Floats:
        """(B, T) → (B, H, W, 3) albedo. One matrix product: batches cost a fraction of single codes."""
        if codes.ndim != 2 or codes.shape[1] != self.components:
            raise ValueError(f"texture codes have shape {codes.shape}; this texture space takes (B, {self.components})")
        if not self.components:
            return np.broadcast_to(self.mean, (len(codes), *self.mean.shape))
        flat = codes.astype(np.float32) @ self.basis.reshape(self.components, -1)
        flat += self.mean.reshape(-1)
        return flat.reshape(len(codes), *self.mean.shape)

    def tensors(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Mean (H·W·3,) and basis (T, H·W·3) for the differentiable path."""
        mean = torch.from_numpy(self.mean.reshape(-1)).to(device, dtype)
        return mean, torch.from_numpy(self.basis.reshape(self.components, -1)).to(device, dtype)
