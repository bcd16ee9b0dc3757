"""What a training will cost, from its configuration alone: parameters, arithmetic, memory. Nothing is allocated, no GPU
is touched: the networks run once on torch's `meta` device, where tensors have shapes and no content."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import Draws, InstaFace
from tasks.train_config import TrainConfig

SEMANTIC_TOKENS = 257
"""Tokens of CLIP ViT-L/14; the projection is a small part of the whole."""
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 8000": 130e12,
              "V100": 125e12, "T4": 65e12}  # fmt: skip
"""Dense matrix products of 16 bits a second, from the makers' data sheets, by a part of the device's name."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one forward and backward pass for one photograph, with `draws` noise draws."""

    parameters: dict[str, int]
    """By part: denoiser, guidance, projection."""
    trained: int
    """Parameters that are trained; the rest is frozen because it has no effect."""
    flops: float
    """Multiplications and additions, forward and backward."""
    activations: int
    """Bytes kept for backward, float32."""
    checkpointed: int
    """The same with gradient checkpointing: inputs of blocks, and the largest block computed again."""


@lru_cache(maxsize=8)
def cost_of(networks: InstaFaceConfig, draws: int) -> Cost:
    """Run the networks once on shapes alone."""
    with torch.device("meta"):
        model = InstaFace.from_config(networks)
        batch, chance = _shapes(networks, draws)
    model.train()
    with FlopCounterMode(display=False) as counter, _kept_for_backward(model) as kept:
        model.loss(batch, chance).backward()
    return Cost(
        parameters={
            "denoiser": _count(model.denoiser), "guidance": _count(model.guidance), "projection": _count(model.identity)
        },
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=float(counter.get_total_flops()),
        activations=kept.everything,
        checkpointed=kept.inputs + kept.largest,
    )  # fmt: skip


def peak_flops(device: torch.device) -> float | None:
    """16-bit products a second that the maker promises; None for a CPU or an unknown GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def memory(config: TrainConfig, networks: InstaFaceConfig) -> dict[str, float]:
    """Estimated GiB of one rank's device, by use. Kernels' work space, fragments and the framework come on top."""
    cost = cost_of(networks, config.draws)
    share = config.workers if config.parallel == "fsdp" else 1
    everything = sum(cost.parameters.values())
    micro = config.batch // (config.workers * config.accumulate)
    width = 1.0 if config.precision == "fp32" else 0.5
    moments = 2 if config.optimiser == "adamw8bit" else 8
    average = 4 if config.ema_decay is not None and not config.ema_on_cpu else 0
    return {
        "weights": 4 * everything / share / GIB,
        "gradients": 4 * cost.trained / share / GIB,
        "optimiser": moments * cost.trained / share / GIB,
        "average": average * cost.trained / share / GIB,
        "cast weights": (0 if config.precision == "fp32" else 2 * everything) / GIB,
        "activations": width * micro * (cost.checkpointed if config.gradient_checkpointing else cost.activations) / GIB,
    }


def ladder(config: TrainConfig, networks: InstaFaceConfig) -> list[tuple[str, float]]:
    """What to do when memory is short, each lever on top of those before: (lever, GiB of one rank). The last two are
    alternatives."""
    plain = replace(
        config, precision="fp32", gradient_checkpointing=False, ema_on_cpu=False, optimiser="adamw", parallel="ddp",
        accumulate=1,
    )  # fmt: skip
    levers: list[tuple[str, TrainConfig]] = [("fp32, AdamW, nothing saved", plain)]

    def then(words: str, **changes: object) -> None:
        levers.append((words, replace(levers[-1][1], **changes)))  # type: ignore[arg-type]

    then("precision='bf16'", precision="bf16")
    then("gradient_checkpointing=True", gradient_checkpointing=True)
    micro = config.batch // config.workers
    if micro > 1:
        then(f"accumulate={micro}", accumulate=micro)
    if config.workers > 1:
        together = replace(levers[-1][1], parallel="fsdp")
    if config.ema_decay is not None:
        then("ema_on_cpu=True", ema_on_cpu=True)
    then("optimiser='adamw8bit'", optimiser="adamw8bit")
    if config.workers > 1:
        levers.append(
            (f"instead of the average on the CPU and 8 bits: parallel='fsdp' on {config.workers} ranks", together)
        )
    return [(words, sum(memory(one, networks).values())) for words, one in levers]


@dataclass(slots=True)
class _Kept:
    everything: int = 0
    inputs: int = 0
    largest: int = 0


@contextmanager
def _kept_for_backward(model: nn.Module) -> Iterator[_Kept]:
    """Counts what autograd keeps, apart from parameters: in all, at the inputs of the blocks that gradient checkpointing
    keeps, and inside the largest of them."""
    kept, seen = _Kept(), {p.untyped_storage()._cdata for p in model.parameters()}
    holding: list[Tensor] = []
    before: dict[nn.Module, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory._cdata not in seen:
            seen.add(memory._cdata)
            holding.append(tensor)  # so that the memory stays, and its number its own
            kept.everything += memory.nbytes()
        return tensor

    def enter(module: nn.Module, args: Sequence[object]) -> None:
        before[module] = kept.everything
        kept.inputs += sum(a.nbytes for a in args if isinstance(a, Tensor))

    def leave(module: nn.Module, args: Sequence[object], output: object) -> None:
        kept.largest = max(kept.largest, kept.everything - before[module])

    handles = [
        handle
        for module in model.modules()
        if isinstance(module, ResnetBlock2D | BasicTransformerBlock)
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def _shapes(networks: InstaFaceConfig, draws: int) -> tuple[dict[str, Tensor], Draws]:
    c, side = networks.latent_channels, networks.latent_size
    batch = {
        "moments": torch.zeros(1, 2 * c, side, side),
        "conditions": torch.zeros(1, networks.condition_channels, side, side),
        "semantic": torch.zeros(1, SEMANTIC_TOKENS, networks.semantic_width),
        "face": torch.zeros(1, networks.face_width),
    }
    noise = torch.zeros(draws, c, side, side)
    dropped = torch.zeros(draws, dtype=torch.bool)
    return batch, Draws(noise=noise, posterior=noise, dropped=dropped, timesteps=torch.zeros(draws, dtype=torch.int64))


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
