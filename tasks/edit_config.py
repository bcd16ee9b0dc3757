"""Configurations of what happens to one person: fine-tune, edit, evaluate."""

from dataclasses import dataclass

from models.diffusion.config import AdaptationConfig

RATES = {"full": 1.0, "lora": 10.0, "tokens": 30.0}
"""How much larger a learning rate each method wants than `full` (benchmarks/finetune.md)."""

STRONG_SCALE = 0.35
"""How much of the fine-tune edits use that turn or light the head, where the photograph's detail is carried (docs/log.md, "how
much of a fine-tune")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    method: str = "full"
    """`full`: denoiser and projection learn, as in the paper; `lora`: low-rank updates and tokens; `tokens`."""
    rank: int = 16
    """Rank of `lora`."""
    feed_forward: bool = False
    """Let `lora` update the feed-forward and projection layers of the transformers too, not their attention alone."""
    steps: int = 50
    """Optimiser steps (paper: 50)."""
    copies: int = 8
    """Noisy copies of the photograph a step (paper: 8)."""
    learning_rate: float = 1e-5
    """AdamW (paper: 1e-5)."""
    weight_decay: float = 1e-2
    clip: float = 1.0
    """Largest norm of the gradient."""
    stratified: bool = True
    """Draw the copies' timesteps from equal ranges: unbiased, less variance."""
    antithetic: bool = False
    """Give every second copy the negative of the noise before it."""
    split_projection: bool = False
    """Keep the Guidance Network on the untuned projection; the paper tunes the projection of both."""
    prior_weight: float = 0.0
    """Weight of the loss on other people's cached features (prior preservation); 0 is the paper."""
    prior_batch: int = 4
    """Other people a step."""
    patience: int | None = None
    """Stop when the loss on fixed noise has not fallen for this many looks, five steps apart; None: all steps."""
    keep_photograph: bool = True
    """Store the aligned face crop with the identity. Without it no pixel is kept, and there is neither
    background lock nor carried detail."""
    seed: int = 0
    gpu: bool = False

    @property
    def adaptation(self) -> AdaptationConfig:
        return AdaptationConfig(
            kind=self.method,  # type: ignore[arg-type]  # checked below
            rank=self.rank,
            feed_forward=self.feed_forward,
            split_projection=self.split_projection,
        )

    def __post_init__(self) -> None:
        if self.method not in ("full", "lora", "tokens"):
            raise ValueError(f"method={self.method!r}: choose full, lora or tokens")
        for name in ("steps", "copies", "rank", "prior_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience={self.patience}: at least 1 look, or None for all steps")
        if not 0 <= self.prior_weight <= 100:
            raise ValueError(f"prior_weight={self.prior_weight}: choose one between 0 and 100, for example 1")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate}: choose one between 0 and 1, for example 1e-5")


@dataclass(frozen=True, kw_only=True, slots=True)
class EditConfig:
    adaptation_scale: float | None = None
    """How much of the fine-tune edits use: base + scale · (tuned − base). 1 is the paper; less does not hold on to the old pose
    and hair. None: 0.35 for edits that turn or light the head and carry detail, which brings the identity back; 1 for others."""
    steps: int = 20
    """Steps of the sampler (paper: 20)."""
    solver: str = "ddim"
    """`ddim` (paper), `unipc` or `dpm++`."""
    seed: int = 0
    reference_scale: float = 1.0
    """Reference control guidance: 1 is off, 3 follows the edited maps harder at twice the cost."""
    guidance_scale: float = 1.0
    """Classifier-free guidance over identity and maps together: 1 is off (paper), 2 to 7 usual, at twice the cost. Wants a model
    that was trained with `condition_dropout`."""
    background_lock: bool = True
    """Keep what neither the old nor the new head covers as it is in the photograph; of edits that turn the head and carry detail,
    what is drawn as it was for the photograph."""
    carry_detail: bool = False
    """Carry what the model got wrong in rebuilding the photograph along the surface to the edit; one more picture is drawn."""
    batch: int = 8
    """Edits denoised together."""
    gpu: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps={self.steps}, batch={self.batch}: at least 1 is needed")
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale={self.guidance_scale}: choose 1 for none, or up to about 7")
        if self.solver not in ("ddim", "unipc", "dpm++"):
            raise ValueError(f"solver={self.solver!r}: choose ddim, unipc or dpm++")
        if self.adaptation_scale is not None and not 0 <= self.adaptation_scale <= 1:
            raise ValueError(
                f"adaptation_scale={self.adaptation_scale}: choose one from 0, the base model, to 1, all of the fine-tune"
            )

    def scale(self, *, turned_or_lit: bool) -> float:
        """How much of the fine-tune an edit uses that turns or lights the head and carries detail, or any other."""
        if self.adaptation_scale is not None:
            return self.adaptation_scale
        return STRONG_SCALE if turned_or_lit else 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    same_person: float = 0.6
    """dlib's distance below which two faces count as one person."""
