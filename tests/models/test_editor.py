"""The assembled model: its loss, its seeds, its folder, and the sharing of work that must not change a number."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from small_networks import SMALL_VAE, assert_same_gradients, batch_of, gradients, small_config, small_model

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import Draws, InstaFace, draws_for, repeat_rows
from models.diffusion.folder import load_model, save_model
from models.diffusion.presets import open_config, paper_config, tiny_config
from models.encoders.codec import KLCodec, load_kl_codec

SEEDS = {"run_seed": 0, "epoch": 0}


def _rows(batch: dict[str, torch.Tensor], copies: int) -> dict[str, torch.Tensor]:
    return {name: value.repeat_interleave(copies, dim=0) for name, value in batch.items()}


# --- Shared work ---


def test_one_photograph_under_eight_noises_is_the_batch_of_eight() -> None:
    """Projection and guidance at batch 1, noise at batch 8: loss and every gradient, within 1e-5 relative."""
    model = small_model()
    batch = batch_of(model.config, 1)
    draws = draws_for(model.config, ["a"], **SEEDS, copies=8)
    expected = model(_rows(batch, 8), draws)
    expected.backward()
    plain = gradients(model)
    model.zero_grad()
    loss = model(batch, draws)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_same_gradients(model, plain, 1e-5)


@pytest.mark.parametrize("timestep", ["zero", "shared"])
def test_several_photographs_under_several_noises(timestep: str) -> None:
    model = small_model(guidance_timestep=timestep, condition_dropout=0.3)
    batch = batch_of(model.config, 2)
    draws = draws_for(model.config, ["a", "b"], **SEEDS, copies=3)
    expected = model(_rows(batch, 3), draws)
    expected.backward()
    plain = gradients(model)
    model.zero_grad()
    loss = model(batch, draws)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_same_gradients(model, plain, 1e-5)


def test_accumulated_halves_are_the_whole() -> None:
    model = small_model()
    batch, keys = batch_of(model.config, 4), ["a", "b", "c", "d"]
    expected = model(batch, draws_for(model.config, keys, **SEEDS))
    expected.backward()
    plain = gradients(model)
    model.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        part = {name: value[half] for name, value in batch.items()}
        (model(part, draws_for(model.config, keys[half], **SEEDS)) / 2).backward()
    assert_same_gradients(model, plain, 1e-5)


def test_features_computed_before_are_the_same_loss() -> None:
    model = small_model()
    batch = batch_of(model.config, 1)
    draws = draws_for(model.config, ["a"], **SEEDS, copies=4)
    with torch.no_grad():
        features = model.guide(batch["conditions"], model.tokens(batch["semantic"], batch["face"]))
        assert torch.equal(model(batch, draws, features), model(batch, draws))


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rows of noise cannot be shared by 2 pictures"):
        repeat_rows(torch.zeros(2, 1), 5)
    assert repeat_rows(torch.tensor([[1], [2]]), 4).flatten().tolist() == [1, 1, 2, 2]


# --- The loss ---


def test_the_loss_is_equation_three() -> None:
    """Written out by hand from the configuration's schedule, for both predictions."""
    for prediction in ("epsilon", "velocity"):
        model = small_model(prediction=prediction, zero_terminal_snr=prediction == "velocity")
        batch, draws = batch_of(model.config, 3), draws_for(model.config, list("abc"), **SEEDS)
        with torch.no_grad():
            mean, log_variance = batch["moments"].chunk(2, dim=1)
            z_0 = mean + (log_variance / 2).exp() * draws.posterior
            alpha = model.alphas[draws.timesteps].view(-1, 1, 1, 1)
            z_t = alpha.sqrt() * z_0 + (1 - alpha).sqrt() * draws.noise
            tokens = model.tokens(batch["semantic"], batch["face"])
            output = model.denoise(z_t, draws.timesteps, tokens, model.guide(batch["conditions"], tokens))
            target = draws.noise
            if prediction == "velocity":
                target = alpha.sqrt() * draws.noise - (1 - alpha).sqrt() * z_0
            torch.testing.assert_close(model(batch, draws), (output - target).square().mean())


def test_face_weight_moves_the_loss_to_the_face() -> None:
    model = small_model(face_weight=4.0)
    plain = dataclasses.replace(model.config, face_weight=1.0)
    batch, draws = batch_of(model.config, 2), draws_for(model.config, ["a", "b"], **SEEDS)
    with torch.no_grad():
        weighted = model(batch, draws)
        everywhere = model(batch | {"mask": torch.ones_like(batch["mask"])}, draws)
        model.config = plain
        # A weight that is the same everywhere is none: weights have mean one in each picture.
        torch.testing.assert_close(everywhere, model(batch, draws))
        assert not torch.equal(weighted, everywhere)
    model.config = dataclasses.replace(plain, face_weight=4.0)
    batch.pop("mask")
    with pytest.raises(ValueError, match="needs a `mask`"):
        model(batch, draws)


def test_min_snr_weighs_timesteps_as_stated() -> None:
    model = small_model(prediction="epsilon", zero_terminal_snr=False, min_snr_gamma=5.0)
    batch = batch_of(model.config, 1)
    base = draws_for(model.config, ["a"], **SEEDS)
    for t in (0, 100, 999):
        draws = dataclasses.replace(base, timesteps=torch.tensor([t]))
        with torch.no_grad():
            weighted = model(batch, draws)
            config, model.config = model.config, dataclasses.replace(model.config, min_snr_gamma=None)
            plain = model(batch, draws)
            model.config = config
        snr = model.alphas[t] / (1 - model.alphas[t])
        torch.testing.assert_close(weighted / plain, torch.clamp(5 / snr, max=1.0), rtol=1e-4, atol=0)


def test_dropped_rows_see_neither_identity_nor_maps() -> None:
    model = small_model(condition_dropout=0.5)
    draws = draws_for(model.config, ["a", "b"], **SEEDS)
    draws = dataclasses.replace(draws, dropped=torch.tensor([True, True]))
    one, other = batch_of(model.config, 2), batch_of(model.config, 2, "other")
    with torch.no_grad():
        assert torch.equal(model(one, draws), model(other | {"moments": one["moments"]}, draws))


# --- What chance decides ---


def test_draws_depend_on_the_key_only() -> None:
    config = small_config(condition_dropout=0.5, noise_offset=0.1)
    together = draws_for(config, ["a", "b", "c"], **SEEDS, copies=2)
    alone = draws_for(config, ["c"], **SEEDS, copies=2)
    for field in dataclasses.fields(Draws):
        assert torch.equal(getattr(together, field.name)[4:], getattr(alone, field.name))
    for changed in ({"run_seed": 1, "epoch": 0}, {"run_seed": 0, "epoch": 1}):
        assert not torch.equal(draws_for(config, ["c"], **changed, copies=2).noise, alone.noise)


def test_draws_are_standard_normal_and_uniform() -> None:
    config = small_config()
    draws = draws_for(config, [str(i) for i in range(400)], **SEEDS)
    assert abs(draws.noise.mean()) < 0.01
    assert abs(draws.noise.std() - 1) < 0.01
    assert abs(draws.timesteps.float().mean() - 499.5) < 60
    assert 0 <= draws.timesteps.min() <= draws.timesteps.max() <= 999


def test_stratified_and_antithetic_copies() -> None:
    draws = draws_for(small_config(), ["a"], **SEEDS, copies=8, stratified=True, antithetic=True)
    assert [int(t) // 125 for t in draws.timesteps] == list(range(8))
    assert torch.equal(draws.noise[0::2], -draws.noise[1::2])


# --- Seeds and folders ---


def test_equal_seeds_give_equal_bits_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two = small_model(), small_model()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    other = InstaFace.from_config(one.config, seed=4)
    assert not torch.equal(one.denoiser.conv_in.weight, other.denoiser.conv_in.weight)


def test_saved_and_loaded_whole(tmp_path: Path) -> None:
    model = small_model(gated=True, maps=("render", "normal"), identity_context=True, identity_grid=1)
    with torch.no_grad():
        for i, gate in enumerate(model.guidance.gates.values()):
            gate.fill_(0.1 * (i + 1))
    model.save_pretrained(tmp_path)
    loaded = InstaFace.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())
    batch, draws = batch_of(model.config, 2), draws_for(model.config, ["a", "b"], **SEEDS)
    with torch.no_grad():
        assert torch.equal(loaded(batch, draws), model(batch, draws))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_a_folder_does_not_tell_where_its_model_came_from(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "first")
    save_model(load_model(tmp_path / "first"), tmp_path / "second")
    for file in (path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_parts_are_plain_diffusers(tmp_path: Path) -> None:
    """`unet/` loads into diffusers without us, and a diffusers UNet saved there loads into InstaFace."""
    model = small_model()
    save_model(model, tmp_path, encoders={"semantic": "1234"})
    plain = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert plain.state_dict().keys() == model.denoiser.state_dict().keys()
    assert all(torch.equal(v, model.denoiser.state_dict()[k]) for k, v in plain.state_dict().items())
    with torch.no_grad():
        plain.conv_in.weight.mul_(2)
    plain.save_pretrained(tmp_path / "unet")
    assert torch.equal(load_model(tmp_path).denoiser.conv_in.weight, plain.conv_in.weight)
    guidance = UNet2DConditionModel.from_pretrained(tmp_path / "guidance_unet")
    assert guidance.config.in_channels == 12
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    assert json.loads((tmp_path / "instaface.json").read_text())["encoders"] == {"semantic": "1234"}


def test_a_codec_is_saved_beside_the_model(tmp_path: Path) -> None:
    codec = KLCodec(AutoencoderKL(**SMALL_VAE))
    save_model(small_model(), tmp_path, codec=codec)
    assert load_kl_codec(tmp_path).digest == codec.digest
    assert json.loads((tmp_path / "model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderKL"]


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no instaface\.json"):
        InstaFace.from_pretrained(tmp_path)
    small_model().save_pretrained(tmp_path)
    record = json.loads((tmp_path / "instaface.json").read_text())
    record["config"]["heads"] = 4
    (tmp_path / "instaface.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="attention_head_dim is 2, the configuration wants 4"):
        InstaFace.from_pretrained(tmp_path)


def test_configurations_round_trip_and_refuse_nonsense() -> None:
    for config in (paper_config(), open_config(), tiny_config(), small_config(gated=True)):
        assert InstaFaceConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ValueError, match="unknown configuration fields"):
        InstaFaceConfig.from_json({"colour": 1})
    for changes, message in (
        ({"prediction": "x0"}, "choose one of epsilon, velocity"),
        ({"zero_terminal_snr": True, "prediction": "epsilon"}, "wants prediction='velocity'"),
        ({"widths": (20,), "attention": (True,)}, "not divisible by 8 groups"),
        ({"maps": ("albedo", "albedo")}, "distinct names"),
        ({"attention": (True,)}, "attention flags"),
        ({"identity_grid": 8}, "with identity_context"),
        ({"sampling_shift": 0.5}, "sampling_shift is 0.5"),
        ({"identity_grid": 5, "identity_context": True}, "a divisor of latent_size 16"),
        ({"beta_end": 2.0}, "0 < start"),
        ({"identity_head_width": 48}, "not a multiple of the head width"),
    ):
        with pytest.raises(ValueError, match=message):
            small_config(**changes)


def test_shared_timesteps_are_asked_for_and_refused() -> None:
    batch = batch_of(small_config(), 1)
    for rule, timesteps in (("zero", torch.zeros(1, dtype=torch.long)), ("shared", None)):
        model = small_model(guidance_timestep=rule)
        tokens = model.tokens(batch["semantic"], batch["face"])
        with pytest.raises(ValueError, match="guidance_timestep is"):
            model.guide(batch["conditions"], tokens, timesteps)
