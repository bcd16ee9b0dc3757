"""Every choice that decides what an InstaFace model computes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_type_hints

Injection = Literal["before_norm", "after_norm", "transformer_input"]
GuidedBlocks = Literal["all", "middle_and_up"]
GuidanceTimestep = Literal["zero", "shared"]
Conditioning = Literal["guidance", "concatenation"]
ConditionInit = Literal["mean", "last", "root"]
IdentityKind = Literal["both", "semantic_only", "face_only"]
Prediction = Literal["epsilon", "velocity"]
Spacing = Literal["leading", "trailing"]
AdaptationKind = Literal["full", "lora", "tokens"]
Schedule = Literal["constant", "cosine"]
OptimiserName = Literal["adamw", "adamw8bit"]

MAPS = ("albedo", "normal", "render")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class InstaFaceConfig:
    """The networks, the injection, the noise process and the loss. Stable Diffusion 1.5 shapes are the
    defaults."""

    # Denoiser and Guidance Network: the shape of a diffusers UNet2DConditionModel.
    latent_channels: int = 4
    """C, channels of the codec's latents."""
    latent_size: int = 32
    """Side of the latents in training: picture side / codec factor."""
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each resolution, finest first."""
    attention: tuple[bool, ...] = (True, True, True, False)
    """Which resolutions have transformer blocks; the middle always has one."""
    layers: int = 2
    """Residual blocks a resolution on the way down (one more on the way up)."""
    heads: int = 8
    """Attention heads of the UNets."""
    groups: int = 32
    """Groups of the group norms; divides every width."""

    # Identity Preserver.
    token_width: int = 768
    """W, width of the identity tokens: the UNets' cross-attention width."""
    tokens: int = 4
    """N, identity tokens."""
    semantic_width: int = 1024
    """D of the semantic encoder's tokens."""
    face_width: int = 512
    """D of the face-recognition embedding."""
    identity: IdentityKind = "both"
    """What the tokens are made of; the other two are the paper's ablations."""
    identity_depth: int = 4
    """Attention and feed-forward layers of the projection."""
    identity_head_width: int = 64
    """Width of an attention head of the projection; divides token_width."""
    identity_shortcut: float = 0.0
    """s: tokens = face tokens + s·resampled; 0 leaves the sum out (FaceID-Plus v1; its v2 uses 1)."""

    identity_context: bool = False
    """Hand every semantic token, through a linear map and a feed-forward layer, to cross-attention too, after the N
    identity tokens. For small networks that must copy hair, clothes and background from few pictures; not the paper."""

    identity_grid: int = 0
    """g: the last g² tokens of `identity_context` lie on a g×g grid over the picture, and the Guidance Network reads them
    there, beside the maps, too. What does not move between two pictures of a person is then where it is wanted; without,
    attention has to learn that a place is the same place first. 0 is the paper."""

    # 3D Fusion Controller.
    conditioning: Conditioning = "guidance"
    """`guidance`: a Guidance Network reads the maps (the paper). `concatenation`: they are channels of the denoiser's input
    and there is no such network (DiffusionRig), a baseline."""
    maps: tuple[str, ...] = MAPS
    """Channel order of the condition latents."""
    condition_init: ConditionInit = "mean"
    """How the denoiser's conv_in is widened over the maps: W/3 each, W on the last only, or W/√3 each."""

    # Injection of guidance features.
    injection: Injection = "before_norm"
    """Where a feature is added: to a transformer block's input (and so to its residual), to the normalised
    input of its self-attention only, or to the input of the whole transformer."""
    guided_blocks: GuidedBlocks = "all"
    gated: bool = False
    """Multiply each block's features by a learned gate that starts at zero."""
    guidance_strength: float = 1.0
    """λ of h ← h + λ·g."""
    guidance_timestep: GuidanceTimestep = "zero"
    """`zero`: features depend on maps and identity only and are computed once an image. `shared`: once a
    step."""

    # Noise process and objective.
    train_steps: int = 1000
    """T."""
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    """Rescale the schedule to end in pure noise (arXiv:2305.08891); wants velocity prediction."""
    prediction: Prediction = "epsilon"
    latent_gains: tuple[float, ...] = ()
    """What each latent channel is multiplied with before noise is added, and divided by after sampling. Weak channels are
    then decided late, by what is likely rather than by chance, and weigh less in the loss; empty is the paper."""
    latent_deviations: tuple[float, ...] = ()
    """Standard deviation of each latent channel, its gain included. Where given, what the denoiser reads and predicts
    is scaled by channel and timestep (Karras et al. 2022, arXiv:2206.00364, table 1), so that it neither has to pass the
    noise of weak channels on nor to learn the size of strong ones. Wants velocity prediction; empty is the paper."""
    spacing: Spacing = "leading"
    """Which timesteps a sampler visits: leading 951, …, 1 (Stable Diffusion), trailing 999, …, 49."""
    sampling_shift: float = 1.0
    """s > 1 moves the timesteps of `ddim` towards the noise: for latents with strong channels, which are decided there.
    Wants trailing timesteps; 1 is the paper. Other solvers keep their own spacing."""
    min_snr_gamma: float | None = None
    """γ of min-SNR weighting (arXiv:2303.09556); None weighs every timestep alike, as the paper."""
    noise_offset: float = 0.0
    """Standard deviation of a constant added to each channel's noise."""
    face_weight: float = 1.0
    """Weight of the loss inside the batch's `mask`; 1 outside. 1 is the paper."""
    condition_dropout: float = 0.0
    """Share of training rows that see neither identity nor maps, for classifier-free guidance. 0 is the
    paper."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            allowed = get_args(hints[field.name])
            value = getattr(self, field.name)
            if allowed and all(isinstance(choice, str) for choice in allowed) and value not in allowed:
                raise ValueError(f"{field.name} is {value!r}: choose one of {', '.join(allowed)}")
        _check_shapes(self)
        _check_process(self)

    @property
    def condition_channels(self) -> int:
        """Channels of the condition latents: one set of latent channels a map."""
        return len(self.maps) * self.latent_channels

    @property
    def denoiser_channels(self) -> int:
        """Channels the denoiser reads: the noisy latents, and under `concatenation` the condition latents."""
        return self.latent_channels + (self.condition_channels if self.conditioning == "concatenation" else 0)

    def unet_kwargs(self, in_channels: int) -> dict[str, Any]:
        """Keyword arguments of diffusers' UNet2DConditionModel."""
        down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in self.attention)
        up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(self.attention))
        return {
            "sample_size": self.latent_size,
            "in_channels": in_channels,
            "out_channels": self.latent_channels,
            "block_out_channels": self.widths,
            "down_block_types": down,
            "up_block_types": up,
            "layers_per_block": self.layers,
            "attention_head_dim": self.heads,  # diffusers' name for the number of heads
            "norm_num_groups": self.groups,
            "cross_attention_dim": self.token_width,
        }

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; `from_json` gives back an equal configuration."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "InstaFaceConfig":
        """Read a dictionary written by `to_json`. ValueError for a field this version does not know."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown configuration fields {unknown}: written by another version of InstaFace?")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


def _check_shapes(c: InstaFaceConfig) -> None:
    if len(c.widths) != len(c.attention) or not c.widths:
        raise ValueError(f"{len(c.widths)} widths but {len(c.attention)} attention flags: give one a resolution")
    for name in ("latent_channels", "latent_size", "layers", "heads", "groups", "token_width", "tokens",
                 "semantic_width", "face_width", "identity_depth", "identity_head_width"):  # fmt: skip
        if getattr(c, name) < 1:
            raise ValueError(f"{name} is {getattr(c, name)}: it must be at least 1")
    for width in c.widths:
        if width % c.groups or width % c.heads:
            raise ValueError(f"width {width} is not divisible by {c.groups} groups and {c.heads} heads")
    if c.token_width % c.identity_head_width:
        raise ValueError(f"token_width {c.token_width} is not a multiple of the head width {c.identity_head_width}")
    if c.identity_grid < 0 or (c.identity_grid and (not c.identity_context or c.latent_size % c.identity_grid)):
        raise ValueError(
            f"identity_grid is {c.identity_grid}: a divisor of latent_size {c.latent_size}, with identity_context, or 0"
        )
    if not c.maps or len(set(c.maps)) != len(c.maps) or not set(c.maps) <= set(MAPS):
        raise ValueError(f"maps are {c.maps}: choose distinct names among {MAPS}")


def _check_process(c: InstaFaceConfig) -> None:
    if not 0 < c.beta_start <= c.beta_end < 1:
        raise ValueError(f"betas run from {c.beta_start} to {c.beta_end}: 0 < start ≤ end < 1 is needed")
    if c.train_steps < 2:
        raise ValueError(f"train_steps is {c.train_steps}: at least 2")
    if c.zero_terminal_snr and c.prediction == "epsilon":
        raise ValueError("zero_terminal_snr wants prediction='velocity': at zero SNR, ε says nothing about the picture")
    if c.latent_gains and len(c.latent_gains) != c.latent_channels:
        raise ValueError(f"{len(c.latent_gains)} latent_gains: give one for each of the {c.latent_channels} channels")
    if c.latent_deviations and (len(c.latent_deviations) != c.latent_channels or c.prediction != "velocity"):
        raise ValueError(
            f"{len(c.latent_deviations)} latent_deviations: give one for each of the {c.latent_channels} latent channels, "
            "with prediction='velocity', or none"
        )
    for name in ("latent_deviations", "latent_gains"):
        if any(value <= 0 for value in getattr(c, name)):
            raise ValueError(f"{name} are positive, not {min(getattr(c, name))}")
    if c.sampling_shift < 1 or (c.sampling_shift != 1 and c.spacing != "trailing"):
        raise ValueError(f"sampling_shift is {c.sampling_shift}: 1, or more with spacing='trailing'")
    if c.min_snr_gamma is not None and c.min_snr_gamma <= 0:
        raise ValueError(f"min_snr_gamma is {c.min_snr_gamma}: it must be positive (5 is usual), or None")
    if not 0 <= c.condition_dropout < 1:
        raise ValueError(f"condition_dropout is {c.condition_dropout}: 0 ≤ share < 1")
    if c.face_weight <= 0 or c.noise_offset < 0:
        raise ValueError(f"face_weight {c.face_weight} must be positive and noise_offset {c.noise_offset} not negative")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AdaptationConfig:
    """How stage 2 adapts an identity: see `models.diffusion.adaptation`."""

    kind: AdaptationKind = "full"
    rank: int = 16
    """r of ΔW = B A (lora)."""
    feed_forward: bool = False
    """Also adapt the transformers' feed-forward and projection layers (lora)."""
    split_projection: bool = False
    """Keep the Guidance Network on the untuned projection: its features are then constant in the fine-tune and can be
    computed once for all steps. The paper lets the gradient pass through the Guidance Network instead."""

    def __post_init__(self) -> None:
        if self.kind not in ("full", "lora", "tokens"):
            raise ValueError(f"kind is {self.kind!r}: choose full, lora or tokens")
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: it must be at least 1")
