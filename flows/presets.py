"""Presets: each a function that returns a complete configuration. Everything above them is the same code."""

from collections.abc import Callable
from dataclasses import replace

from tasks.edit_config import EditConfig, EvaluateConfig, FinetuneConfig
from tasks.encode import EncodeConfig
from tasks.extract import ExtractConfig
from tasks.preset import Preset
from tasks.shard import ShardConfig
from tasks.train_config import TrainConfig


def tiny() -> Preset:
    """Small networks over the codec and recogniser that ship with the code, everything else embedded in pip packages: a
    laptop or CI, no GPU, no account, no download."""
    return Preset(
        name="tiny",
        needs=(),
        # A folder of holiday pictures has backs of heads and landscapes in it; they become status rows.
        # All of it trains: one photograph is enough for the demo, and the evaluation's people come from elsewhere.
        shard=ShardConfig(samples_per_shard=8, bad_share_limit=0.6, validation_share=0.0, test_share=0.0),
        extract=ExtractConfig(estimator="open", bad_share_limit=0.6),
        encode=EncodeConfig(codec="patch-trained", semantic="latent-grid", face="portrait-recogniser"),
        train=TrainConfig(
            model="tiny",  # goes on from the weights that ship: docs/tiny.md
            steps=30,
            batch=4,
            repeat=True,
            draws=3,
            learning_rate=1e-4,
            learning_rate_warmup=5,
            precision="bf16",
            attention="math",
            checkpoint_every=30,
        ),
        finetune=FinetuneConfig(steps=50, copies=8, learning_rate=3e-4, antithetic=True, feed_forward=True),
        edit=EditConfig(steps=20, carry_detail=True),
        evaluate=EvaluateConfig(),
    )


def tiny_scratch() -> Preset:
    """How the weights of `tiny` were made: pairs of synthetic portraits, from random networks (docs/tiny.md)."""
    preset = tiny()
    return replace(
        preset,
        name="tiny-scratch",
        shard=ShardConfig(samples_per_shard=100, validation_share=0.02, test_share=0.0),
        extract=replace(preset.extract, estimated_share=0.25, bad_share_limit=0.02),
        train=TrainConfig(
            model="tiny",
            start="random",
            steps=3000,
            batch=8,
            draws=3,
            pairs=True,
            pair_share=0.85,
            learning_rate=1e-3,
            learning_rate_warmup=60,
            schedule="cosine",
            decay_from=0.35,
            ema_decay=0.997,
            ema_every=5,
            precision="bf16",
            attention="math",
            workers=2,
            threads=1,
            checkpoint_every=250,
            validate_every=500,
            validation_samples=16,
            sample_every=1000,
            codec="patch-trained",
        ),
    )


def tiny_further() -> Preset:
    """`tiny-scratch` going on from the shipped weights, down to a learning rate of zero.

    Three in ten rows hide the face from tokens and maps: what these show, the face embedding never learns to tell.
    """
    preset = tiny_scratch()
    further = replace(
        preset.train, start="published", steps=2000, learning_rate=6e-4, decay_from=0.3, ema_decay=0.995, face_hidden=0.3
    )
    return replace(preset, name="tiny-further", train=further)


def tiny_concatenation() -> Preset:
    """`tiny-scratch` without Guidance Network, the maps as channels of the denoiser: a baseline for the evaluation."""
    preset = tiny_scratch()
    return replace(preset, name="tiny-concatenation", train=replace(preset.train, conditioning="concatenation"))


def debug() -> Preset:
    """Smaller, never trained networks and a handful of steps: does every part run here?"""
    preset = tiny()
    return replace(
        preset,
        name="debug",
        encode=EncodeConfig(codec="patch-cosine", semantic="efficientnet-lite0", face="dlib"),
        train=TrainConfig(
            model="debug", steps=4, batch=2, repeat=True, learning_rate=2e-3, learning_rate_warmup=4, checkpoint_every=2
        ),
        finetune=replace(preset.finetune, steps=3, copies=2),
        edit=replace(preset.edit, steps=2),
    )


def open_() -> Preset:
    """Stable Diffusion 1.5 without registration walls or non-commercial weights: landmark fit, dlib, CLIP ViT-L/14."""
    return Preset(
        name="open",
        needs=("Stable Diffusion 1.5", "sd-vae-ft-mse", "CLIP ViT-L/14"),
        shard=ShardConfig(),
        extract=ExtractConfig(estimator="open"),
        encode=EncodeConfig(codec="kl", semantic="clip", face="dlib"),
        train=TrainConfig(
            model="open", steps=55_000, batch=12, workers=2, gpu=True, precision="bf16", checkpoint_every=1000
        ),
        finetune=FinetuneConfig(gpu=True),
        edit=EditConfig(gpu=True),
        evaluate=EvaluateConfig(),
    )


def paper() -> Preset:
    """As published: DECA on FLAME, Stable Diffusion 1.5, insightface ArcFace, CLIP ViT-L/14 (non-commercial weights)."""
    return Preset(
        name="paper",
        needs=("Stable Diffusion 1.5", "sd-vae-ft-mse", "CLIP ViT-L/14", "insightface ArcFace", "DECA", "FLAME"),
        shard=ShardConfig(),
        extract=ExtractConfig(estimator="deca"),
        encode=EncodeConfig(codec="kl", semantic="clip", face="arcface"),
        train=TrainConfig(
            model="paper", steps=55_000, batch=12, workers=2, gpu=True, precision="fp16", checkpoint_every=1000
        ),
        finetune=FinetuneConfig(gpu=True),
        edit=EditConfig(gpu=True),
        evaluate=EvaluateConfig(),
    )


_PRESETS: dict[str, Callable[[], Preset]] = {
    "tiny": tiny,
    "tiny-scratch": tiny_scratch,
    "tiny-further": tiny_further,
    "tiny-concatenation": tiny_concatenation,
    "debug": debug,
    "open": open_,
    "paper": paper,
}


def by_name(name: str) -> Preset:
    """Raises: ValueError for a name that is no preset."""
    if name not in _PRESETS:
        raise ValueError(f"preset={name!r}: choose one of {', '.join(_PRESETS)}")
    return _PRESETS[name]()


def with_edit_options(preset: Preset, **options: object) -> Preset:
    """A preset whose editing differs in the options that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    return replace(preset, edit=replace(preset.edit, **given))  # type: ignore[arg-type]
