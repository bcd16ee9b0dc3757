"""How good is the model on photographs it does not train on: fixed rows, fixed noise, and pictures of a few of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import draws_for
from models.diffusion.sampling import sample_latents
from models.encoders.codec import LatentCodec, mode
from models.rng import seed_of
from tasks.train_config import TrainConfig
from tasks.train_data import IDENTITY_INPUTS, FeatureRows, MicroBatch, join
from tasks.train_log import BANDS, Figures, by_band
from tasks.train_state import Place, Training

DRAWS = 2
"""Noise draws a row, stratified."""
PICTURES = 4
SAMPLING_STEPS = 20


class Validation:
    """Loss on the same rows of the validation split with the same noise every time.

    `validation` is the loss of reconstruction; `validation_shuffled` gives each row the maps of another (a model that
    uses its maps does worse there); `validation_pairs` the identity inputs of another photograph of the same person.
    """

    def __init__(self, rows: FeatureRows, config: TrainConfig, networks: InstaFaceConfig, place: Place) -> None:
        self._rows, self._networks, self._place = rows, networks, place
        order = sorted(rows.validation, key=lambda key: seed_of("validation", key))
        self.keys = order[: config.validation_samples]
        # Ranks do equally many passes, which FSDP needs; what fills up weighs nothing.
        share = -(-len(self.keys) // place.world)
        mine = (
            [index % len(self.keys) for index in range(place.rank * share, (place.rank + 1) * share)] if share else []
        )
        self._weights = [float(place.rank * share + i < len(self.keys)) for i in range(share)]
        size = max(1, config.batch // (place.world * config.accumulate))
        self._parts = [slice(start, start + size) for start in range(0, share, size)]
        self._mine = [self.keys[index] for index in mine]
        self._others = [self.keys[(index + 1) % len(self.keys)] for index in mine]
        partners = [rows.partners_in_validation(key) for key in self._mine]
        self._fellows = [min(p, default=key) for key, p in zip(self._mine, partners, strict=True)]
        self.has_pairs = any(rows.partners_in_validation(key) for key in self.keys)
        self.measure = "validation_pairs" if config.pairs and self.has_pairs else "validation"
        """The figure that decides which model is the best."""

    @torch.no_grad()
    def figures(self, training: Training) -> Figures:
        """All losses; those of the averaged weights where there is an average. All ranks call it."""
        training.model.eval()
        kinds = {"validation": (self._mine, self._mine)}
        if len(self.keys) > 1:
            kinds["validation_shuffled"] = (self._mine, self._others)
        if self.has_pairs:
            kinds["validation_pairs"] = (self._fellows, self._mine)
        figures: Figures = {}
        for kind, (identity, maps) in kinds.items():
            sums, counts = self._losses(training, identity, maps)
            figures[kind] = float(sums.sum() / counts.sum())
            if kind == "validation":
                figures |= {f"validation.{i}": float(sums[i] / counts[i]) for i in range(BANDS) if counts[i]}
        training.model.train()
        return figures

    def _losses(self, training: Training, identity: Sequence[str], maps: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sums and counts by band, over all ranks."""
        totals = torch.zeros(2, BANDS, dtype=torch.float64, device=self._place.device)
        for part in self._parts:
            batch = self._batch(self._mine[part], identity[part], maps[part])
            tensors = {name: tensor.to(self._place.device) for name, tensor in batch.tensors.items()}
            with training.computing():
                losses = training.model(tensors, batch.draws.to(self._place.device), rows=True)
            weights = torch.tensor(self._weights[part], device=losses.device).repeat_interleave(DRAWS)
            kept = weights > 0
            sums, counts = by_band(losses[kept].float(), batch.draws.timesteps.to(losses.device)[kept],
                                   self._networks.train_steps)  # fmt: skip
            totals += torch.stack([sums, counts])
        if self._place.world > 1:
            dist.all_reduce(totals)
        return totals[0], totals[1]

    def _batch(self, keys: Sequence[str], identity: Sequence[str], maps: Sequence[str]) -> MicroBatch:
        arrays = self._rows.arrays(keys, ("moments",)) | self._rows.arrays(maps, ("conditions",))
        arrays |= self._rows.arrays(identity, IDENTITY_INPUTS)
        draws = join([
            draws_for(self._networks, [key], run_seed=0, epoch=0, copies=DRAWS, stratified=True) for key in keys
        ])  # fmt: skip
        return MicroBatch(
            rows=tuple((0, key) for key in keys),
            tensors={name: torch.from_numpy(array) for name, array in arrays.items()},
            draws=replace(draws, dropped=torch.zeros_like(draws.dropped)),
        )

    @torch.no_grad()
    def grid(self, training: Training, codec: LatentCodec) -> Tensor:
        """Photograph, rendered map, reconstruction, and where there are pairs the person from another photograph:
        a row each for the first few validation photographs (training ones where there are none); (3, H, W) in [0, 1].
        """
        keys = (self.keys or self._rows.train)[:PICTURES]
        fellows = [min(self._rows.partners_in_validation(key), default=key) for key in keys]
        training.model.eval()
        batch = self._on_device(self._batch(keys, keys, keys).tensors)
        columns = [mode(batch["moments"]), batch["conditions"][:, -self._networks.latent_channels :]]
        for identity in [keys] if fellows == keys else [keys, fellows]:
            seen = self._on_device(self._batch(keys, identity, keys).tensors)
            with training.computing():
                tokens = training.model.tokens(seen["semantic"], seen["face"])
                columns.append(
                    sample_latents(training.model, seen["conditions"], tokens, keys=keys, steps=SAMPLING_STEPS)
                )
        training.model.train()
        pictures = [(codec.decode(latents.float().cpu()) / 2 + 0.5).clamp(0, 1) for latents in columns]
        return torch.cat([torch.cat(list(column), dim=1) for column in pictures], dim=2)

    def _on_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self._place.device) for name, tensor in tensors.items()}
