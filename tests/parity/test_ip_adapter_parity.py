"""The identity projection against IP-Adapter's own modules (golden/ip_adapter)."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.diffusion.identity import (
    FaceProjection,
    IdentityPreserver,
    ImageProjection,
    LearnedQueryResampler,
    from_ip_adapter,
    ip_adapter_name,
    learned_query_name,
    to_ip_adapter,
)
from models.diffusion.presets import paper_config


def _weights(golden: Path, name: str) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(golden / "ip_adapter" / f"{name}.safetensors").items()}


def _arrays(golden: Path, name: str) -> dict[str, torch.Tensor]:
    with np.load(golden / "ip_adapter" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def _config(state: dict[str, torch.Tensor], shortcut: float):
    """The configuration that has the shapes of a FaceID-Plus state."""
    return dataclasses.replace(
        paper_config(),
        token_width=state["norm.weight"].numel(),
        tokens=state["proj.2.weight"].shape[0] // state["norm.weight"].numel(),
        face_width=state["proj.0.weight"].shape[1],
        semantic_width=state["perceiver_resampler.proj_in.weight"].shape[1],
        identity_depth=1 + max(int(k.split(".")[2]) for k in state if ".layers." in k),
        identity_shortcut=shortcut,
    )


@pytest.mark.parametrize(("output", "shortcut"), [("noshortcut", 0.0), ("shortcut", 1.0), ("shortcut_scale0p6", 0.6)])
def test_face_id_plus_projection(golden: Path, output: str, shortcut: float) -> None:
    state, io = _weights(golden, "proj_plus"), _arrays(golden, "proj_plus_io")
    model = IdentityPreserver(_config(state, shortcut))
    from_ip_adapter(state, model)
    with torch.no_grad():
        tokens = model(io["clip_embeds"], io["id_embeds"])
        assert model.face is not None
        torch.testing.assert_close(model.face(io["id_embeds"]), io["id_tokens"], atol=2e-5, rtol=0)
    torch.testing.assert_close(tokens, io[f"out_{output}"], atol=2e-5, rtol=0)


def test_face_id_plus_inner_layers(golden: Path) -> None:
    state, io = _weights(golden, "proj_plus"), _arrays(golden, "proj_plus_io")
    model = IdentityPreserver(_config(state, 0.0))
    from_ip_adapter(state, model)
    layer = model.resampler.layers[0]
    with torch.no_grad():
        context = model.resampler.input(io["clip_embeds"])
        attended = layer.attention(io["id_tokens"], context)
        fed = layer.feed_forward(io["id_tokens"] + attended)
    torch.testing.assert_close(attended, io["layer0_attn"], atol=2e-5, rtol=0)
    torch.testing.assert_close(fed, io["layer0_ff"], atol=2e-5, rtol=0)


def test_names_and_shapes_of_the_full_size_projection(golden: Path) -> None:
    """Every tensor of the original at its default size has a counterpart of the same shape, and no other exists."""
    layout = json.loads((golden / "ip_adapter" / "proj_plus_full_layout.json").read_text())
    layout = layout.get("tensors", layout)
    original = {k: tuple(v["shape"] if isinstance(v, dict) else v) for k, v in layout.items()}
    width = original["perceiver_resampler.proj_in.weight"][1]
    with torch.device("meta"):
        model = IdentityPreserver(dataclasses.replace(paper_config(), semantic_width=width))
    ours = {ip_adapter_name(key): tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert ours == original


def test_conversion_goes_both_ways(golden: Path) -> None:
    state = _weights(golden, "proj_plus")
    model = IdentityPreserver(_config(state, 0.0))
    from_ip_adapter({f"image_proj.{k}": v for k, v in state.items()} | {"ip_adapter.1.x": torch.zeros(1)}, model)
    back = to_ip_adapter(model.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_a_wrong_checkpoint_is_named(golden: Path) -> None:
    state = _weights(golden, "proj_plus")
    model = IdentityPreserver(_config(state, 0.0))
    with pytest.raises(ValueError, match=r"missing \['norm.weight'\]"):
        from_ip_adapter({k: v for k, v in state.items() if k != "norm.weight"}, model)
    with pytest.raises(ValueError, match=r"norm.weight is \(3,\) in the file"):
        from_ip_adapter(state | {"norm.weight": torch.zeros(3)}, model)


def test_face_id_and_image_projections(golden: Path) -> None:
    state, io = _weights(golden, "mlp_proj"), _arrays(golden, "mlp_proj_io")
    face = FaceProjection(face_width=24, token_width=48, tokens=4)
    face.load_state_dict({_own_face_name(k): v for k, v in state.items()})
    torch.testing.assert_close(face(io["id_embeds"]).detach(), io["output"], atol=1e-5, rtol=0)

    state, io = _weights(golden, "image_proj"), _arrays(golden, "image_proj_io")
    image = ImageProjection(width=20, token_width=48, tokens=4)
    image.load_state_dict({k.replace("proj.", "linear."): v for k, v in state.items()})
    torch.testing.assert_close(image(io["image_embeds"]).detach(), io["output"], atol=1e-5, rtol=0)


def _own_face_name(key: str) -> str:
    return key.replace("proj.", "layers.")


@pytest.mark.parametrize("variant", ["resampler", "resampler_innerdim", "resampler_pos_mean"])
def test_resamplers_with_learned_queries(golden: Path, variant: str) -> None:
    arguments = json.loads((golden / "ip_adapter" / f"{variant}_config.json").read_text())
    state, io = _weights(golden, variant), _arrays(golden, f"{variant}_io")
    model = LearnedQueryResampler(
        context_width=arguments["embedding_dim"],
        width=arguments["dim"],
        output_width=arguments["output_dim"],
        depth=arguments["depth"],
        heads=arguments["heads"],
        head_width=arguments["dim_head"],
        queries=arguments["num_queries"],
        expansion=arguments.get("ff_mult", 4),
        positions=arguments["max_seq_len"] if arguments.get("apply_pos_emb") else 0,
        pooled=arguments.get("num_latents_mean_pooled", 0),
    )
    names = {key: learned_query_name(key) for key in model.state_dict()}
    assert set(names.values()) == set(state)
    model.load_state_dict({key: state[name] for key, name in names.items()}, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(io["x"]), io["output"], atol=2e-5, rtol=0)
