"""Weight files: where they are, what they hash to, and the original Stable Diffusion key names."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from torch import Tensor, nn

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def digest_of_tensors(name: str, tensors: Mapping[str, Tensor]) -> str:
    """blake2b over a name and every tensor's key, dtype, shape and bytes, in key order: 16 hex digits."""
    digest = hashlib.blake2b(name.encode(), digest_size=8)
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"|{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def locate(source: str | Path, part: str) -> Path | str:
    """Where the weights of a part are: a file, a folder with a config.json, or the hub name given.

    A folder's subfolder `part` is taken where there is one. Raises ValueError for anything else; pickles
    (`.ckpt`, `.pt`, `.bin`) are refused, because loading one runs whatever code it holds.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is not a .safetensors file: convert it first, pickled weights can run code")
        return path
    if path.is_dir():
        folder = path / part if (path / part).is_dir() else path
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} has no config.json: expected a diffusers or transformers model folder")
        return folder
    if isinstance(source, str) and _HUB_NAME.fullmatch(source):
        return source
    raise ValueError(f"{source} is neither a folder, a .safetensors file nor a hub name of the form owner/name")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Give a module these very tensors. ValueError, naming the first, when one is missing, unknown or
    misshapen."""
    wanted = module.state_dict()
    if missing := sorted(set(wanted) - set(state)):
        raise ValueError(f"{source} lacks {len(missing)} tensors of this configuration, first {missing[0]}")
    if unknown := sorted(set(state) - set(wanted)):
        raise ValueError(f"{source} has {len(unknown)} tensors this configuration does not know, first {unknown[0]}")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{key} of {source} is {tuple(tensor.shape)}, the configuration wants {tuple(wanted[key].shape)}"
            )
    module.load_state_dict(dict(state), strict=True, assign=True)


def ldm_state(path: Path, part: Literal["unet", "vae"], configuration: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read one part of a single-file checkpoint in diffusers key names.

    The file may hold a whole Stable Diffusion checkpoint in the original names (`model.diffusion_model.…`,
    `first_stage_model.…`), the part alone in original names, or the part alone in diffusers names.
    """
    tensors: dict[str, Tensor] = load_file(path)
    if any(key.startswith(("down_blocks.", "encoder.down_blocks.")) for key in tensors):
        return tensors
    if part == "unet":
        prefix = "model.diffusion_model."
        if not any(key.startswith(prefix) for key in tensors):
            tensors = {prefix + key: tensor for key, tensor in tensors.items()}
        state: dict[str, Tensor] = convert_ldm_unet_checkpoint(tensors, configuration)
    else:
        state = convert_ldm_vae_checkpoint(tensors, configuration)
    return state
