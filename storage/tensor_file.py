"""Safetensors files that are named by their content and verified when read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage.disk import sha256_of_file
from storage.errors import CheckpointCorrupt, ObjectCorrupt
from storage.interface import Store

FILE_BYTES = 2 << 30
"""A file is closed when it has reached this size; a larger tensor has a file of its own."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    name: str
    bytes: int
    sha256: str
    tensors: tuple[str, ...]

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "TensorFile":
        return TensorFile(body["name"], int(body["bytes"]), body["sha256"], tuple(body["tensors"]))


def write_tensors(store: Store, tensors: Mapping[str, Tensor], file_bytes: int = FILE_BYTES) -> Iterator[TensorFile]:
    """Creates as many files as needed. Raises StoreFull, StoreUnavailable."""
    for names in _groups(tensors, file_bytes):
        group = {name: tensors[name].detach().cpu().contiguous() for name in names}
        with store.staging(sum(tensor.nbytes for tensor in group.values())) as folder:
            staged = folder / "tensors.safetensors"
            save_file(_unshared(group), staged)
            sha256 = sha256_of_file(staged)
            file = TensorFile(f"tensors-{sha256[:24]}.safetensors", staged.stat().st_size, sha256, tuple(names))
            store.create_from_file(file.name, staged)
        yield file


def read_tensors(store: Store, file: TensorFile) -> dict[str, Tensor]:
    """Raises CheckpointCorrupt, NotFound, StoreUnavailable."""
    with store.staging(file.bytes) as folder:
        path = store.local_path(file.name)
        try:
            if path is None:
                path = folder / "tensors.safetensors"
                store.download(file.name, path, file.sha256)
            elif sha256_of_file(path) != file.sha256:
                raise ObjectCorrupt("its sha256 is not the committed one")
            tensors: dict[str, Tensor] = load_file(path)
        except (ObjectCorrupt, SafetensorError, FileNotFoundError) as error:
            raise CheckpointCorrupt(f"{store.uri}/{file.name} is damaged: {error}") from error
    if set(tensors) != set(file.tensors):
        raise CheckpointCorrupt(f"{store.uri}/{file.name} does not hold the tensors that its manifest names")
    return tensors


def _groups(tensors: Mapping[str, Tensor], limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name in sorted(tensors):
        if names and size + tensors[name].nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensors[name].nbytes
    if names:
        yield names


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses tensors that share memory; tied weights are stored under each of their names."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen and tensor.numel() else tensor
        seen.add(memory)
    return apart
