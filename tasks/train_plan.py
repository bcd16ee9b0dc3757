"""A dry run: the resolved configuration of a training and what it will cost, without features, GPU or weights."""

import dataclasses
from dataclasses import dataclass

from models.diffusion.config import InstaFaceConfig
from models.diffusion.presets import debug_config, open_config, paper_config, tiny_config
from tasks.train_config import TrainConfig
from tasks.train_estimate import cost_of, ladder, memory
from tasks.train_networks import with_choices

H100_FLOPS = 0.4 * 989e12
"""16-bit products a second at 40 % of what the maker promises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPlan:
    configuration: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, int], ...]
    """By part, trained, and all."""
    memory: tuple[tuple[str, float], ...]
    """Estimated GiB of one rank, by use, with the sum."""
    ladder: tuple[tuple[str, float], ...]
    sentences: tuple[str, ...]


def plan_of(config: TrainConfig) -> TrainPlan:
    """What `config` means, with the networks as its preset has them (features may change a width)."""
    networks = preset_networks(config)
    cost, uses = cost_of(networks, config.draws), memory(config, networks)
    everything = sum(cost.parameters.values())
    defaults = TrainConfig()
    values = tuple(
        (field.name, f"{getattr(config, field.name)}{changed}")
        for field in dataclasses.fields(config)
        for changed in ["" if getattr(config, field.name) == getattr(defaults, field.name) else "  (changed)"]
    )
    micro = config.batch // (config.workers * config.accumulate)
    checkpoint = 4 * (everything + 2 * cost.trained + (cost.trained if config.ema_decay is not None else 0)) / 1e9
    work = cost.flops * config.batch * config.steps
    return TrainPlan(
        configuration=values,
        parameters=(*cost.parameters.items(), ("all", everything), ("of them trained", cost.trained)),
        memory=(*uses.items(), ("sum", sum(uses.values()))),
        ladder=tuple(ladder(config, networks)),
        sentences=(
            (
                f"{config.workers} rank(s) × {config.accumulate} micro-batch(es) × {micro} photograph(s) × {config.draws} "
                f"noise draw(s) = {config.batch} photographs an optimiser step, {config.batch * config.steps:,} in all"
            ),
            (
                f"{cost.flops / 1e9:,.0f} GFLOP a photograph, {work / 1e15:,.1f} PFLOP in all: "
                f"{work / H100_FLOPS / 3600:,.2f} hours of one H100 at 40 % of its peak"
            ),
            f"a checkpoint is about {checkpoint:,.2f} GB, of which two are kept",
        ),
    )


def preset_networks(config: TrainConfig) -> InstaFaceConfig:
    """The networks that a model name stands for."""
    makers = {"tiny": tiny_config, "debug": debug_config, "open": open_config, "paper": paper_config}
    return with_choices(config, makers[config.model]())
