"""Stable Diffusion's UNet from every form it has on disk, on small random weights in the genuine formats."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from small_networks import batch_of, small_config

from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.pretrained import load_denoiser

CONFIG = small_config(layers=1)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(**CONFIG.unet_kwargs(4))


def original_name(key: str) -> str:
    """diffusers' key → the key of the original latent-diffusion code, for two resolutions of one layer."""
    for ours, theirs in (
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv"),
    ):
        key = re.sub(rf"^{re.escape(ours)}\.", theirs + ".", key)
    key = re.sub(r"^down_blocks\.(\d)\.resnets\.0", lambda m: f"input_blocks.{1 + 2 * int(m[1])}.0", key)
    key = re.sub(r"^down_blocks\.(\d)\.attentions\.0", lambda m: f"input_blocks.{1 + 2 * int(m[1])}.1", key)
    key = re.sub(r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0", key)
    key = re.sub(r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1", key)
    if ".transformer_blocks." not in key and ".attentions." not in key:
        for ours, theirs in (
            ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"),
        ):  # fmt: skip
            key = re.sub(rf"\.{ours}\.", f".{theirs}.", key)
    return key


def test_every_form_gives_the_same_denoiser(tmp_path: Path, unet: UNet2DConditionModel) -> None:
    state = unet.state_dict()
    unet.save_pretrained(tmp_path / "folder" / "unet")
    save_file(state, tmp_path / "diffusers.safetensors")
    original = {original_name(key): tensor.contiguous() for key, tensor in state.items()}
    assert len(original) == len(state)
    save_file(original, tmp_path / "unet_only.safetensors")
    whole = {f"model.diffusion_model.{key}": tensor for key, tensor in original.items()}
    others = {"first_stage_model.encoder.conv_in.weight": torch.zeros(2), "cond_stage_model.x": torch.zeros(2)}
    save_file(whole | others, tmp_path / "whole_checkpoint.safetensors")
    for source in (
        "folder",
        "folder/unet",
        "diffusers.safetensors",
        "unet_only.safetensors",
        "whole_checkpoint.safetensors",
    ):
        loaded = load_denoiser(tmp_path / source, CONFIG)
        assert loaded.state_dict().keys() == state.keys(), source
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items()), source


def test_a_pretrained_denoiser_becomes_an_editor(tmp_path: Path, unet: UNet2DConditionModel) -> None:
    unet.save_pretrained(tmp_path)
    model = InstaFace.from_denoiser(load_denoiser(tmp_path, CONFIG), CONFIG, seed=1)
    wide = model.guidance.unet.state_dict()
    for key, tensor in unet.state_dict().items():
        if key != "conv_in.weight":
            assert torch.equal(wide[key], tensor), key
    torch.testing.assert_close(wide["conv_in.weight"][:, 4:8], unet.conv_in.weight / 3)
    loss = model(batch_of(CONFIG, 1), draws_for(CONFIG, ["a"], run_seed=0, epoch=0))
    loss.backward()
    assert loss.isfinite()
    # Training the editor must not reach back into the loaded weights of the other network.
    assert wide["conv_out.weight"].data_ptr() != model.denoiser.conv_out.weight.data_ptr()


def test_bfloat16(tmp_path: Path, unet: UNet2DConditionModel) -> None:
    unet.save_pretrained(tmp_path)
    model = InstaFace.from_denoiser(load_denoiser(tmp_path, CONFIG, dtype=torch.bfloat16), CONFIG)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.alphas.dtype == torch.float32
    loss = model(batch_of(CONFIG, 1), draws_for(CONFIG, ["a"], run_seed=0, epoch=0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_what_does_not_fit_is_named(tmp_path: Path, unet: UNet2DConditionModel) -> None:
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"block_out_channels is \(16, 32\), the configuration wants \(16, 64\)"):
        load_denoiser(tmp_path, small_config(widths=(16, 64)))
    state = unet.state_dict()
    missing = {k: v for k, v in state.items() if k != "conv_in.bias"}
    save_file(missing, tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 tensors of this configuration, first conv_in\.bias"):
        load_denoiser(tmp_path / "missing.safetensors", CONFIG)
    save_file(state | {"extra": torch.zeros(1)}, tmp_path / "unknown.safetensors")
    with pytest.raises(ValueError, match="does not know, first extra"):
        load_denoiser(tmp_path / "unknown.safetensors", CONFIG)
    save_file(state | {"conv_in.bias": torch.zeros(3)}, tmp_path / "shape.safetensors")
    with pytest.raises(ValueError, match=r"conv_in\.bias of .* is \(3,\), the configuration wants \(16,\)"):
        load_denoiser(tmp_path / "shape.safetensors", CONFIG)


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks`")
def test_a_hub_name_stays_offline_by_default() -> None:
    with pytest.raises(OSError, match="nobody/nothing"):
        load_denoiser("nobody/nothing", CONFIG)
