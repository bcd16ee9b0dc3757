"""The `paper` configuration at full size, on random weights in bfloat16, on the CPU."""

import gc
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from flows.presets import paper
from models.diffusion.adaptation import AdaptationConfig, adapt, adaptation_state
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.fusion import fuse
from models.diffusion.presets import paper_config
from models.diffusion.sampling import sample
from models.encoders.codec import STABLE_DIFFUSION_VAE, KLCodec, load_kl_codec

GIGABYTE = 1e9


def _peak() -> float:
    """Peak resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE


@pytest.mark.slow
def test_builds_saves_loads_edits_and_trains(tmp_path: Path) -> None:
    config = paper_config()
    model = InstaFace.from_config(config, seed=0, dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == 859_520_964 + 859_544_004 + 33_384_960
    codec = KLCodec(AutoencoderKL(**STABLE_DIFFUSION_VAE))
    model.save_pretrained(tmp_path, codec=codec)
    kept = {key: tensor.clone() for key, tensor in model.denoiser.state_dict().items() if "conv_in" in key}
    del model, codec
    gc.collect()

    # The parts are plain diffusers: in, and out again.
    plain = UNet2DConditionModel.from_pretrained(tmp_path / "unet", torch_dtype=torch.bfloat16)
    plain.save_pretrained(tmp_path / "unet")
    del plain
    model = InstaFace.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(torch.equal(model.denoiser.state_dict()[key], tensor) for key, tensor in kept.items())
    codec = load_kl_codec(tmp_path)

    # One edit at 256², of one step.
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.rand(1, 3, 256, 256, generator=generator) for name in config.maps}
    conditions = fuse(codec, maps, config.maps)
    semantic = torch.randn(1, 257, config.semantic_width, generator=generator)
    face = torch.nn.functional.normalize(torch.randn(1, config.face_width, generator=generator))
    with torch.no_grad():
        tokens = model.tokens(semantic, face)
    features = model.guide(conditions, tokens)
    assert sum(f.numel() for f in features.values()) == 2_887_680
    del features
    picture = sample(model, codec, conditions, tokens, keys=["a"], steps=1)
    assert picture.shape == (1, 3, 256, 256)
    assert picture.isfinite().all()
    edited = _peak()

    # One step of stage 1.
    batch = {
        "moments": codec.moments(torch.rand(1, 3, 256, 256, generator=generator) * 2 - 1),
        "conditions": conditions, "semantic": semantic, "face": face,
    }  # fmt: skip
    loss = model(batch, draws_for(config, ["a"], run_seed=0, epoch=0))
    loss.backward()
    assert np.isfinite(loss.item())
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    print(f"peak memory: {edited:.1f} GB after an edit, {_peak():.1f} GB after a training step")
    assert _peak() < 24


@pytest.mark.slow
def test_a_low_rank_identity_has_less_than_7_mb_and_diffusers_reads_it(tmp_path: Path) -> None:
    config = paper_config()
    model = InstaFace.from_config(config, seed=0, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    semantic = torch.randn(1, 257, config.semantic_width, generator=generator)
    face = torch.nn.functional.normalize(torch.randn(1, config.face_width, generator=generator))
    low_rank = AdaptationConfig(kind="lora", rank=paper().finetune.rank)
    adapt(model, low_rank, semantic=semantic, face=face)
    path = tmp_path / "weights.safetensors"
    save_file(adaptation_state(model, low_rank, dtype=torch.float16), path)
    print(f"{path.stat().st_size / 1e6:.2f} MB")
    assert path.stat().st_size < 7e6
    del model
    gc.collect()
    state = load_file(path)
    with torch.device("meta"):
        plain = UNet2DConditionModel(**config.unet_kwargs(config.denoiser_channels))
    plain.to_empty(device="cpu").load_lora_adapter(dict(state), prefix="lora", adapter_name="one")
    read = get_peft_model_state_dict(plain, adapter_name="one")
    assert {f"lora.{name}" for name in read} == set(state) - {"tokens"}
    assert all(torch.equal(tensor.half().cpu(), state[f"lora.{name}"]) for name, tensor in read.items())
