"""What a training step sees: rows, noise, timesteps and posterior draws, all derived from (seed, epoch, key)."""

from collections.abc import Sequence

import numpy as np
import torch

from models.diffusion.editor import Draws
from models.rng import seed_of
from storage.reader import SampleReader
from tasks.array_bytes import from_npy

FEATURES = ("moments", "conditions", "face", "semantic")


class FeatureBatches:
    """Batches by step, the same on any number of ranks: epoch order is a permutation that depends on seed and epoch only."""

    def __init__(self, reader: SampleReader, *, seed: int, batch: int, rank: int, world: int) -> None:
        self.reader, self.seed, self.batch, self.rank, self.world = reader, seed, batch, rank, world
        if len(reader) == 0:
            raise ValueError("the features generation is empty: run preprocess-ffhq on photographs with faces first")

    def keys(self, step: int) -> list[tuple[int, str]]:
        """(epoch, key) of this rank's rows of a global step; rows of a step follow each other in the epoch's order."""
        start = step * self.batch * self.world + self.rank * self.batch
        rows = []
        for position in range(start, start + self.batch):
            epoch, index = divmod(position, len(self.reader))
            rows.append((epoch, self.order(epoch)[index]))
        return rows

    def order(self, epoch: int) -> list[str]:
        return sorted(self.reader.keys, key=lambda key: seed_of(self.seed, "order", epoch, key))

    def load(self, rows: Sequence[tuple[int, str]]) -> dict[str, torch.Tensor]:
        samples = [self.reader.by_key(key)[1] for _, key in rows]
        arrays = {name: np.stack([from_npy(sample[f"{name}.npy"]) for sample in samples]) for name in FEATURES}
        return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def join(draws: Sequence[Draws]) -> Draws:
    """Rows of several draws after one another."""
    return Draws(
        noise=torch.cat([d.noise for d in draws]), timesteps=torch.cat([d.timesteps for d in draws]),
        posterior=torch.cat([d.posterior for d in draws]), dropped=torch.cat([d.dropped for d in draws]),
    )  # fmt: skip
