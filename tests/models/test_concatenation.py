"""The baseline that reads maps as channels of the denoiser: everything else is InstaFace's own."""

from pathlib import Path

import pytest
import torch
from small_networks import assert_same_gradients, batch_of, gradients, small_config, small_model

from models.diffusion.adaptation import AdaptationConfig, adapt
from models.diffusion.concatenation import reading_maps
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.folder import load_model, save_model
from models.diffusion.sampling import sample_latents

SEEDS = {"run_seed": 0, "epoch": 0}
GRID = {"identity_context": True, "identity_grid": 4}


def concatenating(**changes: object) -> InstaFace:
    return small_model(conditioning="concatenation", **changes)


@pytest.mark.parametrize("changes", [{}, GRID, {"guidance_timestep": "shared"}])
def test_shared_pictures_are_the_whole_batch(changes: dict[str, object]) -> None:
    model = concatenating(condition_dropout=0.3, **changes)
    batch = batch_of(model.config, 2)
    if "identity_grid" in changes:
        batch["semantic"] = torch.randn(2, 16, model.config.semantic_width)
    draws = draws_for(model.config, ["a", "b"], **SEEDS, copies=3)
    expected = model({name: value.repeat_interleave(3, dim=0) for name, value in batch.items()}, draws)
    expected.backward()
    plain = gradients(model)
    assert len(plain) == len(list(model.parameters()))
    model.zero_grad()
    loss = model(batch, draws)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_same_gradients(model, plain, 1e-5)


def test_pictures_follow_the_maps_and_strength_zero_ignores_them() -> None:
    model = concatenating().eval()
    batch = batch_of(model.config, 2)
    tokens = model.tokens(batch["semantic"][:1], batch["face"][:1])
    first, second = sample_latents(model, batch["conditions"], tokens, keys=["a", "a"], steps=2)
    assert (first - second).abs().max() > 1e-3
    first, second = sample_latents(model, batch["conditions"], tokens, keys=["a", "a"], steps=2, strength=0)
    torch.testing.assert_close(first, second)


def test_a_pretrained_denoiser_first_computes_what_it_did() -> None:
    plain = small_model()
    config = small_config(conditioning="concatenation")
    model = InstaFace.from_denoiser(plain.denoiser, config)
    batch = batch_of(config, 1)
    z, t = torch.randn(1, config.latent_channels, config.latent_size, config.latent_size), torch.tensor([500])
    tokens = model.tokens(batch["semantic"], batch["face"])
    features = model.guide(batch["conditions"], tokens)
    torch.testing.assert_close(model.denoise(z, t, tokens, features), plain.denoise(z, t, tokens, None))
    assert reading_maps(model.denoiser, config) is model.denoiser


def test_a_folder_keeps_it_and_stage_two_trains_all_of_the_denoiser(tmp_path: Path) -> None:
    model = concatenating(**GRID)
    save_model(model, tmp_path)
    assert not (tmp_path / "guidance_unet").exists()
    again = load_model(tmp_path)
    assert again.config == model.config
    for (name, one), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    trained = sum(parameter.numel() for parameter in adapt(again, AdaptationConfig()))
    parts = (again.denoiser, again.identity)
    assert trained == sum(parameter.numel() for part in parts for parameter in part.parameters())


def test_a_guidance_network_is_refused_where_none_belongs() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="belongs to 'guidance' alone"):
        InstaFace(model.denoiser, None, model.config)
