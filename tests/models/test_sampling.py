"""Sampling: the plain DDIM loop where nothing is asked for, and what each way of steering promises."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from small_networks import batch_of, small_config, small_model

from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.folder import scheduler_of
from models.diffusion.sampling import (
    BackgroundLock,
    extrapolate,
    head_region,
    initial_noise,
    multistep_scheduler,
    sample,
    sample_latents,
    set_timesteps,
)
from models.diffusion.schedule import sampling_timesteps
from models.encoders.patch_codec import PatchCosineCodec

PROCESSES = [
    {"prediction": "epsilon", "zero_terminal_snr": False, "spacing": "leading"},
    {"prediction": "velocity", "zero_terminal_snr": True, "spacing": "trailing"},
]


def _inputs(model: InstaFace, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = batch_of(model.config, rows)
    return batch["conditions"], model.tokens(batch["semantic"], batch["face"]).detach()


@pytest.mark.parametrize("process", PROCESSES)
def test_without_guidance_it_is_diffusers_own_ddim_loop(process: dict[str, Any]) -> None:
    model = small_model(**process)
    conditions, tokens = _inputs(model, 2)
    ours = sample_latents(model, conditions, tokens, keys=["a", "b"], strength=0.0, steps=7)
    plain = UNet2DConditionModel(**model.config.unet_kwargs(4))
    plain.load_state_dict(model.denoiser.state_dict())
    scheduler = scheduler_of(model.config)
    scheduler.set_timesteps(7)
    z = initial_noise(model.config, ["a", "b"], 0, (16, 16))
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.step(plain(z, t, tokens).sample, t, z).prev_sample
    torch.testing.assert_close(ours, z, atol=2e-4, rtol=2e-4)


def test_shifted_timesteps_are_nearer_to_the_noise_and_lead_to_the_same_picture() -> None:
    """Of many steps the rule does not matter: both solve the same equation."""
    plain, shifted = (sampling_timesteps(20, 1000, "trailing", shift) for shift in (1.0, 3.0))
    assert shifted[0] == plain[0] == 999
    assert (shifted[1:] > plain[1:]).all()
    assert (shifted.diff() < 0).all()
    u = 0.5  # the eleventh of twenty
    assert shifted[10] == round(3 * u / (1 + 2 * u) * 1000) - 1
    process = {"prediction": "velocity", "zero_terminal_snr": True, "spacing": "trailing", "latent_size": 8}
    model, moved = small_model(**process), small_model(**process, sampling_shift=2.0)
    conditions, tokens = _inputs(model, 1)
    few, many = (
        [sample_latents(one, conditions, tokens, keys=["a"], steps=steps) for one in (model, moved)]
        for steps in (3, 20)
    )
    assert (few[0] - few[1]).std() > 2 * (many[0] - many[1]).std()


def test_guidance_runs_once_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for rule, expected in (("zero", 1), ("shared", 5)):
        model = small_model(guidance_timestep=rule)
        conditions, tokens = _inputs(model, 1)
        calls = []
        model.guidance.register_forward_pre_hook(lambda m, a, calls=calls: calls.append(len(a[0])))
        sample_latents(model, conditions, tokens, keys=["a"], steps=5)
        assert calls == [1] * expected


def test_edits_of_one_person_share_its_tokens_and_its_noise() -> None:
    model = small_model()
    conditions, tokens = _inputs(model, 3)
    together = sample_latents(model, conditions, tokens[:1], keys=["photo"] * 3, steps=3)
    for i in range(3):
        alone = sample_latents(model, conditions[i : i + 1], tokens[:1], keys=["photo"], steps=3)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_seeds_and_keys_name_the_noise() -> None:
    config = small_config()
    a = initial_noise(config, ["a", "b"], 0, (8, 8))
    assert torch.equal(initial_noise(config, ["b"], 0, (8, 8)), a[1:])
    assert not torch.equal(initial_noise(config, ["b"], 1, (8, 8)), a[1:])
    model = small_model()
    conditions, tokens = _inputs(model, 1)
    one, two = (sample_latents(model, conditions, tokens, keys=["a"], steps=2, seed=5, eta=0.7) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, sample_latents(model, conditions, tokens, keys=["a"], steps=2, seed=5))


def test_reference_control_guidance_is_the_extrapolation_of_two_passes() -> None:
    model = small_model()
    conditions, tokens = _inputs(model, 2)
    z = initial_noise(model.config, ["a", "b"], 0, (16, 16))
    time = torch.full((2,), 999)
    with torch.no_grad():
        edit = model.denoise(z, time, tokens, model.guide(conditions, tokens))
        reference = model.denoise(z, time, tokens, model.guide(conditions.flip(0), tokens))
    expected = reference + 3.0 * (edit - reference)
    torch.testing.assert_close(extrapolate(reference, edit, 3.0), expected)

    calls = []
    model.denoiser.register_forward_hook(lambda m, a, output: calls.append(output[0]))
    options: dict[str, Any] = {"keys": ["a", "b"], "steps": 1}
    with_reference = sample_latents(model, conditions, tokens, **options, reference=conditions.flip(0))
    assert [len(output) for output in calls] == [4]  # both branches in one pass
    torch.testing.assert_close(calls[0], torch.cat([edit, reference]), atol=1e-4, rtol=1e-4)
    # Scale 1, or the edited maps as their own reference, is no guidance at all.
    plain = sample_latents(model, conditions, tokens, **options)
    assert not torch.allclose(with_reference, plain, atol=1e-2)
    one = sample_latents(model, conditions, tokens, **options, reference=conditions.flip(0), reference_scale=1.0)
    torch.testing.assert_close(one, plain)
    same = sample_latents(model, conditions, tokens, **options, reference=conditions)
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)


def test_shared_timesteps_with_a_reference() -> None:
    model = small_model(guidance_timestep="shared")
    conditions, tokens = _inputs(model, 2)
    options: dict[str, Any] = {"keys": ["a", "b"], "steps": 2}
    plain = sample_latents(model, conditions, tokens, **options)
    same = sample_latents(model, conditions, tokens, **options, reference=conditions)
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)


def test_a_split_projection_asks_for_the_tokens_of_the_guidance_network() -> None:
    model = small_model()
    batch = batch_of(model.config, 1)
    frozen = model.tokens(batch["semantic"], batch["face"]).detach()
    model.split_projection()
    with torch.no_grad():
        model.identity.face.norm.weight.mul_(2)
        tuned = model.tokens(batch["semantic"], batch["face"])
        seen = model.guidance_tokens(batch["semantic"], batch["face"], tuned)
    assert torch.equal(seen, frozen)
    with pytest.raises(ValueError, match="the projection is split"):
        sample_latents(model, batch["conditions"], tuned, keys=["a"], steps=1)
    found = sample_latents(model, batch["conditions"], tuned, keys=["a"], steps=1, guidance_tokens=seen)
    model.guidance_identity = None
    other = sample_latents(model, batch["conditions"], tuned, keys=["a"], steps=1)
    assert not torch.equal(found, other)


def test_classifier_free_guidance_starts_from_nothing() -> None:
    model = small_model(condition_dropout=0.1)
    conditions, tokens = _inputs(model, 1)
    options: dict[str, Any] = {"keys": ["a"], "steps": 1}
    nothing = sample_latents(model, conditions, tokens * 0, **options, strength=0.0)
    plain = sample_latents(model, conditions, tokens, **options)
    torch.testing.assert_close(
        sample_latents(model, conditions, tokens, **options, guidance_scale=0.0), nothing, atol=1e-4, rtol=1e-4
    )
    # One DDIM step is linear in the prediction.
    expected = extrapolate(nothing, plain, 2.5)
    found = sample_latents(model, conditions, tokens, **options, guidance_scale=2.5)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    both = sample_latents(model, conditions, tokens, **options, guidance_scale=2.0, reference=conditions.flip(-1))
    assert both.isfinite().all()


@pytest.mark.parametrize("solver", ["ddim", "unipc", "dpm++"])
def test_a_locked_background_comes_back(solver: Any) -> None:
    model = small_model()
    conditions, tokens = _inputs(model, 1)
    source = torch.randn(1, 4, 16, 16)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 48:80, 48:80] = 1
    free = head_region(mask, size=(16, 16), margin=0.02)
    options: dict[str, Any] = {"keys": ["a"], "steps": 6, "solver": solver}
    locked = sample_latents(model, conditions, tokens, **options, lock=BackgroundLock(source=source, free=free))
    outside = (free == 0).expand_as(source)
    assert torch.equal(locked[outside], source[outside])
    assert not torch.allclose(locked[~outside], source[~outside], atol=0.1)
    everywhere = BackgroundLock(source=source, free=torch.ones_like(free))
    plain = sample_latents(model, conditions, tokens, **options)
    assert torch.equal(sample_latents(model, conditions, tokens, **options, lock=everywhere), plain)


def test_the_free_region_covers_both_heads_and_a_margin() -> None:
    one, other = torch.zeros(2, 1, 64, 64), torch.zeros(2, 1, 64, 64)
    one[..., 8:16, 8:16] = 1
    other[..., 40, 40] = 1
    free = head_region(one, other, size=(8, 8), margin=0.01)
    assert free.shape == (2, 1, 8, 8)
    assert free[0, 0, 1, 1] == 1
    assert free[0, 0, 5, 5] == 1
    assert free[0, 0, 0, 1] == 1  # one pixel of margin reaches the neighbours
    assert free[0, 0, 3, 3] == 0


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_fast_solvers_come_nearer_than_ddim(process: dict[str, Any], solver: Any) -> None:
    """Data N(½, ¼) have a score in closed form and so has the path from noise to data: distance to its end."""
    config = small_config(**process)
    ddim, fast = scheduler_of(config), multistep_scheduler(config, solver)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def distance(scheduler: Any, steps: int) -> float:
        set_timesteps(scheduler, steps)
        z = start
        for t in scheduler.timesteps:
            alpha = ddim.alphas_cumprod[int(t)]
            residual = (z - alpha.sqrt() * 0.5) / (alpha * 0.25 + 1 - alpha)
            noise, clean = (1 - alpha).sqrt() * residual, 0.5 + alpha.sqrt() * 0.25 * residual
            v = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
            z = scheduler.step(noise if config.prediction == "epsilon" else v, t, z).prev_sample
        first = ddim.alphas_cumprod[int(scheduler.timesteps[0])]
        end = 0.5 + 0.5 * (start - first.sqrt() * 0.5) / (first * 0.25 + 1 - first).sqrt()
        return float((z - end).abs().mean())

    errors = {n: (distance(fast, n), distance(ddim, n)) for n in (8, 10, 20, 40)}
    assert all(ours < theirs for ours, theirs in errors.values()), errors


def test_pictures_and_progress() -> None:
    model = small_model(latent_channels=16)
    conditions, tokens = _inputs(model, 2)
    steps: list[int] = []
    pictures = sample(model, PatchCosineCodec(), conditions, tokens, keys=["a", "b"], steps=3, progress=steps.append)
    assert pictures.shape == (2, 3, 128, 128)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert steps == [1, 2, 3]


def test_wrong_requests_say_what_to_do() -> None:
    model = small_model()
    conditions, tokens = _inputs(model, 2)
    for options, message in (
        ({"keys": ["a"]}, "1 keys for 2 edits"),
        ({"keys": ["a", "b"], "solver": "euler"}, "choose ddim, unipc, dpm"),
        ({"keys": ["a", "b"], "solver": "unipc", "eta": 0.5}, "only the ddim solver"),
        ({"keys": ["a", "b"], "steps": 0}, "between 1 and the 1000"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_latents(model, conditions, tokens, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_trained_network_samples_its_photograph_whatever_the_solver() -> None:
    """The whole circle on one smooth picture: loss, gradient, sampler. Error is relative to the picture's variance."""
    model = small_model()
    config, batch = model.config, batch_of(model.config, 1)
    coarse = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    picture = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")
    batch["moments"] = torch.cat([picture, torch.full_like(picture, -30.0)], dim=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def errors() -> dict[str, float]:
        tokens = model.tokens(batch["semantic"], batch["face"]).detach()
        solvers: dict[Any, int] = {"ddim": 20, "unipc": 8, "dpm++": 8}
        return {
            solver: float(
                (
                    sample_latents(model, batch["conditions"], tokens, keys=["other"], solver=solver, steps=steps)
                    - picture
                ).square().mean()
                / picture.var()
            )
            for solver, steps in solvers.items()
        }  # fmt: skip

    before = errors()
    for step in range(60):
        draws = draws_for(config, ["a"], run_seed=0, epoch=step, copies=8, stratified=True, antithetic=True)
        optimiser.zero_grad()
        model(batch, draws).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    after = errors()
    assert all(after[solver] < 0.5 < before[solver] for solver in after), (before, after)
    assert all(abs(after[solver] - after["ddim"]) < 0.1 for solver in after), after
