"""Networks of a run: built, restored from a checkpoint, exported as a model folder, loaded again."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace
from models.diffusion.folder import load_model, save_model
from models.diffusion.pretrained import load_denoiser
from storage.records import Record

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_networks(networks: InstaFaceConfig, base: str | None, seed: int) -> InstaFace:
    """Seeded networks; with `base`, a folder or .safetensors file of Stable Diffusion, its UNet starts both UNets."""
    if base is None:
        return InstaFace.from_config(networks, seed=seed)
    return InstaFace.from_denoiser(load_denoiser(base, networks), networks, seed=seed)


def tensors_of(model: InstaFace, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything a resumed run needs: parameters and AdamW's moments, by the parameter's name."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, state in optimiser.state.items():
        for kind, value in state.items():
            tensors[f"optimiser.{names[id(parameter)]}.{kind}"] = torch.as_tensor(value)
    return tensors


def restore(model: InstaFace, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `tensors_of`; strict.

    Raises:
        RuntimeError: the checkpoint is of other networks (torch names the tensors).
    """
    prefix = "model."
    model.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, strict=True)
    for name, parameter in model.named_parameters():
        kinds = [
            n for n in tensors if n.startswith(f"optimiser.{name}.") and "." not in n.removeprefix(f"optimiser.{name}.")
        ]
        for key in kinds:
            kind = key.rpartition(".")[2]
            value = tensors[key]
            optimiser.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)


def export(model: InstaFace) -> dict[str, bytes]:
    """The files of `save_model`, a folder in diffusers' layout, by relative name."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        root = Path(folder)
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def load_networks(record: Record) -> InstaFace:
    """The model of a committed record whose files are those of `export`."""
    with tempfile.TemporaryDirectory() as folder:
        for name in record.files:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(record.read(name))
        return load_model(folder)
