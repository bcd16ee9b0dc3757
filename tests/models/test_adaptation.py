"""Stage 2: exactly what each kind of adaptation trains, keeps and restores."""

import dataclasses
from typing import Any

import pytest
import torch
from small_networks import assert_same_gradients, batch_of, gradients, small_model

from models.diffusion.adaptation import (
    AdaptationConfig,
    adapt,
    adaptation_state,
    load_adaptation,
    remove_adaptation,
    scaled,
    train_stage_one,
)
from models.diffusion.editor import draws_for

CONFIGS = [
    AdaptationConfig(),
    AdaptationConfig(split_projection=True),
    AdaptationConfig(kind="lora", rank=4),
    AdaptationConfig(kind="lora", rank=2, feed_forward=True, split_projection=True),
    AdaptationConfig(kind="tokens"),
]


def _adapted(config: AdaptationConfig) -> tuple[Any, Any, Any]:
    model = small_model()
    batch = batch_of(model.config, 1)
    adapt(model, config, semantic=batch["semantic"], face=batch["face"])
    return model, batch, draws_for(model.config, ["a"], run_seed=0, epoch=0, copies=4)


def test_stage_one_trains_every_learned_part() -> None:
    model = small_model(gated=True)
    with torch.no_grad():
        for gate in model.guidance.gates.values():
            gate.fill_(0.5)
    batch = batch_of(model.config, 2)
    trained = train_stage_one(model)
    model(batch, draws_for(model.config, ["a", "b"], run_seed=0, epoch=0)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    names = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert names == {"denoiser", "guidance", "identity"}


@pytest.mark.parametrize("split", [False, True])
def test_the_papers_stage_two_trains_exactly_denoiser_and_projection(split: bool) -> None:
    model, batch, draws = _adapted(AdaptationConfig(split_projection=split))
    model(batch, draws).backward()
    for name, parameter in model.named_parameters():
        expected = name.startswith(("denoiser.", "identity."))
        assert parameter.requires_grad == expected, name
        assert (parameter.grad is not None) == expected, name


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_adaptation_starts_where_the_base_is_and_comes_back_from_its_state(config: AdaptationConfig) -> None:
    base = small_model()
    model, batch, draws = _adapted(config)
    with torch.no_grad():
        before = base(batch, draws)
        torch.testing.assert_close(model(batch, draws), before, rtol=1e-6, atol=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(2):  # the second step moves what starts behind a zero (A of a low-rank pair)
        optimizer.zero_grad()
        model(batch, draws).backward()
        assert all(p.grad is not None for p in parameters)
        optimizer.step()
    with torch.no_grad():
        after = model(batch, draws)
    assert not torch.allclose(after, before)
    state = adaptation_state(model, config)
    load_adaptation(base, config, state)
    with torch.no_grad():
        torch.testing.assert_close(base(batch, draws), after, rtol=1e-6, atol=0)
    if config.kind != "full":
        remove_adaptation(base)
        with torch.no_grad():
            torch.testing.assert_close(base(batch, draws), before, rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_part_of_an_adaptation_lies_between_the_base_and_all_of_it(config: AdaptationConfig) -> None:
    base = small_model()
    model, batch, draws = _adapted(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        before, after = base(batch, draws), model(batch, draws)
    features = {name: batch[name] for name in ("semantic", "face")}
    known = {name: one.clone() for name, one in base.state_dict().items()}
    assert scaled(base, model, config, 1.0, **features) is model
    outputs = {}
    for scale in (0.0, 0.5, 1 - 1e-6):
        part = scaled(base, model, config, scale, **features)
        with torch.no_grad():
            outputs[scale] = part(batch, draws)
        if scale == 0.5 and config.kind == "full":
            own = dict(model.named_parameters())
            for name, parameter in part.named_parameters():
                if name.startswith(("denoiser.", "identity.")):
                    torch.testing.assert_close(parameter, (known[name] + own[name]) / 2)
    torch.testing.assert_close(outputs[0.0], before, rtol=1e-6, atol=0)
    torch.testing.assert_close(outputs[1 - 1e-6], after, rtol=1e-4, atol=0)
    assert not torch.allclose(outputs[0.5], before)
    assert not torch.allclose(outputs[0.5], after)
    assert all(torch.equal(one, known[name]) for name, one in base.state_dict().items()), "the base itself stays"


def test_split_projection_keeps_the_features_of_stage_one() -> None:
    model, batch, draws = _adapted(AdaptationConfig(split_projection=True))
    semantic, face = batch["semantic"], batch["face"]
    with torch.no_grad():
        start = model.tokens(semantic, face)
        features = model.guide(batch["conditions"], start)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    # Features computed once serve every step: same loss, same gradients as running the Guidance Network.
    model(batch, draws).backward()
    expected = gradients(model)
    model.zero_grad()
    model(batch, draws, features).backward()
    assert_same_gradients(model, expected, 1e-5)
    optimizer.step()
    with torch.no_grad():
        tuned = model.tokens(semantic, face)
        assert not torch.allclose(tuned, start)
        seen = model.guidance_tokens(semantic, face, tuned)
        torch.testing.assert_close(seen, start)


def test_half_precision_identities_are_small() -> None:
    config = AdaptationConfig(kind="lora", rank=4)
    model, _, _ = _adapted(config)
    state = adaptation_state(model, config, dtype=torch.float16)
    assert all(tensor.dtype == torch.float16 for tensor in state.values())
    assert {key.split(".")[0] for key in state} == {"tokens", "lora"}
    numbers = sum(tensor.numel() for tensor in state.values())
    assert numbers < 0.1 * sum(p.numel() for p in model.denoiser.parameters())


def test_wrong_states_and_settings_are_refused() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="give semantic and face"):
        adapt(model, AdaptationConfig(kind="tokens"))
    with pytest.raises(ValueError, match="choose full, lora or tokens"):
        AdaptationConfig(kind="dreambooth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        AdaptationConfig(rank=0)
    with pytest.raises(ValueError, match="has `tokens`"):
        load_adaptation(model, AdaptationConfig(kind="lora"), {"x": torch.zeros(1)})
    config = AdaptationConfig(kind="lora", rank=4)
    adapted, _, _ = _adapted(config)
    state = adaptation_state(adapted, config)
    with pytest.raises(ValueError, match=r"scale=1.5: choose one from 0"):
        load_adaptation(model, config, state, scale=1.5)
    with pytest.raises(ValueError, match="give the photograph's semantic and face"):
        load_adaptation(model, config, state, scale=0.5)
    state.pop(next(key for key in state if key.startswith("lora.")))
    with pytest.raises(ValueError, match="not of this model and rank"):
        load_adaptation(model, config, state)


@pytest.mark.parametrize("feed_forward", [False, True])
def test_diffusers_reads_a_low_rank_identity(feed_forward: bool) -> None:
    """The published tensors below `lora.` are an adapter of a plain UNet: the same pictures without this project."""
    config = AdaptationConfig(kind="lora", rank=4, feed_forward=feed_forward)
    model, _batch, draws = _adapted(config)
    with torch.no_grad():
        for name, parameter in model.denoiser.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    state = adaptation_state(model, config)
    plain = small_model().denoiser
    plain.load_lora_adapter(dict(state), prefix="lora")
    tokens = state["tokens"].expand(len(draws.noise), -1, -1)
    with torch.no_grad():
        ours = model.denoise(draws.noise, draws.timesteps, tokens, None)
        theirs = plain(draws.noise, draws.timesteps, tokens, return_dict=False)[0]
        base = small_model().denoise(draws.noise, draws.timesteps, tokens, None)
    torch.testing.assert_close(theirs, ours)
    assert not torch.allclose(ours, base, atol=1e-2)


def test_low_rank_updates_are_seeded() -> None:
    states = []
    for seed in (1, 1, 2):
        model = small_model()
        batch = batch_of(model.config, 1)
        config = AdaptationConfig(kind="lora", rank=2)
        adapt(model, config, semantic=batch["semantic"], face=batch["face"], seed=seed)
        states.append(adaptation_state(model, config))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert dataclasses.replace(config, rank=3).rank == 3
