"""An InstaFace model as a folder in diffusers' layout.

model_index.json   what each folder is
instaface.json     the whole InstaFaceConfig, and digests of the encoders it was trained with
unet/              the denoiser, a plain diffusers UNet: `UNet2DConditionModel.from_pretrained(folder / "unet")` reads it
guidance_unet/     the Guidance Network's UNet, likewise; not where maps are concatenated
image_proj/        the Identity Preserver (and gates or the tokens' layout, where the configuration has them)
scheduler/         a DDIM scheduler of the same noise process
vae/               the codec, where it is a diffusers autoencoder and was given

Everything is safetensors or JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace
from models.diffusion.guidance import GuidanceNetwork
from models.encoders.codec import KLCodec, LatentCodec, TinyAutoencoderCodec

_PROJECTION = "image_proj/diffusion_pytorch_model.safetensors"


def scheduler_of(config: InstaFaceConfig) -> DDIMScheduler:
    """The diffusers scheduler that agrees with this configuration's noise process and DDIM sampler."""
    return DDIMScheduler(
        num_train_timesteps=config.train_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon" if config.prediction == "epsilon" else "v_prediction",
        timestep_spacing=config.spacing,
        rescale_betas_zero_snr=config.zero_terminal_snr,
    )


def save_model(
    model: InstaFace,
    folder: str | Path,
    *,
    codec: LatentCodec | None = None,
    encoders: Mapping[str, str] | None = None,
) -> None:
    """Write a model. `encoders` records name → digest of the encoders whose features it was trained on."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _save_unet(model.denoiser, folder / "unet")
    if isinstance(model.guidance, GuidanceNetwork):
        _save_unet(model.guidance.unet, folder / "guidance_unet")
    scheduler_of(model.config).save_pretrained(folder / "scheduler")
    (folder / "image_proj").mkdir(exist_ok=True)
    projection = {
        f"{prefix}{k}": v.detach().contiguous()
        for prefix, part in _projections(model).items()
        for k, v in part.state_dict().items()
    }
    save_file(projection, folder / _PROJECTION, metadata={"format": "pt"})
    index: dict[str, Any] = {
        "_class_name": "InstaFace",
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "image_proj": ["models.diffusion.identity", "IdentityPreserver"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    if isinstance(model.guidance, GuidanceNetwork):
        index["guidance_unet"] = ["diffusers", "UNet2DConditionModel"]
    if isinstance(codec, KLCodec | TinyAutoencoderCodec):
        codec.vae.save_pretrained(folder / "vae")
        index["vae"] = ["diffusers", type(codec.vae).__name__]
    record = {
        "config": model.config.to_json(),
        "codec": codec.name if codec else None,
        "encoders": dict(encoders or {}),
    }
    _write_json(folder / "model_index.json", index)
    _write_json(folder / "instaface.json", record)


def is_saved_model(place: str | Path) -> bool:
    """Is this a folder of `save_model`, and not one of diffusers?"""
    return (Path(place) / "instaface.json").is_file()


def load_model(
    folder: str | Path, *, config: InstaFaceConfig | None = None, dtype: torch.dtype = torch.float32
) -> InstaFace:
    """Read a folder written by `save_model`, strictly; weights of less precision are widened to `dtype`.

    `config` changes what the weights do not depend on (noise process, loss). Raises ValueError when it is no such folder,
    or parts disagree.
    """
    folder = Path(folder)
    if not is_saved_model(folder):
        raise ValueError(f"{folder} has no instaface.json: it is not a saved InstaFace model")
    config = config or InstaFaceConfig.from_json(json.loads((folder / "instaface.json").read_text())["config"])
    denoiser = load_unet(folder / "unet", config, config.denoiser_channels, dtype)
    guidance = None
    if config.conditioning == "guidance":
        guidance = load_unet(folder / "guidance_unet", config, config.condition_channels, dtype)
    model = InstaFace(denoiser, guidance, config)
    tensors = load_file(folder / _PROJECTION)
    for prefix, part in _projections(model).items():
        part.to(dtype)
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        part.load_state_dict(state, strict=True)
    return model


def _projections(model: InstaFace) -> dict[str, nn.Module]:
    """What `image_proj` holds, by the prefix of its keys."""
    parts: dict[str, nn.Module] = {"identity.": model.identity, "gates.": model.guidance.gates}
    return parts if model.guidance.layout is None else parts | {"layout.": model.guidance.layout}


def load_unet(
    folder: str | Path, config: InstaFaceConfig, in_channels: int, dtype: torch.dtype, **options: Any
) -> UNet2DConditionModel:
    """Read a diffusers UNet and check that it has the configuration's shape. `options` go to
    `from_pretrained`."""
    unet = UNet2DConditionModel.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, **{"local_files_only": True, **options}
    )
    check_shape(unet, config, in_channels)
    return unet


def check_shape(unet: UNet2DConditionModel, config: InstaFaceConfig, in_channels: int) -> None:
    """ValueError, naming the first field, unless the UNet has the configuration's shape (its sample_size is
    free)."""
    for field, wanted in config.unet_kwargs(in_channels).items():
        found = unet.config[field]
        found = tuple(found) if isinstance(found, list) else found
        if field != "sample_size" and found != wanted:
            raise ValueError(f"the UNet's {field} is {found}, the configuration wants {wanted}")


def _save_unet(unet: UNet2DConditionModel, folder: Path) -> None:
    """Without the place it was once read from, which diffusers notes: equal models are equal files."""
    unet.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    _write_json(folder / "config.json", config)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
