"""The Guidance Network and its injection: equal to the plain UNet where it must be, and exact everywhere else."""

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from diffusers import UNet2DConditionModel
from small_networks import assert_same_gradients, batch_of, gradients, small_model

from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.guidance import TokenLayout, widen_conv_in
from models.diffusion.presets import paper_config

INJECTIONS = ["before_norm", "after_norm", "transformer_input"]


def _denoise(model: InstaFace, **changes: Any) -> torch.Tensor:
    batch = batch_of(model.config, 2)
    draws = draws_for(model.config, ["a", "b"], run_seed=0, epoch=0)
    tokens = model.tokens(batch["semantic"], batch["face"])
    features = model.guide(batch["conditions"], tokens)
    return model.denoise(draws.noise, draws.timesteps, tokens, features, **changes)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_strength_zero_is_the_plain_unet_bit_for_bit(injection: str) -> None:
    model = small_model(injection=injection)
    plain = UNet2DConditionModel(**model.config.unet_kwargs(4))
    plain.load_state_dict(model.denoiser.state_dict(), strict=True)
    batch = batch_of(model.config, 2)
    draws = draws_for(model.config, ["a", "b"], run_seed=0, epoch=0)
    tokens = model.tokens(batch["semantic"], batch["face"])
    with torch.no_grad():
        expected = plain(draws.noise, draws.timesteps, tokens).sample
        assert torch.equal(_denoise(model, strength=0.0), expected)
        assert torch.equal(model.denoise(draws.noise, draws.timesteps, tokens, None), expected)
        assert not torch.allclose(_denoise(model), expected, atol=1e-3)


def test_a_gate_of_zero_lets_nothing_through() -> None:
    model = small_model(gated=True)
    with torch.no_grad():
        assert torch.equal(_denoise(model), _denoise(model, strength=0.0))
        model.guidance.gates["mid_block_attentions_0_transformer_blocks_0"].fill_(1.0)
        assert not torch.equal(_denoise(model), _denoise(model, strength=0.0))


def test_features_are_the_inputs_of_the_named_blocks_and_are_added_there() -> None:
    """Seen from outside, by hooks on plain UNets: what enters each block, with and without features."""
    model = small_model()
    config, batch = model.config, batch_of(model.config, 1)
    draws = draws_for(config, ["a"], run_seed=0, epoch=0)
    tokens = model.tokens(batch["semantic"], batch["face"])
    plain = UNet2DConditionModel(**config.unet_kwargs(config.condition_channels))
    plain.load_state_dict(model.guidance.unet.state_dict(), strict=True)
    inputs: dict[str, torch.Tensor] = {}
    for name in model.guidance.names:
        plain.get_submodule(name).register_forward_pre_hook(lambda m, a, n=name: inputs.update({n: a[0]}))
    with torch.no_grad():
        plain(batch["conditions"], 0, tokens)
        features = model.guide(batch["conditions"], tokens)
        assert features.keys() == inputs.keys()
        assert all(torch.equal(features[name], inputs[name]) for name in inputs)

        first = model.guidance.names[0]
        seen: list[torch.Tensor] = []
        block = model.denoiser.get_submodule(first)
        block.norm1.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
        model.denoise(draws.noise, draws.timesteps, tokens, None)
        model.denoise(draws.noise, draws.timesteps, tokens, features)
        model.denoise(draws.noise, draws.timesteps, tokens, features, strength=0.5)
    torch.testing.assert_close(seen[1], seen[0] + features[first])
    torch.testing.assert_close(seen[2], seen[0] + 0.5 * features[first])


def test_a_missing_feature_is_an_error_not_a_silence() -> None:
    model = small_model()
    batch = batch_of(model.config, 1)
    draws = draws_for(model.config, ["a"], run_seed=0, epoch=0)
    tokens = model.tokens(batch["semantic"], batch["face"])
    features = model.guide(batch["conditions"], tokens)
    features.pop(model.guidance.names[-1])
    with pytest.raises(KeyError):
        model.denoise(draws.noise, draws.timesteps, tokens, features)


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("blocks", ["all", "middle_and_up"])
def test_nothing_after_the_last_block_is_trained_and_all_before_it_is(injection: str, blocks: str) -> None:
    model = small_model(injection=injection, guided_blocks=blocks)
    batch = batch_of(model.config, 2)
    model(batch, draws_for(model.config, ["a", "b"], run_seed=0, epoch=0)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("guidance.unet.") for name in frozen)
    # The frozen ones really are dead: change them all and the loss is the same.
    before = model(batch, draws_for(model.config, ["a", "b"], run_seed=0, epoch=0))
    with torch.no_grad():
        for name in frozen:
            model.get_parameter(name).fill_(7.0)
    assert torch.equal(model(batch, draws_for(model.config, ["a", "b"], run_seed=0, epoch=0)), before)


def test_dead_parameters_of_stable_diffusion() -> None:
    """26 tensors, 2,455,044 numbers, of a Guidance Network of 859,544,004 over 16 blocks."""
    config = paper_config()
    with torch.device("meta"):
        denoiser = UNet2DConditionModel(**config.unet_kwargs(4))
        model = InstaFace.from_denoiser(denoiser, config)
    parameters = dict(model.guidance.unet.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == 859_544_004
    assert sum(p.numel() for p in model.denoiser.parameters()) == 859_520_964
    assert sum(p.numel() for p in model.identity.parameters()) == 33_384_960
    dead = [p for p in parameters.values() if not p.requires_grad]
    assert (len(dead), sum(p.numel() for p in dead)) == (26, 2_455_044)
    assert len(model.guidance.names) == 16


@pytest.mark.parametrize("attention", [(False, True), (True, False), (False, False)])
def test_last_block_anywhere_in_the_unet(attention: tuple[bool, bool]) -> None:
    model = small_model(attention=attention)
    batch = batch_of(model.config, 1)
    model(batch, draws_for(model.config, ["a"], run_seed=0, epoch=0)).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("rule", "copies"), [("mean", 3), ("last", 3), ("root", 2)])
def test_widened_kernels(rule: Any, copies: int) -> None:
    weight = torch.randn(5, 4, 3, 3)
    wide = widen_conv_in(weight, copies, rule)
    assert wide.shape == (5, 4 * copies, 3, 3)
    picture = torch.randn(1, 4, 8, 8)
    response = torch.nn.functional.conv2d(picture.repeat(1, copies, 1, 1), wide)
    expected = torch.nn.functional.conv2d(picture, weight) * {"mean": 1, "last": 1, "root": copies**0.5}[rule]
    torch.testing.assert_close(response, expected, atol=1e-5, rtol=1e-5)


def test_the_guidance_network_starts_as_the_denoiser() -> None:
    """Equal maps in every slot: the features are what a plain UNet makes of that picture."""
    model = small_model()
    picture = torch.randn(1, 4, 16, 16)
    batch = batch_of(model.config, 1)
    tokens = model.tokens(batch["semantic"], batch["face"])
    inputs: list[torch.Tensor] = []
    name = model.guidance.names[-1]
    hook = model.denoiser.get_submodule(name).register_forward_pre_hook(lambda m, a: inputs.append(a[0]))
    with torch.no_grad():
        model.denoise(picture, torch.zeros(1, dtype=torch.long), tokens, None)
        hook.remove()
        feature = model.guide(picture.repeat(1, 3, 1, 1), tokens)[name]
    torch.testing.assert_close(feature, inputs[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("timestep", ["zero", "shared"])
def test_gradient_checkpointing_changes_nothing(injection: str, timestep: str) -> None:
    model = small_model(injection=injection, guidance_timestep=timestep)
    batch = batch_of(model.config, 2)
    first, second = (draws_for(model.config, ["a", "b"], run_seed=0, epoch=e) for e in (0, 1))

    def losses() -> torch.Tensor:
        # Both forwards come before the backward: a replay must not see the other forward's features.
        return model(batch, first) + model({k: v.flip(0) for k, v in batch.items()}, second)

    expected = losses()
    expected.backward()
    plain = gradients(model)
    model.zero_grad()
    model.denoiser.enable_gradient_checkpointing()
    model.guidance.unet.enable_gradient_checkpointing()
    model.train()
    loss = losses()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert_same_gradients(model, plain, 1e-5)


@pytest.mark.slow
def test_compiled_without_graph_breaks_or_recompilation() -> None:
    """Traced as one graph (`fullgraph=True` raises on a break) and the same graph for other features."""
    model = small_model(attention=(False, True))
    config = model.config
    draws = draws_for(config, ["a", "b"], run_seed=0, epoch=0)
    expected = model(batch_of(config, 2), draws)
    expected.backward()
    plain = gradients(model)
    model.zero_grad()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model.loss, fullgraph=True, backend=counter)
    loss = compiled(batch_of(config, 2), draws)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_same_gradients(model, plain, 1e-5)
    compiled(batch_of(config, 2, "another"), draws_for(config, ["c", "d"], run_seed=1, epoch=0))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_compiled_denoiser_gives_the_same_numbers() -> None:
    """The real code generator on the hooked denoiser."""
    model = small_model()
    with torch.no_grad():
        expected = _denoise(model)
        model.denoiser.compile(fullgraph=True)
        torch.testing.assert_close(_denoise(model), expected, atol=1e-4, rtol=1e-4)


def test_tokens_of_a_grid_are_laid_out_where_they_belong() -> None:
    layout = TokenLayout(grid=2, side=8, width=6, channels=5)
    tokens = torch.randn(3, 4 + 4, 6)  # four of identity, four of places
    plain = layout(tokens)
    assert plain.shape == (3, 5, 8, 8)
    tokens[:, 4 + 1] += 1  # the place at the top right
    moved = (layout(tokens) - plain).abs().amax(dim=(0, 1)) > 0
    assert moved[:4, 4:].all()
    assert not moved[4:].any()
    assert not moved[:, :4].any()
    tokens[:, :4] += 1
    assert torch.equal((layout(tokens) - plain).abs().amax(dim=(0, 1)) > 0, moved)


def test_the_guidance_network_reads_places_beside_the_maps() -> None:
    model = small_model(identity_context=True, identity_grid=2)
    batch = batch_of(model.config, 2)
    tokens = model.tokens(torch.randn(2, 4, model.config.semantic_width), batch["face"])
    assert model.guidance.layout is not None
    laid = model.guidance.layout(tokens)
    features = model.guide(batch["conditions"], tokens)
    model.guidance.layout = None
    by_hand = model.guide(batch["conditions"] + laid, tokens)
    assert all(torch.equal(feature, by_hand[name]) for name, feature in features.items())
    assert small_model(identity_context=True, identity_grid=2, identity="face_only").guidance.layout is None
