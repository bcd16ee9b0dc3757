"""From noise to pictures: DDIM, the faster solvers of diffusers, and the ways to steer them."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict, Unpack

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace, repeat_rows
from models.diffusion.guidance import Features
from models.diffusion.schedule import add_noise, ddim_step, sampling_timesteps
from models.encoders.codec import LatentCodec
from models.rng import torch_generator

Solver = Literal["ddim", "unipc", "dpm++"]
Step = Callable[[Tensor, int, Tensor], Tensor]
"""(network output, timestep, z_t) → the next, cleaner latents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackgroundLock:
    """Keep what no head covers as it is in the source picture."""

    source: Tensor
    """Latents of the source picture, diffusion units: (1 or B, C, h, w)."""
    free: Tensor
    """Where the sampler is free, the grown union of source and edited head masks: (1 or B, 1, h, w) in [0, 1]."""


def initial_noise(config: InstaFaceConfig, keys: Sequence[str], seed: int, size: tuple[int, int]) -> Tensor:
    """z_T ~ N(0, 1), one row a key: equal keys and seeds give equal rows, whatever batch they are in."""
    shape = (config.latent_channels, *size)
    return torch.stack([torch.randn(shape, generator=torch_generator(seed, key, "sampling")) for key in keys])


def head_region(*masks: Tensor, size: tuple[int, int], margin: float = 0.06) -> Tensor:
    """The union of head masks, grown by `margin` of the side, on the latent grid.

    Masks are (B, 1, H, W) in [0, 1]; the result is (B, 1, h, w), 1 in every cell that a grown mask touches.
    """
    union = torch.stack([mask.float() for mask in masks]).amax(dim=0)
    reach = max(1, round(margin * union.shape[-1]))
    grown = torch.nn.functional.max_pool2d(union, 2 * reach + 1, stride=1, padding=reach)
    return torch.nn.functional.adaptive_max_pool2d(grown, size)


class SamplingOptions(TypedDict, total=False):
    """The keyword arguments of `sample` and `sample_latents`."""

    keys: Required[Sequence[str]]
    """B names of the initial noise. Give one key to all edits of a photograph: they share what maps leave open."""
    seed: int
    steps: int
    """20 in the paper; unipc and dpm++ need 8 to 12."""
    solver: Solver
    eta: float
    """Share of fresh noise in a ddim step; 0 is deterministic."""
    strength: float | None
    """λ, instead of the configuration's."""
    guidance_tokens: Tensor | None
    """Tokens for the Guidance Network, where the projection was split in the fine-tune: `model.guidance_tokens`."""
    reference: Tensor | None
    """Condition latents (1 or B, …) of the unedited maps: turns on Reference Control Guidance."""
    reference_scale: float
    """How far the edit is extrapolated away from the reference."""
    guidance_scale: float
    """Classifier-free guidance, for models trained with `condition_dropout`; 1 is off."""
    lock: BackgroundLock | None
    progress: Callable[[int], None] | None
    """Called with the number of finished steps."""


@torch.no_grad()
def sample(
    model: InstaFace,
    codec: LatentCodec,
    conditions_BChw: Tensor,
    tokens_BNW: Tensor,
    **options: Unpack[SamplingOptions],
) -> Tensor:
    """Edits (B, 3, H, W) in [0, 1] of the condition latents of B edited maps, and the identity tokens of one
    person or of B."""
    latents = sample_latents(model, conditions_BChw, tokens_BNW, **options)
    return (codec.decode(latents) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def sample_latents(
    model: InstaFace,
    conditions_BChw: Tensor,
    tokens_BNW: Tensor,
    *,
    keys: Sequence[str],
    seed: int = 0,
    steps: int = 20,
    solver: Solver = "ddim",
    eta: float = 0.0,
    strength: float | None = None,
    guidance_tokens: Tensor | None = None,
    reference: Tensor | None = None,
    reference_scale: float = 3.0,
    guidance_scale: float = 1.0,
    lock: BackgroundLock | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """As `sample`, without decoding: latents (B, C, h, w) in diffusion units, float32."""
    rows, size = len(conditions_BChw), (conditions_BChw.shape[-2], conditions_BChw.shape[-1])
    if len(keys) != rows:
        raise ValueError(f"{len(keys)} keys for {rows} edits: give one key an edit (the same one to share its noise)")
    if guidance_tokens is None:
        if model.guidance_identity is not None:
            raise ValueError(
                "the projection is split: give guidance_tokens=model.guidance_tokens(semantic, face, tokens)"
            )
        guidance_tokens = tokens_BNW
    guide = _guide(model, conditions_BChw, guidance_tokens, reference if reference_scale != 1 else None)
    predict = _predictor(model, guide, tokens_BNW, rows, reference_scale, guidance_scale, strength)
    noise = initial_noise(model.config, keys, seed, size).to(model.device)
    timesteps, step = _solver(model, solver, steps, eta, keys, seed)
    z = noise
    for i, t in enumerate(timesteps):
        z = step(predict(z, t), t, z)
        if lock is not None:
            z = _locked(z, lock, noise, model, timesteps[i + 1] if i + 1 < len(timesteps) else None)
        if progress is not None:
            progress(i + 1)
    return z / model.gains


def extrapolate(reference: Tensor, target: Tensor, scale: float) -> Tensor:
    """ε̂ = ε(reference) + w (ε(target) − ε(reference)): classifier-free guidance, and with the unedited maps
    as reference, Reference Control Guidance (ControlFace, arXiv:2412.01160)."""
    return reference + scale * (target - reference)


Guide = Callable[[Tensor], Features]
"""t of each row → features of the edits, and below them, in the same tensors, those of the reference."""


def _guide(model: InstaFace, conditions: Tensor, tokens: Tensor, reference: Tensor | None) -> Guide:
    """Features once for all steps under the `zero` rule, once a step under `shared`."""
    rows = len(conditions)
    everything = conditions
    if reference is not None:
        everything = torch.cat([conditions, repeat_rows(reference, rows).expand_as(conditions)])
    tokens = repeat_rows(tokens.to(conditions.device, model.dtype), rows).expand(rows, -1, -1)
    tokens = tokens.repeat(len(everything) // rows, 1, 1)
    if model.config.guidance_timestep == "shared":
        return lambda timesteps: model.guide(everything, tokens, timesteps.repeat(len(everything) // rows))
    features = model.guide(everything, tokens)
    return lambda timesteps: features


def _predictor(
    model: InstaFace,
    guide: Guide,
    tokens: Tensor,
    rows: int,
    reference_scale: float,
    guidance_scale: float,
    strength: float | None,
) -> Callable[[Tensor, int], Tensor]:
    """(z_t, t) → prediction, float32. The branches of a step (edit, reference, nothing) are one batched pass."""
    tokens = repeat_rows(tokens.to(model.device, model.dtype), rows).expand(rows, -1, -1)

    def predict(z: Tensor, t: int) -> Tensor:
        time = torch.full((len(z),), t, device=z.device)
        features = guide(time)
        branches = len(next(iter(features.values()))) // rows
        seen = tokens.repeat(branches, 1, 1)
        if guidance_scale != 1:
            features = {name: torch.cat([f, torch.zeros_like(f[:rows])]) for name, f in features.items()}
            seen = torch.cat([seen, torch.zeros_like(tokens)])
            branches += 1
        output = model.denoise(z.repeat(branches, 1, 1, 1), time.repeat(branches), seen, features, strength=strength)
        edit, *others = output.float().chunk(branches)
        nothing = others.pop() if guidance_scale != 1 else None
        if others:
            edit = extrapolate(others[0], edit, reference_scale)
        return edit if nothing is None else extrapolate(nothing, edit, guidance_scale)

    return predict


def _solver(
    model: InstaFace, solver: Solver, steps: int, eta: float, keys: Sequence[str], seed: int
) -> tuple[list[int], Step]:
    """The timesteps to visit and the rule that goes from one to the next."""
    config = model.config
    if solver == "ddim":
        timesteps = sampling_timesteps(steps, config.train_steps, config.spacing, config.sampling_shift).tolist()
        jump = config.train_steps // steps
        following = {t: max(t - jump, 0) for t in timesteps}
        if config.sampling_shift != 1:
            following = dict(zip(timesteps, [*timesteps[1:], 0], strict=True))

        def step(output: Tensor, t: int, z: Tensor) -> Tensor:
            # The step beyond the last has ᾱ_0, not 1 (`set_alpha_to_one=False` of Stable Diffusion).
            alpha, alpha_next = model.alphas[t], model.alphas[following[t]]
            noise = None
            if eta:
                noise = torch.stack(
                    [torch.randn(z.shape[1:], generator=torch_generator(seed, key, t, "eta")) for key in keys]
                ).to(z.device)
            return ddim_step(output, z, alpha, alpha_next, config.prediction, eta=eta, noise=noise)

        return timesteps, step
    if eta:
        raise ValueError(f"eta is {eta}: only the ddim solver is stochastic")
    scheduler = multistep_scheduler(config, solver)
    set_timesteps(scheduler, steps)
    return scheduler.timesteps.tolist(), lambda output, t, z: scheduler.step(output, t, z, return_dict=False)[0]


def multistep_scheduler(config: InstaFaceConfig, solver: Solver) -> Any:
    """UniPC (arXiv:2302.04867) or DPM-Solver++(2M) (arXiv:2211.01095) of diffusers, on this noise process."""
    classes = {"unipc": UniPCMultistepScheduler, "dpm++": DPMSolverMultistepScheduler}
    if solver not in classes:
        raise ValueError(f"solver is {solver!r}: choose ddim, {', '.join(classes)}")
    return classes[solver](
        num_train_timesteps=config.train_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="epsilon" if config.prediction == "epsilon" else "v_prediction",
        timestep_spacing=config.spacing,
        steps_offset=1,
        rescale_betas_zero_snr=config.zero_terminal_snr,
    )


def set_timesteps(scheduler: Any, steps: int) -> None:
    """Prepare a diffusers scheduler; its `np.array(tensor)` warns under NumPy 2, about nothing of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler.set_timesteps(steps)


def _locked(z: Tensor, lock: BackgroundLock, noise: Tensor, model: InstaFace, next_timestep: int | None) -> Tensor:
    """z ← m z + (1−m) z_source, the source noised to where z is (blended diffusion, arXiv:2206.02779)."""
    source = lock.source.to(z) * model.gains
    if next_timestep is not None:
        source = add_noise(source, noise, model.alphas[next_timestep])
    free = lock.free.to(z)
    return free * z + (1 - free) * source
