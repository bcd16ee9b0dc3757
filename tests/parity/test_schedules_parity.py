"""The noise process and the samplers against diffusers 0.42.1 (golden/schedules)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.diffusion.config import InstaFaceConfig
from models.diffusion.folder import scheduler_of
from models.diffusion.sampling import multistep_scheduler, set_timesteps
from models.diffusion.schedule import (
    add_noise,
    alphas_of,
    cumulative_alphas,
    ddim_step,
    min_snr_weight,
    rescale_to_zero_terminal_snr,
    sampling_timesteps,
    scaled_linear_betas,
    signal_to_noise,
    velocity,
)


def _arrays(golden: Path, name: str) -> dict[str, torch.Tensor]:
    with np.load(golden / "schedules" / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def test_noise_schedule_and_its_zero_snr_form(golden: Path) -> None:
    expected = _arrays(golden, "alphas")
    betas = scaled_linear_betas(1000, 0.00085, 0.012)
    alphas = cumulative_alphas(betas)
    torch.testing.assert_close(betas, expected["betas"], atol=2e-6, rtol=0)
    torch.testing.assert_close(alphas, expected["alphas_cumprod"], atol=2e-6, rtol=0)
    torch.testing.assert_close(alphas.double(), expected["alphas_cumprod_f64"], atol=2e-6, rtol=0)
    zero = rescale_to_zero_terminal_snr(alphas)
    torch.testing.assert_close(zero, expected["zsnr_alphas_cumprod"], atol=2e-6, rtol=0)
    assert zero[-1] == 0
    for prefix, table in (("", alphas), ("zsnr_", zero)):
        alpha = table[expected["t"]].view(-1, 1, 1, 1)
        noisy = add_noise(expected["x0"], expected["noise"], alpha)
        torch.testing.assert_close(noisy, expected[f"{prefix}noisy"], atol=2e-5, rtol=0)
        v = velocity(expected["x0"], expected["noise"], alpha)
        torch.testing.assert_close(v, expected[f"{prefix}velocity"], atol=2e-5, rtol=0)


def test_min_snr_weights(golden: Path) -> None:
    expected = _arrays(golden, "min_snr")
    gamma = float(expected["gamma"])
    alphas = alphas_of(InstaFaceConfig())
    torch.testing.assert_close(signal_to_noise(alphas), expected["snr"], rtol=1e-4, atol=1e-7)
    epsilon = min_snr_weight(alphas, gamma, "epsilon")
    torch.testing.assert_close(epsilon, expected["w_epsilon"], rtol=1e-4, atol=1e-7)
    v = min_snr_weight(alphas, gamma, "velocity")
    torch.testing.assert_close(v, expected["w_v_snr_plus_one"], rtol=1e-4, atol=1e-7)
    zero = alphas_of(InstaFaceConfig(zero_terminal_snr=True, prediction="velocity"))
    v = min_snr_weight(zero, gamma, "velocity")
    torch.testing.assert_close(v, expected["zsnr_w_v_snr_plus_one"], rtol=1e-4, atol=1e-7)
    assert v[-1] == 1


def test_timesteps_of_every_length(golden: Path) -> None:
    table = json.loads((golden / "schedules" / "timesteps.json").read_text())
    compared = 0
    for name, entry in table.items():
        if not isinstance(entry, dict):
            continue
        spacing = entry["config"]["timestep_spacing"]
        if spacing not in ("leading", "trailing") or entry["config"].get("steps_offset", 0) != 1:
            continue
        for steps, expected in entry["timesteps"].items():
            assert sampling_timesteps(int(steps), 1000, spacing).tolist() == expected, (name, steps)
            compared += 1
    assert compared > 20


def _trajectory(io: dict[str, torch.Tensor], name: str, config: InstaFaceConfig) -> None:
    """20 DDIM steps under the model m(x, t) = A x + b t/1000; every latent and every ẑ_0 is compared."""
    alphas = alphas_of(config)
    timesteps = sampling_timesteps(20, 1000, config.spacing)
    assert torch.equal(timesteps, io[f"{name}_timesteps"])
    z = io["x_T"]
    for i, t in enumerate(timesteps.tolist()):
        output = io["A"] * z + io["b"] * (t / 1000)
        z = ddim_step(output, z, alphas[t], alphas[max(t - 50, 0)], config.prediction)
        torch.testing.assert_close(z, io[f"{name}_prev"][i], atol=3e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sd15_leading", InstaFaceConfig()),
        ("sd15_trailing", InstaFaceConfig(spacing="trailing")),
        (
            "zsnr_v_trailing",
            InstaFaceConfig(spacing="trailing", prediction="velocity", zero_terminal_snr=True),
        ),
    ],
)
def test_ddim_trajectories(golden: Path, name: str, config: InstaFaceConfig) -> None:
    _trajectory(_arrays(golden, "ddim_trajectories"), name, config)


def test_stochastic_ddim(golden: Path) -> None:
    io = _arrays(golden, "ddim_trajectories")
    alphas, z = alphas_of(InstaFaceConfig()), io["x_T"]
    for i, t in enumerate(sampling_timesteps(10, 1000, "leading").tolist()):
        output = io["A"] * z + io["b"] * (t / 1000)
        noise = io["eta0p5_noise"][i]
        z = ddim_step(output, z, alphas[t], alphas[max(t - 100, 0)], "epsilon", eta=0.5, noise=noise)
        torch.testing.assert_close(z, io["eta0p5_prev"][i], atol=3e-5, rtol=1e-6)


@pytest.mark.parametrize(("solver", "name"), [("unipc", "unipc8"), ("dpm++", "dpmpp2m8")])
def test_multistep_solvers(golden: Path, solver: Any, name: str) -> None:
    io = _arrays(golden, "multistep_trajectories")
    scheduler = multistep_scheduler(InstaFaceConfig(), solver)
    set_timesteps(scheduler, 8)
    assert scheduler.timesteps.tolist() == io[f"{name}_timesteps"].tolist()
    z = io["x_T"]
    for i, t in enumerate(scheduler.timesteps):
        z = scheduler.step(io["A"] * z + io["b"] * (float(t) / 1000), t, z).prev_sample
        torch.testing.assert_close(z, io[f"{name}_prev"][i], atol=1e-4, rtol=1e-5)


def test_the_saved_scheduler_is_the_same_process() -> None:
    for config in (
        InstaFaceConfig(),
        InstaFaceConfig(spacing="trailing", prediction="velocity", zero_terminal_snr=True),
    ):
        scheduler = scheduler_of(config)
        torch.testing.assert_close(scheduler.alphas_cumprod, alphas_of(config), atol=1e-6, rtol=0)
        scheduler.set_timesteps(20)
        assert scheduler.timesteps.tolist() == sampling_timesteps(20, 1000, config.spacing).tolist()
