"""Safetensors files of converted assets: written with the source's sha256, read with every key and shape checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.face3d.package_files import MissingAsset


def existing(path: Path) -> Path:
    """``path``. Raises ``MissingAsset`` when there is no such file."""
    if not path.is_file():
        raise MissingAsset(f"{path} is not there: 'instaface assets check' says where it comes from")
    return path


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(out: Path, tensors: Mapping[str, Tensor | NDArray[np.generic]], source: Path) -> str:
    """Writes ``out`` through a temporary neighbour; its metadata names the source and its sha256. Returns ``out``'s."""
    ready = {
        name: (value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))).contiguous()
        for name, value in tensors.items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(out.name + ".part")
    save_file(ready, staged, metadata={"source": source.name, "source_sha256": sha256_of_file(source)})
    staged.replace(out)
    return sha256_of_file(out)


def read_metadata(path: Path) -> dict[str, str]:
    """What :func:`write_tensors` recorded: ``source`` and ``source_sha256``."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_tensors(path: Path, shapes: Mapping[str, tuple[int | None, ...]] | None = None) -> dict[str, Tensor]:
    """All tensors of a file, checked against ``shapes`` (None: any length).

    Raises ``MissingAsset`` when there is no file, ``ValueError`` naming file and key when a tensor is
    missing, unexpected, of another shape, or holds NaN or infinity.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – not a dict
    if shapes is not None:
        check_tensors(tensors, shapes, path)
    return tensors


def check_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]], path: Path, group: str = ""
) -> None:
    """Raises ``ValueError`` for a missing, extra, mis-shaped or non-finite tensor, naming file and key."""
    where = f"{path}: {group}" if group else f"{path}"
    missing, extra = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    if missing or extra:
        raise ValueError(
            f"{where}: " + "; ".join(
                f"{what} {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
                for what, names in (("missing", missing), ("unexpected", extra)) if names
            ) + ". Is it the right file, whole and of the right version?"
        )  # fmt: skip
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape)
        if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
            raise ValueError(
                f"{where}: {name} has shape {found}; it must be {shape} (None: any). Is it the right file?"
            )
        if tensors[name].is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"{where}: {name} holds NaN or infinity; download or convert the file again")


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(existing(path), framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); convert it again") from error
