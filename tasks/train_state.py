"""Networks of a run: built, wrapped for several ranks, saved to and restored from checkpoints, exported, loaded."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace
from models.diffusion.folder import is_saved_model, load_model, save_model
from models.diffusion.optimisation import MovingAverage, make_optimiser
from models.diffusion.pretrained import load_denoiser
from storage.checkpoints import Checkpoint
from storage.records import Record
from tasks.train_config import TrainConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RAW = "raw/"
"""Files below it are the weights themselves, where the model beside them is their moving average."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank computes."""

    rank: int
    world: int
    device: torch.device


class Training:
    """The networks of one rank and what trains them."""

    def __init__(
        self, config: TrainConfig, networks: InstaFaceConfig, base: str | None, place: Place,
        checkpoint: Checkpoint | None,
    ) -> None:  # fmt: skip
        """`base`: folder or file of weights to start from; a `checkpoint` is restored, strictly."""
        self.config, self.place = config, place
        model = build_networks(networks, None if checkpoint else base, config.seed)
        if checkpoint is not None:
            model.load_state_dict(_below("model.", checkpoint.tensors), strict=True)
        if config.channels_last:
            _channels_last(model)
        self.model = model.to(place.device).train()
        if config.gradient_checkpointing:
            for unet in self.model.unets:
                unet.enable_gradient_checkpointing()
        if config.compile:
            for unet in self.model.unets:
                unet.compile()
        self.wrapped = self._wrap()
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = make_optimiser(
            config.optimiser, self.trainable, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=config.precision == "fp16")
        self.average: MovingAverage | None = None
        if config.ema_decay is not None:
            self.average = MovingAverage(
                dict(self.model.named_parameters()), config.ema_decay, every=config.ema_every, on_cpu=config.ema_on_cpu
            )
        if checkpoint is not None:
            self._restore(checkpoint)

    def _wrap(self) -> nn.Module:
        if self.place.world == 1:
            return self.model
        if self.config.parallel == "ddp":
            return DistributedDataParallel(self.model, gradient_as_bucket_view=True, broadcast_buffers=False)
        for part in (self.model.denoiser, self.model.guidance, self.model.identity):
            fully_shard(part)
        fully_shard(self.model)  # changes the class of the module, which stays itself
        return self.model

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Precision and kernels of forward passes (and of what backward computes again)."""
        dtype, attention = PRECISIONS[self.config.precision], self.config.attention
        with torch.autocast(self.place.device.type, dtype=dtype, enabled=dtype != torch.float32):
            if attention == "math":
                with sdpa_kernel(SDPBackend.MATH):
                    yield
            else:
                yield

    @contextmanager
    def part_of_step(self, *, last: bool) -> Iterator[None]:
        """Of several micro-batches, ranks exchange gradients after the last only."""
        if isinstance(self.wrapped, DistributedDataParallel) and not last:
            with self.wrapped.no_sync():
                yield
            return
        if isinstance(self.wrapped, FSDPModule):
            self.wrapped.set_requires_gradient_sync(last)
        yield

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def clip(self) -> float:
        """Clip the gradient to the configured norm. Returns the norm before."""
        self.scaler.unscale_(self.optimiser)
        return float(whole(torch.nn.utils.clip_grad_norm_(self.trainable, self.config.clip)))

    def step(self, number: int) -> None:
        """Optimiser step `number`, counted from 1."""
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(number)

    def weights(self) -> dict[str, Tensor]:
        """The networks' tensors by name. All ranks call it."""
        return {f"model.{name}": whole(tensor) for name, tensor in self.model.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name: weights, AdamW's moments, the moving average. All ranks call it."""
        tensors = self.weights()
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter, state in self.optimiser.state.items():
            for kind, value in state.items():
                tensors[f"optimiser.{names[id(parameter)]}.{kind}"] = whole(torch.as_tensor(value))
        if self.average is not None:
            tensors |= {f"ema.{name}": whole(tensor) for name, tensor in self.average.tensors.items()}
        return tensors

    def _restore(self, checkpoint: Checkpoint) -> None:
        tensors = checkpoint.tensors
        self.scaler.load_state_dict(checkpoint.state["scaler"])
        for name, parameter in self.model.named_parameters():
            for key, value in _below(f"optimiser.{name}.", tensors).items():
                if "." in key:
                    continue  # of a longer name
                if key == "step" and self.config.optimiser == "adamw8bit":
                    self.optimiser.state[parameter][key] = int(value)
                else:
                    self.optimiser.state[parameter][key] = like(value, parameter)
        if self.average is not None:
            for name, tensor in self.average.tensors.items():
                tensor.copy_(like(tensors[f"ema.{name}"], tensor))


def _channels_last(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that ranks hold in parts, put together (all ranks call it); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, model: Tensor) -> Tensor:
    """`value` on the device of `model` and, where shapes agree, in its memory layout and distribution over ranks.

    Fused kernels walk through memory: a moment must lie in memory as its weight does.
    """
    if value.shape != model.shape:
        return value.to(model.device)
    if isinstance(model, DTensor):
        return distribute_tensor(value.to(model.device), model.device_mesh, model.placements)
    return torch.empty_like(model, dtype=value.dtype).copy_(value)


def build_networks(networks: InstaFaceConfig, base: str | None, seed: int) -> InstaFace:
    """Seeded networks; `base` is a folder of `save_model`, taken as it is, or a folder or .safetensors file of Stable
    Diffusion, whose UNet starts both UNets.

    Raises: ValueError for a saved model of other networks, naming the first difference.
    """
    if base is None:
        return InstaFace.from_config(networks, seed=seed)
    if is_saved_model(base):
        return load_model(base, config=networks)
    return InstaFace.from_denoiser(load_denoiser(base, networks), networks, seed=seed)


def networks_from(networks: InstaFaceConfig, tensors: Mapping[str, Tensor], *, averaged: bool) -> InstaFace:
    """The model of a checkpoint's tensors: the weights themselves, or their moving average."""
    model = InstaFace.from_config(networks)
    state = _below("model.", tensors) | (_below("ema.", tensors) if averaged else {})
    model.load_state_dict(state, strict=True)
    return model.eval()


def export(networks: InstaFaceConfig, tensors: Mapping[str, Tensor], encoders: Mapping[str, str]) -> dict[str, bytes]:
    """The files of `save_model`, a folder in diffusers' layout, by relative name.

    The moving average is the model where there is one, with the weights themselves below `raw/`.
    """
    averaged = any(name.startswith("ema.") for name in tensors)
    files = _files(networks_from(networks, tensors, averaged=averaged), encoders)
    if averaged:
        raw = _files(networks_from(networks, tensors, averaged=False), encoders)
        files |= {f"{RAW}{name}": data for name, data in raw.items()}
    return files


def _files(model: InstaFace, encoders: Mapping[str, str]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder, encoders=encoders)
        root = Path(folder)
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def load_networks(record: Record) -> InstaFace:
    """The model of a committed record whose files are those of `export`."""
    with tempfile.TemporaryDirectory() as folder:
        for name in record.files:
            if not name.startswith(RAW):
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(record.read(name))
        return load_model(folder)


def check_same_run(checkpoint: Checkpoint, wanted: Mapping[str, Any], place: str) -> None:
    """Raises: ValueError naming the first difference, for a checkpoint of another configuration, networks or data."""
    for part, value in wanted.items():
        found, expected = checkpoint.state.get(part), json.loads(json.dumps(value))
        if isinstance(found, dict) and isinstance(expected, dict):
            names = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
            if names:
                raise ValueError(
                    f"the checkpoint of step {checkpoint.step} in {place} is of another configuration: its {part} has "
                    f"{names[0]}={found.get(names[0])!r}, this run {expected.get(names[0])!r}. Train into another root"
                )
        elif found != expected:
            raise ValueError(
                f"the checkpoint of step {checkpoint.step} in {place} is of other {part} ({found}, this run "
                f"{expected}): train into another root"
            )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
