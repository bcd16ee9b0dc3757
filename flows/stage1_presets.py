"""Complete configurations of stage 1, one function each: what the presets train with, and variants for other hardware."""

from collections.abc import Callable
from dataclasses import replace

from flows import presets
from tasks.preset import Preset
from tasks.train_config import TrainConfig


def stage1_paper() -> TrainConfig:
    """As published: 6 photographs on each of 2 GPUs, AdamW at 1e-5, 55,000 steps."""
    return training_of(presets.paper())


def stage1_paper_h100() -> TrainConfig:
    """As many photographs as the paper, 48 a step on one H100 with 80 GB: bf16, compiled, channels last, fused AdamW.

    The learning rate grows with the root of the batch (√4), and the average of the weights is exported.
    """
    return replace(
        stage1_paper(), steps=13_750, batch=48, workers=1, precision="bf16", learning_rate=2e-5,
        learning_rate_warmup=200, ema_decay=0.999, compile=True, channels_last=True, checkpoint_every=500,
    )  # fmt: skip


def stage1_tiny() -> TrainConfig:
    """Small networks on a laptop's CPU."""
    return training_of(presets.tiny())


def stage1_debug() -> TrainConfig:
    """A handful of steps: does every part run here?"""
    return training_of(presets.debug())


_PRESETS: dict[str, Callable[[], TrainConfig]] = {
    one.__name__: one for one in (stage1_paper, stage1_paper_h100, stage1_tiny, stage1_debug)
}


def by_name(name: str) -> TrainConfig:
    """Raises: ValueError for a name that is no training preset."""
    if name not in _PRESETS:
        raise ValueError(f"training={name!r}: choose one of {', '.join(_PRESETS)}")
    return _PRESETS[name]()


def training_of(preset: Preset) -> TrainConfig:
    """The training of a preset, with the codec that its features were made with, for pictures of samples."""
    return replace(preset.train, codec=preset.train.codec or preset.encode.codec)
