"""What a stage-1 training is: every choice, its default, and why a bad one is refused."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args

from models.diffusion.config import Conditioning, IdentityKind, OptimiserName, Schedule

_CHOICES = {
    "model": ("tiny", "debug", "open", "paper"),
    "start": ("published", "random"),
    "precision": ("fp32", "bf16", "fp16"),
    "parallel": ("ddp", "fsdp"),
    "optimiser": ("adamw", "adamw8bit"),
    "schedule": ("constant", "cosine"),
    "attention": ("auto", "math"),
    "conditioning": (None, *get_args(Conditioning)),
    "identity": (None, *get_args(IdentityKind)),
}
_RUNTIME = {"runtime": True}
"""Marks fields that say where and how fast a run computes, not what: they may change when a run is resumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A run is named by the fields that differ from these defaults: add fields, never change a default."""

    model: str = "paper"
    """Networks: `tiny`, `debug`, `open` or `paper`."""
    start: str = "published"
    """Weights to start from: `published` (Stable Diffusion; of `tiny`, what ships with the repository; `debug` has none)
    or `random`."""
    steps: int = 55_000
    """Optimiser steps (paper: 55,000)."""
    batch: int = 12
    """Photographs an optimiser step, of all ranks and micro-batches together (paper: 6 on each of 2 GPUs)."""
    repeat: bool = False
    """Let a step see a photograph more than once where there are fewer than `batch`; otherwise that is refused."""
    draws: int = 1
    """Noise draws a photograph, which share one pass through projection and Guidance Network (paper: 1)."""
    stratified: bool = True
    """The draws of a photograph take their timesteps from equal ranges. Changes nothing for one draw."""
    pairs: bool = False
    """Identity inputs from another photograph of the same person (paper: from the same)."""
    pair_share: float = 1.0
    """Share of rows that are trained as pairs; the others reconstruct."""

    optimiser: OptimiserName = "adamw"
    """`adamw`, fused, or `adamw8bit` (bitsandbytes)."""
    learning_rate: float = 1e-5
    """AdamW (paper: 1e-5)."""
    learning_rate_warmup: int = 0
    """Steps of linear warm-up."""
    schedule: Schedule = "constant"
    """`constant`, or `cosine` down to zero at the last step."""
    decay_from: float = 0.0
    """Share of the steps after which the cosine begins."""
    weight_decay: float = 1e-2
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights, which is then what is exported; None: no average (paper)."""
    ema_every: int = 1
    """Steps between updates of the average."""

    conditioning: Conditioning | None = None
    """How the maps enter: `guidance` (paper) or `concatenation` (a baseline); None: as the networks' configuration says."""
    identity: IdentityKind | None = None
    """What identity tokens are made of: `both` (paper), `semantic_only`, `face_only` (its ablations); None: as the networks'
    configuration says."""
    min_snr_gamma: float | None = None
    """γ of min-SNR weighting; 0 turns it off; None: as the networks' configuration says."""
    noise_offset: float | None = None
    """Deviation of a constant added to each channel's noise; None: as the networks' configuration says."""
    condition_dropout: float | None = None
    """Share of rows trained without identity and maps; None: as the networks' configuration says."""
    identity_noise: float = 0.0
    """Augmentation: noise added to the face embedding and the semantic tokens, in units of their own deviation."""
    semantic_dropout: float = 0.0
    """Augmentation: share of the semantic tokens that are set to zero."""
    face_hidden: float = 0.0
    """Augmentation: share of the rows whose face is hidden from semantic tokens and maps, so that who it is has to come from the
    face embedding (`models.diffusion.hidden_face`). Wants networks with an `identity_grid`."""
    maps_noise: float = 0.0
    """Augmentation: noise added to the latents of the maps, in units of their own deviation."""

    precision: str = "fp32"
    """`fp32`, or autocast to `bf16` or `fp16` (with loss scaling)."""
    seed: int = 0

    workers: int = field(default=1, metadata=_RUNTIME)
    """Ranks (paper: 2)."""
    gpu: bool = field(default=False, metadata=_RUNTIME)
    """One GPU a rank."""
    accumulate: int = field(default=1, metadata=_RUNTIME)
    """Micro-batches a step on each rank: less memory, the same gradient."""
    parallel: str = field(default="ddp", metadata=_RUNTIME)
    """Several ranks hold everything (`ddp`), or weights, gradients and moments in parts (`fsdp`, FSDP2)."""
    gradient_checkpointing: bool = field(default=False, metadata=_RUNTIME)
    """Recompute activations in backward: about a third more time for most of the activations' memory."""
    compile: bool = field(default=False, metadata=_RUNTIME)
    """torch.compile both UNets."""
    channels_last: bool = field(default=False, metadata=_RUNTIME)
    attention: str = field(default="auto", metadata=_RUNTIME)
    """`auto`, or `math`: plain matrix products, faster for few heads on a CPU."""
    threads: int | None = field(default=None, metadata=_RUNTIME)
    """Torch threads of a rank; None: torch's choice."""
    ema_on_cpu: bool = field(default=False, metadata=_RUNTIME)
    """Keep the moving average in the host's memory."""
    checkpoint_every: int = field(default=1000, metadata=_RUNTIME)
    """Steps between checkpoints; the last step is always saved."""
    validate_every: int | None = field(default=None, metadata=_RUNTIME)
    """Steps between validations; None: with every checkpoint."""
    validation_samples: int = field(default=32, metadata=_RUNTIME)
    """Photographs of the validation split that are looked at; 0: none."""
    sample_every: int | None = field(default=None, metadata=_RUNTIME)
    """Steps between grids of generated pictures; None: none. Needs `codec`."""
    codec: str | None = field(default=None, metadata=_RUNTIME)
    """Codec that turns latents into pictures for the grids, by its name in the encode stage."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "workers", "checkpoint_every", "draws", "accumulate", "ema_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed")
        for name in ("validate_every", "sample_every", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: at least 1, or None")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                names = [str(one) for one in allowed]
                raise ValueError(f"{name}={getattr(self, name)!r}: choose {', '.join(names[:-1])} or {names[-1]}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate}: choose one between 0 and 1, for example 1e-5")
        if not self.clip > 0:
            raise ValueError(f"clip={self.clip}: the largest norm of the gradient is positive, for example 1")
        for name in ("pair_share", "decay_from", "semantic_dropout", "face_hidden"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share between 0 and 1 is needed")
        for name in ("learning_rate_warmup", "weight_decay", "identity_noise", "maps_noise", "validation_samples"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: 0 or more is needed")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: between 0 and 1, for example 0.9999; or None")
        if self.batch % (self.workers * self.accumulate):
            raise ValueError(
                f"batch={self.batch} cannot be divided among workers={self.workers} × accumulate={self.accumulate}: "
                f"choose a multiple of {self.workers * self.accumulate}"
            )
        if self.parallel == "fsdp" and self.workers > 1 and (self.ema_on_cpu or self.optimiser == "adamw8bit"):
            what = "ema_on_cpu=True" if self.ema_on_cpu else "optimiser='adamw8bit'"
            raise ValueError(
                f"parallel='fsdp' holds average and moments in parts and does not go with {what}: leave one out"
            )
        if self.sample_every is not None and self.codec is None:
            raise ValueError(f"sample_every={self.sample_every}: sample grids need the codec of the features, codec=…")

    @property
    def decisive(self) -> dict[str, Any]:
        """The fields that decide what is learned, where they differ from their defaults: they name the run.

        A later version of this class with more options gives the same answer, so a run in progress is found again.
        """
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if not f.metadata.get("runtime") and getattr(self, f.name) != f.default
        }
