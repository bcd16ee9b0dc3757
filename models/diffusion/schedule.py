"""The noise process: z_t = √ᾱ_t z_0 + √(1−ᾱ_t) ε, and what follows from it.

One function an equation; all of them take ᾱ as a tensor that broadcasts over the latents.
"""

import torch
from torch import Tensor

from models.diffusion.config import InstaFaceConfig, Prediction, Spacing


def scaled_linear_betas(steps: int, start: float, end: float) -> Tensor:
    """β_t, linear in √β (latent diffusion, Rombach et al. 2022): float32 (steps,)."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2


def cumulative_alphas(betas: Tensor) -> Tensor:
    """ᾱ_t = Π_{s≤t} (1 − β_s)."""
    return torch.cumprod(1 - betas, dim=0)


def rescale_to_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale √ᾱ so that √ᾱ_T = 0 and √ᾱ_0 stays (Lin et al. 2023, arXiv:2305.08891, Algorithm 1)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))) ** 2


def alphas_of(config: InstaFaceConfig) -> Tensor:
    """ᾱ_t of a configuration: float32 (train_steps,), decreasing."""
    alphas = cumulative_alphas(scaled_linear_betas(config.train_steps, config.beta_start, config.beta_end))
    return rescale_to_zero_terminal_snr(alphas) if config.zero_terminal_snr else alphas


def add_noise(z_0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """z_t = √ᾱ z_0 + √(1−ᾱ) ε (Ho et al. 2020, equation 4)."""
    return alpha.sqrt() * z_0 + (1 - alpha).sqrt() * noise


def velocity(z_0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """v = √ᾱ ε − √(1−ᾱ) z_0 (Salimans and Ho 2022, arXiv:2202.00512, §4)."""
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * z_0


def to_clean_and_noise(output: Tensor, z_t: Tensor, alpha: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """What a network's output says about ẑ_0 and ε̂.

    ε-prediction: ẑ_0 = (z_t − √(1−ᾱ) ε̂)/√ᾱ. v-prediction: ẑ_0 = √ᾱ z_t − √(1−ᾱ) v̂ and ε̂ = √ᾱ v̂ + √(1−ᾱ)
    z_t.
    """
    a, s = alpha.sqrt(), (1 - alpha).sqrt()
    if prediction == "epsilon":
        return (z_t - s * output) / a, output
    return a * z_t - s * output, a * output + s * z_t


def velocity_scales(alpha: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales (of the input, of z_t in the output, of the network in the output) under which a network of unit input
    predicts the velocity with a target of unit variance, for latents of the given standard deviation s.

    v = c_skip z_t + c_out F(c_in z_t) with Var z_t = ᾱs² + 1 − ᾱ, c_in = Var^-½, c_skip = Cov(v, z_t)/Var z_t =
    √(ᾱ(1−ᾱ)) (1 − s²)/Var z_t and c_out = s Var^-½, the deviation of what is left (Karras et al. 2022,
    arXiv:2206.00364, appendix B.6, for the velocity of a variance-preserving process). s = 1 gives 1, 0 and 1.
    """
    variance = alpha * deviation.square() + 1 - alpha
    skip = (alpha * (1 - alpha)).sqrt() * (1 - deviation.square()) / variance
    return variance.rsqrt(), skip, deviation * variance.rsqrt()


def signal_to_noise(alpha: Tensor) -> Tensor:
    """SNR = ᾱ/(1−ᾱ)."""
    return alpha / (1 - alpha)


def min_snr_weight(alpha: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Loss weights of min-SNR-γ (Hang et al. 2023, arXiv:2303.09556, §3.4).

    ε: min(SNR, γ)/SNR. v: min(SNR+1, γ)/(SNR+1), the variant in common use; the derivation gives
    min(SNR, γ)/(SNR+1), which ignores the step of zero SNR, the very one that sets a picture's brightness.
    """
    snr = signal_to_noise(alpha)
    if prediction == "epsilon":
        return snr.clamp(max=gamma) / snr
    return (snr + 1).clamp(max=gamma) / (snr + 1)


def sampling_timesteps(steps: int, train_steps: int, spacing: Spacing, shift: float = 1.0) -> Tensor:
    """The timesteps a sampler visits, descending: int64 (steps,).

    leading: ⌊T/steps⌋·i + 1; trailing: round(T − i·T/steps) − 1 (arXiv:2305.08891, Table 2). `shift` s moves trailing
    ones towards the noise: u = 1 − i/steps becomes s·u/(1 + (s − 1)·u) (Esser et al. 2024, arXiv:2403.03206, equation 23).
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps is {steps}: between 1 and the {train_steps} steps of training")
    if spacing == "leading":
        ascending = torch.arange(steps) * (train_steps // steps) + 1
        return ascending.flip(0)
    descending = train_steps - torch.arange(steps, dtype=torch.float64) * (train_steps / steps)
    if shift != 1:
        descending = shift * descending / (1 + (shift - 1) * descending / train_steps)
    return descending.round().long() - 1


def ddim_step(
    output: Tensor,
    z_t: Tensor,
    alpha: Tensor,
    alpha_next: Tensor,
    prediction: Prediction,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """One DDIM step (Song et al. 2021, arXiv:2010.02502, equation 12), from ᾱ to the cleaner ᾱ'
    (`alpha_next`).

    z' = √ᾱ' ẑ_0 + √(1−ᾱ'−σ²) ε̂ + σ ξ with σ = η √((1−ᾱ')/(1−ᾱ)) √(1−ᾱ/ᾱ'). ξ is `noise`; η = 0 needs none.
    """
    clean, predicted_noise = to_clean_and_noise(output, z_t, alpha, prediction)
    if eta == 0:
        return alpha_next.sqrt() * clean + (1 - alpha_next).sqrt() * predicted_noise
    if noise is None:
        raise ValueError(f"eta is {eta}: a stochastic step needs noise")
    sigma = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)).sqrt()
    direction = (1 - alpha_next - sigma**2).clamp(min=0).sqrt() * predicted_noise
    return alpha_next.sqrt() * clean + direction + sigma * noise
