"""Scaling of the denoiser by channel and timestep: moments, the plain case, and what the configuration refuses."""

import dataclasses

import pytest
import torch

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.presets import debug_config, tiny_config
from models.diffusion.sampling import sample_latents
from models.diffusion.schedule import add_noise, velocity, velocity_scales


@pytest.mark.parametrize("deviation", [0.4, 1.0, 3.5])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.999])
def test_input_and_target_have_unit_variance(alpha: float, deviation: float) -> None:
    """Measured over a million Gaussian latents; and what is left of the velocity is uncorrelated with z_t."""
    generator = torch.Generator().manual_seed(0)
    a, s = torch.tensor(alpha, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64)
    z_0, noise = (torch.randn(10**6, generator=generator, dtype=torch.float64) for _ in range(2))
    z_0 = z_0 * s
    z_t, v = add_noise(z_0, noise, a), velocity(z_0, noise, a)
    read, skip, write = velocity_scales(a, s)
    left = (v - skip * z_t) / write
    assert float((read * z_t).std()) == pytest.approx(1, abs=0.005)
    assert float(left.std()) == pytest.approx(1, abs=0.005)
    assert float((left * z_t).mean() / z_t.std()) == pytest.approx(0, abs=0.005)


def test_unit_deviation_changes_nothing() -> None:
    read, skip, write = velocity_scales(torch.linspace(0, 1, 11), torch.tensor(1.0))
    assert torch.allclose(read, torch.ones(11))
    assert torch.allclose(write, torch.ones(11))
    assert torch.allclose(skip, torch.zeros(11))
    plain = debug_config(latent_size=8, semantic_width=16, face_width=8)
    scaled = dataclasses.replace(plain, latent_deviations=(1.0,) * plain.latent_channels)
    batch = {
        "moments": torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(1)), "conditions": torch.zeros(1, 48, 8, 8),
        "semantic": torch.zeros(1, 5, 16), "face": torch.zeros(1, 8),
    }  # fmt: skip
    draws = draws_for(plain, ["a"], run_seed=0, epoch=0)
    losses = [InstaFace.from_config(config).loss(batch, draws) for config in (plain, scaled)]
    assert torch.allclose(*losses, rtol=1e-5)


def test_a_silent_network_predicts_the_best_linear_guess() -> None:
    config = dataclasses.replace(
        debug_config(latent_size=8, semantic_width=16, face_width=8), latent_deviations=(2.0,) * 16
    )
    model = InstaFace.from_config(config)
    torch.nn.init.zeros_(model.denoiser.conv_out.weight)
    assert model.denoiser.conv_out.bias is not None
    torch.nn.init.zeros_(model.denoiser.conv_out.bias)
    z = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    time = torch.tensor([300])
    with torch.no_grad():
        output = model.denoise(z, time, torch.zeros(1, 8, 128), None)
    _, skip, _ = velocity_scales(model.alphas[300], torch.tensor(2.0))
    assert torch.allclose(output, skip * z, atol=1e-6)


def test_gains_scale_what_is_noised_and_are_undone_after_sampling() -> None:
    plain = debug_config(latent_size=8, semantic_width=16, face_width=8)
    gained = dataclasses.replace(plain, latent_gains=(0.5,) * 16)
    batch = {
        "moments": torch.cat([torch.full((1, 16, 8, 8), 2.0), torch.full((1, 16, 8, 8), -30.0)], dim=1),
        "conditions": torch.zeros(1, 48, 8, 8), "semantic": torch.zeros(1, 5, 16), "face": torch.zeros(1, 8),
    }  # fmt: skip
    halved = batch | {"moments": torch.cat([batch["moments"][:, :16] / 2, batch["moments"][:, 16:]], dim=1)}
    draws = draws_for(plain, ["a"], run_seed=0, epoch=0)
    models = [InstaFace.from_config(config).eval() for config in (plain, gained)]
    with torch.no_grad():
        assert torch.allclose(models[1].loss(batch, draws), models[0].loss(halved, draws), rtol=1e-4)
        tokens = models[0].tokens(batch["semantic"], batch["face"])
        one, other = (sample_latents(m, batch["conditions"], tokens, keys=["a"], steps=2) for m in models)
    assert torch.allclose(other, one * 2, rtol=1e-4, atol=1e-4)


def test_configuration_round_trip_and_refusals() -> None:
    config = tiny_config()
    assert InstaFaceConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="63 latent_deviations: give one for each of the 64"):
        dataclasses.replace(config, latent_deviations=config.latent_deviations[1:])
    with pytest.raises(ValueError, match="63 latent_gains: give one for each of the 64"):
        dataclasses.replace(config, latent_gains=config.latent_gains[1:])
    with pytest.raises(ValueError, match="are positive, not 0"):
        dataclasses.replace(config, latent_deviations=(0.0, *config.latent_deviations[1:]))
