"""InstaFace: the denoiser, the Guidance Network and the Identity Preserver put together (paper §4, equations
1-3)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from models.diffusion.concatenation import ConditionConcatenation, beside, reading_maps
from models.diffusion.config import InstaFaceConfig
from models.diffusion.guidance import (
    Features,
    GuidanceNetwork,
    accept_features,
    adding,
    mirror_denoiser,
)
from models.diffusion.identity import IdentityPreserver
from models.diffusion.schedule import add_noise, alphas_of, min_snr_weight, velocity, velocity_scales
from models.encoders.codec import LatentCodec, posterior_sample
from models.rng import seed_of, torch_generator


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """What chance decides about a training step, N rows: see `draws_for`."""

    noise: Tensor
    """ε: float32 (N, C, h, w)."""
    timesteps: Tensor
    """t: int64 (N,) in [0, T)."""
    posterior: Tensor
    """ξ of the codec's posterior: float32 (N, C, h, w)."""
    dropped: Tensor
    """bool (N,): rows trained without identity and maps."""

    def to(self, device: torch.device | str) -> "Draws":
        return Draws(
            noise=self.noise.to(device), timesteps=self.timesteps.to(device),
            posterior=self.posterior.to(device), dropped=self.dropped.to(device),
        )  # fmt: skip


class InstaFace(nn.Module):
    """The editor. Parts: `denoiser` (a plain diffusers UNet), `guidance`, `identity`.

    Latents and conditions are in the codec's diffusion units; tokens come from `tokens`, features from
    `guide`. With the default timestep rule both depend on the picture and its maps only: compute them once,
    denoise many times.
    """

    def __init__(
        self, denoiser: UNet2DConditionModel, guidance: UNet2DConditionModel | None, config: InstaFaceConfig
    ) -> None:
        """Use `from_config` for seeded weights, `from_denoiser` for a pretrained denoiser, `from_pretrained` to load.

        `guidance` is None under `conditioning="concatenation"`, and only there.
        """
        if (guidance is None) != (config.conditioning == "concatenation"):
            raise ValueError(f"conditioning is {config.conditioning!r}: a Guidance Network belongs to 'guidance' alone")
        super().__init__()
        self.config = config
        self.denoiser = denoiser
        self.guidance = ConditionConcatenation(config) if guidance is None else GuidanceNetwork(guidance, config)
        self.identity = IdentityPreserver(config)
        self.guidance_identity: IdentityPreserver | None = None
        """A frozen copy of `identity` for the Guidance Network, when adaptation splits the projection."""
        self.own_tokens: nn.Parameter | None = None
        """Identity tokens (1, N, W) trained themselves, instead of the projection."""
        if guidance is not None:
            accept_features(denoiser, config.injection, config.guided_blocks)
        self.alphas: Tensor
        self.register_buffer("alphas", alphas_of(config), persistent=False)
        self.gains: Tensor
        self.register_buffer("gains", torch.tensor(config.latent_gains or 1.0).view(1, -1, 1, 1), persistent=False)
        self.deviations: Tensor
        self.register_buffer("deviations", torch.tensor(config.latent_deviations), persistent=False)

    @classmethod
    def from_config(cls, config: InstaFaceConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> "InstaFace":
        """Seeded weights: equal seeds give equal bits. The Guidance Network starts as the denoiser."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "denoiser"))
            denoiser = UNet2DConditionModel(**config.unet_kwargs(config.denoiser_channels))
        nn.Module.to(denoiser, dtype)  # diffusers' own `to` warns of modules kept in float32; there are none
        return cls.from_denoiser(denoiser, config, seed=seed)

    @classmethod
    def from_denoiser(cls, denoiser: UNet2DConditionModel, config: InstaFaceConfig, *, seed: int = 0) -> "InstaFace":
        """Start from a (pretrained) denoiser: its weights also start the Guidance Network (rule D4)."""
        concatenated = config.conditioning == "concatenation"
        denoiser = reading_maps(denoiser, config) if concatenated else denoiser
        guidance = None if concatenated else mirror_denoiser(denoiser, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "identity"))
            model = cls(denoiser, guidance, config)
        model.identity.to(denoiser.dtype)
        if model.guidance.layout is not None:
            model.guidance.layout.to(denoiser.dtype)
        return model

    def save_pretrained(self, folder: str | Path, *, codec: LatentCodec | None = None) -> None:
        """Write the model as one folder in diffusers' layout: see `models.diffusion.folder`."""
        from models.diffusion.folder import save_model

        save_model(self, folder, codec=codec)

    @staticmethod
    def from_pretrained(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> "InstaFace":
        """Read a folder written by `save_pretrained`."""
        from models.diffusion.folder import load_model

        return load_model(folder, dtype=dtype)

    # --- Conditioning ---

    def tokens(self, semantic_BLD: Tensor, face_BF: Tensor) -> Tensor:
        """E_comb = Proj(semantic, face): identity tokens (B, N, W) (equation 2)."""
        if self.own_tokens is not None:
            return self.own_tokens.expand(len(face_BF), -1, -1)
        tokens: Tensor = self.identity(semantic_BLD.to(self.dtype), face_BF.to(self.dtype))
        return tokens

    def guidance_tokens(self, semantic_BLD: Tensor, face_BF: Tensor, tokens_BNW: Tensor) -> Tensor:
        """The tokens the Guidance Network sees: `tokens_BNW`, or the frozen copy's when the projection is split."""
        if self.guidance_identity is None:
            return tokens_BNW
        with torch.no_grad():
            frozen: Tensor = self.guidance_identity(semantic_BLD.to(self.dtype), face_BF.to(self.dtype))
        return frozen

    def guide(self, conditions_BChw: Tensor, tokens_BNW: Tensor, timesteps: Tensor | None = None) -> Features:
        """Features of condition latents, by block name. Timesteps only under `guidance_timestep="shared"`."""
        if (timesteps is not None) != (self.config.guidance_timestep == "shared"):
            raise ValueError(
                f"guidance_timestep is {self.config.guidance_timestep!r}: "
                + ("give the timesteps" if timesteps is None else "features do not depend on timesteps")
            )
        features: Features = self.guidance(conditions_BChw.to(self.dtype), tokens_BNW, timesteps)
        return features

    def denoise(
        self,
        z_t: Tensor,
        timesteps: Tensor,
        tokens_BNW: Tensor,
        features: Mapping[str, Tensor] | None,
        *,
        strength: float | None = None,
    ) -> Tensor:
        """The network's prediction (ε or v) for noisy latents (B, C, h, w) at timesteps (B,).

        Tokens and features of fewer rows serve several rows of z_t each, in order: one picture's for a whole
        batch, say. `strength` is λ (default: the configuration's); 0, or no features, is the plain UNet.
        """
        rows = len(z_t)
        strength = self.config.guidance_strength if strength is None else strength
        if features is not None and strength == 0:
            features = None
        if features is not None:
            features = {name: repeat_rows(f if strength == 1 else f * strength, rows) for name, f in features.items()}
        tokens = repeat_rows(tokens_BNW, rows).expand(rows, -1, -1)
        if not self.config.latent_deviations:
            return self._unet(z_t, timesteps, tokens, features)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        read, skip, write = velocity_scales(alpha, self.deviations.view(1, -1, 1, 1))
        return skip * z_t.float() + write * self._unet(read * z_t, timesteps, tokens, features).float()

    def _unet(self, z: Tensor, timesteps: Tensor, tokens: Tensor, features: Mapping[str, Tensor] | None) -> Tensor:
        z = z.to(self.dtype)
        if self.config.conditioning == "concatenation":
            z, features = beside(z, features, self.config.condition_channels), None
        output: Tensor = self.denoiser(
            z, timesteps, tokens, cross_attention_kwargs=adding(features), return_dict=False
        )[0]
        return output

    # --- Training ---

    def forward(
        self, batch: Mapping[str, Tensor], draws: Draws, features: Features | None = None, *, rows: bool = False
    ) -> Tensor:
        """The loss, or that of each row: so that wrappers which hook `forward` (DDP, FSDP) see the whole step."""
        return self.loss_rows(batch, draws, features) if rows else self.loss(batch, draws, features)

    def loss(self, batch: Mapping[str, Tensor], draws: Draws, features: Features | None = None) -> Tensor:
        """The mean of `loss_rows`: a scalar."""
        return self.loss_rows(batch, draws, features).mean()

    def loss_rows(self, batch: Mapping[str, Tensor], draws: Draws, features: Features | None = None) -> Tensor:
        """E ‖ε − ε_θ(z_t, t, E_comb, D)‖² (equation 3), or its velocity form, of each row: (N,).

        batch: `moments` (B, 2C, h, w), `conditions` (B, 3C, h, w), `semantic` (B, L, D), `face` (B, F) and,
        for `face_weight`, `mask` (B, 1, h, w) in [0, 1]. The draws have N rows, N a multiple of B: row i of
        the batch serves N/B of them, so the projection and the Guidance Network run once a picture however
        often it is noised. `features`, when given, are used instead of running the Guidance Network.
        """
        rows = len(draws.noise)
        moments = repeat_rows(batch["moments"].float(), rows)
        z_0 = posterior_sample(moments, draws.posterior) * self.gains
        alpha = self.alphas[draws.timesteps].view(-1, 1, 1, 1)
        tokens = self.tokens(batch["semantic"], batch["face"])
        if features is None:
            features = self._training_features(batch, tokens, draws)
        features, tokens = self._drop_conditions(features, tokens, draws)
        output = self.denoise(add_noise(z_0, draws.noise, alpha), draws.timesteps, tokens, features)
        target = draws.noise if self.config.prediction == "epsilon" else velocity(z_0, draws.noise, alpha)
        return self._weighted_error(output.float(), target, alpha, batch.get("mask"))

    def _training_features(self, batch: Mapping[str, Tensor], tokens: Tensor, draws: Draws) -> Features:
        seen = self.guidance_tokens(batch["semantic"], batch["face"], tokens)
        if self.config.guidance_timestep == "zero":
            return self.guide(batch["conditions"], seen)
        rows = len(draws.noise)
        conditions = repeat_rows(batch["conditions"], rows).expand(rows, -1, -1, -1)
        return self.guide(conditions, repeat_rows(seen, rows).expand(rows, -1, -1), draws.timesteps)

    def _drop_conditions(self, features: Features, tokens: Tensor, draws: Draws) -> tuple[Features, Tensor]:
        if self.config.condition_dropout == 0:
            return features, tokens
        rows = len(draws.noise)
        kept = {n: (~draws.dropped).to(self.dtype).view(-1, *[1] * n) for n in (2, 3)}
        dropped = {name: repeat_rows(f, rows) * kept[f.ndim - 1] for name, f in features.items()}
        return dropped, repeat_rows(tokens, rows) * kept[2]

    def _weighted_error(self, output: Tensor, target: Tensor, alpha: Tensor, mask: Tensor | None) -> Tensor:
        error = (output - target).square()
        if self.config.min_snr_gamma is not None:
            error = error * min_snr_weight(alpha, self.config.min_snr_gamma, self.config.prediction)
        if self.config.face_weight != 1:
            if mask is None:
                raise ValueError(f"face_weight is {self.config.face_weight}: the batch needs a `mask` (B, 1, h, w)")
            weight = 1 + (self.config.face_weight - 1) * repeat_rows(mask.float(), len(output))
            error = error * (weight / weight.mean(dim=(-2, -1), keepdim=True))
        return error.flatten(1).mean(dim=1)

    def split_projection(self) -> None:
        """Let the Guidance Network keep today's projection, frozen: its features no longer change in a fine-tune."""
        self.guidance_identity = copy.deepcopy(self.identity).requires_grad_(False)

    @property
    def unets(self) -> list[UNet2DConditionModel]:
        """The denoiser, and the Guidance Network's where there is one."""
        return [self.denoiser, *([self.guidance.unet] if isinstance(self.guidance, GuidanceNetwork) else [])]

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        dtype: torch.dtype = self.denoiser.conv_in.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        return self.alphas.device


def repeat_rows(tensor: Tensor, rows: int) -> Tensor:
    """Serve `rows` rows with fewer: (m, …) → (rows, …), each row repeated rows/m times in place.

    A single row is returned as it is, to broadcast: nothing is copied, its gradient is the sum over the rows.
    """
    if len(tensor) in (1, rows):
        return tensor
    if rows % len(tensor):
        raise ValueError(f"{rows} rows of noise cannot be shared by {len(tensor)} pictures: give a multiple")
    return tensor.repeat_interleave(rows // len(tensor), dim=0)


def draws_for(
    config: InstaFaceConfig,
    keys: Sequence[str],
    *,
    run_seed: int,
    epoch: int,
    copies: int = 1,
    stratified: bool = False,
    antithetic: bool = False,
) -> Draws:
    """Noise, timesteps and posterior draws of samples by key: `copies` rows a key, in the keys' order.

    A row depends on (run seed, epoch, key, copy) only, not on its place in a batch, the worker or the number
    of devices. `stratified` draws the copies' timesteps from `copies` equal ranges of [0, T), `antithetic`
    gives every second copy the negative of the noise before it; both keep the loss unbiased and lower its
    gradient's variance.
    """
    shape = (config.latent_channels, config.latent_size, config.latent_size)
    noises: list[Tensor] = []
    timesteps, posteriors, dropped = [], [], []
    for key in keys:
        for copy_index in range(copies):
            if antithetic and copy_index % 2:
                noises.append(-noises[-1])
            else:
                generator = torch_generator(run_seed, epoch, key, copy_index, "noise")
                noise = torch.randn(shape, generator=generator)
                noises.append(noise + config.noise_offset * torch.randn((shape[0], 1, 1), generator=generator))
            generator = torch_generator(run_seed, epoch, key, copy_index, "timestep")
            place = torch.rand((), generator=generator, dtype=torch.float64)
            if stratified:
                place = (copy_index + place) / copies
            timesteps.append((place * config.train_steps).long().clamp(max=config.train_steps - 1))
            dropped.append(torch.rand((), generator=generator) < config.condition_dropout)
            generator = torch_generator(run_seed, epoch, key, copy_index, "posterior")
            posteriors.append(torch.randn(shape, generator=generator))
    return Draws(
        noise=torch.stack(noises), timesteps=torch.stack(timesteps),
        posterior=torch.stack(posteriors), dropped=torch.stack(dropped),
    )  # fmt: skip
