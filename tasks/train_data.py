"""What a training step sees: rows, noise, timesteps and posterior draws, all derived from (seed, epoch, key).

Nothing depends on ranks: a step takes the next `batch` rows of the epoch's order, and ranks share them out. So a run that
goes on with another number of ranks sees what it would have seen.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import Draws, draws_for
from models.diffusion.hidden_face import hide_face
from models.rng import numpy_generator, seed_of
from tasks.array_bytes import from_npy
from tasks.generation import Generation
from tasks.train_config import TrainConfig

FEATURES = ("moments", "conditions", "face", "semantic")
IDENTITY_INPUTS = ("face", "semantic")
META = "meta.json"
Row = tuple[int, str]
"""(epoch, sample key)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What one forward and backward pass of one rank takes."""

    rows: tuple[Row, ...]
    tensors: Mapping[str, Tensor]
    """Features of the rows, float32."""
    draws: Draws
    """`draws` rows for each row of the features, in order."""


class FeatureRows:
    """The rows of a features generation: which are for training, which for validation, and who is on them."""

    def __init__(self, features: Generation) -> None:
        """Reads the `meta.json` of every row, where the generation has them; without, every row is for training."""
        self.reader = features.reader([f"{name}.npy" for name in FEATURES])
        self.place = features.uri
        if len(self.reader) == 0:
            raise ValueError(
                f"the features generation {features.uri} is empty: run preprocess-ffhq on photographs with faces first"
            )
        facts: dict[str, dict[str, Any]] = {key: {} for key in self.reader.keys}
        if META in features.manifest.fields:
            facts = {key: json.loads(sample[META]) for key, sample in features.reader([META])}
        self.train = sorted(key for key, fact in facts.items() if (fact.get("split") or "train") == "train")
        self.validation = sorted(key for key, fact in facts.items() if fact.get("split") == "validation")
        if not self.train:
            raise ValueError(f"none of the {len(facts)} rows of {features.uri} is for training: all have another split")
        self.person: dict[str, str | None] = {key: fact.get("person") for key, fact in facts.items()}
        self._others = _by_person(self.train, self.person)
        self._others_in_validation = _by_person(self.validation, self.person)

    def partners(self, key: str) -> list[str]:
        """The other training rows of the same person, in the order of keys."""
        return [other for other in self._others.get(self.person[key] or "", ()) if other != key]

    def partners_in_validation(self, key: str) -> list[str]:
        """The other validation rows of the same person, in the order of keys."""
        return [other for other in self._others_in_validation.get(self.person[key] or "", ()) if other != key]

    @property
    def paired(self) -> int:
        """Training rows that have a partner."""
        return sum(len(keys) for keys in self._others.values() if len(keys) > 1)

    def arrays(self, keys: Sequence[str], names: Sequence[str] = FEATURES) -> dict[str, NDArray[np.float32]]:
        """Features by name, one row a key.

        Raises: ValueError naming the key, for a row that holds NaN or infinity.
        """
        samples = [self.reader.by_key(key)[1] for key in keys]
        arrays = {
            name: np.stack([from_npy(sample[f"{name}.npy"]) for sample in samples]).astype(np.float32) for name in names
        }
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                bad = [key for key, row in zip(keys, array, strict=True) if not np.isfinite(row).all()]
                raise ValueError(
                    f"the feature {name} of {', '.join(bad)} in {self.place} holds NaN or infinity: encode it anew"
                )
        return arrays


def _by_person(keys: Sequence[str], person: Mapping[str, str | None]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        if who := person[key]:
            found.setdefault(who, []).append(key)
    return found


class FeatureBatches:
    """Micro-batches by step, the same on any number of ranks."""

    def __init__(
        self, rows: FeatureRows, config: TrainConfig, networks: InstaFaceConfig, *, rank: int = 0, world: int = 1
    ) -> None:
        """Raises: ValueError for a batch that ranks cannot share, or that is larger than the data."""
        self.rows, self.config, self.networks, self.rank, self.world = rows, config, networks, rank, world
        if config.batch % (world * config.accumulate):
            raise ValueError(
                f"batch={config.batch} cannot be divided among {world} ranks × accumulate={config.accumulate}"
            )
        if config.batch > len(rows.train) and not config.repeat:
            raise ValueError(
                f"batch={config.batch} is larger than the data: {rows.place} has {len(rows.train)} rows for training. "
                "Choose a smaller batch, or repeat=True to see a row more than once a step"
            )
        if config.pairs and not rows.paired:
            raise ValueError(
                f"pairs=True, but no two training rows of {rows.place} show the same person: train without pairs"
            )
        if config.face_hidden and not networks.identity_grid:
            raise ValueError(
                f"face_hidden={config.face_hidden}, but the semantic tokens of model={config.model!r} lie on no grid, so nobody "
                "knows which of them show the face: set it to 0"
            )
        self._orders: dict[int, list[str]] = {}

    def keys(self, step: int) -> list[Row]:
        """The rows of a step, of all ranks; rows of a step follow each other in the epoch's order."""
        start = step * self.config.batch
        places = (divmod(position, len(self.rows.train)) for position in range(start, start + self.config.batch))
        return [(epoch, self.order(epoch)[index]) for epoch, index in places]

    def order(self, epoch: int) -> list[str]:
        """A permutation of the training rows that depends on seed and epoch only."""
        if epoch not in self._orders:
            seed = self.config.seed
            order = sorted(self.rows.train, key=lambda key: seed_of(seed, "order", epoch, key))
            # A step may reach into the next epoch, no further back than into the one before.
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return self._orders[epoch]

    def step(self, step: int) -> list[MicroBatch]:
        """This rank's micro-batches of a step: `accumulate` of them, of equal size."""
        rows = self.keys(step)
        size = len(rows) // (self.world * self.config.accumulate)
        starts = [(part * self.world + self.rank) * size for part in range(self.config.accumulate)]
        return [self.load(rows[start : start + size]) for start in starts]

    def load(self, rows: Sequence[Row]) -> MicroBatch:
        """Features and draws of some rows."""
        keys = [key for _, key in rows]
        arrays = self.rows.arrays(keys)
        if self.config.pairs:
            arrays |= self.rows.arrays([self.partner(row) for row in rows], IDENTITY_INPUTS)
        self._augment(rows, arrays)
        draws = [
            draws_for(
                self.networks, [key], run_seed=self.config.seed, epoch=epoch, copies=self.config.draws,
                stratified=self.config.stratified and self.config.draws > 1,
            )
            for epoch, key in rows
        ]  # fmt: skip
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return MicroBatch(rows=tuple(rows), tensors=tensors, draws=join(draws))

    def partner(self, row: Row) -> str:
        """Whose identity inputs a row gets in this epoch: its own where it has no partner or is not drawn as a pair."""
        epoch, key = row
        partners = self.rows.partners(key)
        chance = numpy_generator(self.config.seed, epoch, key, "pair")
        drawn = chance.random() < self.config.pair_share
        return partners[int(chance.integers(len(partners)))] if partners and drawn else key

    def _augment(self, rows: Sequence[Row], arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Condition-side augmentation, in place: targets stay as they are."""
        c = self.config
        amounts = {"face": c.identity_noise, "semantic": c.identity_noise, "conditions": c.maps_noise}
        for index, (epoch, key) in enumerate(rows):
            for name, amount in amounts.items():
                if amount:
                    row = arrays[name][index]
                    chance = numpy_generator(c.seed, epoch, key, name, "augment")
                    row += np.float32(amount * row.std()) * chance.standard_normal(row.shape, dtype=np.float32)
            if c.semantic_dropout:
                chance = numpy_generator(c.seed, epoch, key, "semantic dropout")
                tokens = arrays["semantic"][index]
                tokens[chance.random(len(tokens)) < c.semantic_dropout] = 0
            if c.face_hidden and numpy_generator(c.seed, epoch, key, "face hidden").random() < c.face_hidden:
                shown = (torch.from_numpy(arrays[name][index : index + 1]) for name in ("semantic", "conditions"))
                hidden = hide_face(self.networks, *shown)
                arrays["semantic"][index], arrays["conditions"][index] = (one[0].numpy() for one in hidden)


def join(draws: Sequence[Draws]) -> Draws:
    """Rows of several draws after one another."""
    return Draws(
        noise=torch.cat([d.noise for d in draws]), timesteps=torch.cat([d.timesteps for d in draws]),
        posterior=torch.cat([d.posterior for d in draws]), dropped=torch.cat([d.dropped for d in draws]),
    )  # fmt: skip


Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """`make(step)` for consecutive steps, one step ahead in a thread; use as a context manager."""

    def __init__(self, make: Callable[[int], Item], first: int, end: int) -> None:
        self._make, self._next, self._end = make, first, end
        self._thread = ThreadPoolExecutor(1, "batches")
        self._pending: Future[Item] | None = None
        self.waited = 0.0
        """Seconds that `take` has waited in all."""

    def __enter__(self) -> "Ahead[Item]":
        self._ask()
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self) -> Item:
        """The next item. Raises what `make` raised."""
        if self._pending is None:
            raise IndexError(f"step {self._next} is beyond the last, {self._end - 1}")
        started = time.perf_counter()
        item = self._pending.result()
        self.waited += time.perf_counter() - started
        self._ask()
        return item

    def _ask(self) -> None:
        self._pending = self._thread.submit(self._make, self._next) if self._next < self._end else None
        self._next += 1
