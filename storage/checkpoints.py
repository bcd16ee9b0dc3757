"""Checkpoints of a run: complete or invisible, safetensors and JSON only.

    <store>/step-00000100/tensors-00000-1f3a….safetensors …   named by content, so attempts never collide
    <store>/step-00000100/manifest.json                       last; its presence makes the checkpoint exist

Tensors are stored whole under their full names, whoever wrote them: a checkpoint of eight ranks restores to one, two
or sixteen. Ranks may share the writing (`write_part` on each, `commit` on one), and load only what they ask for.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from storage.canonical import canonical_json
from storage.errors import CheckpointCorrupt, NotFound
from storage.interface import Store
from storage.tensor_file import TensorFile, read_tensors, write_tensors

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LAST_STEP = 99_999_999
_FOLDER = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    step: int
    tensors: dict[str, Tensor]
    """By full name, on the CPU."""
    state: Any
    """The JSON value that was saved: scheduler, data position, configuration digest, …"""


class CheckpointStore:
    """The checkpoints below one store. One run writes, any number may read.

    Folders that are no complete checkpoint are never used and never counted; each is named once in a warning.
    """

    def __init__(self, store: Store, *, keep: int = 2) -> None:
        """`keep` newest checkpoints survive each commit. Raises ValueError below 2: the last one may turn out
        damaged."""
        if keep < 2:
            raise ValueError(f"keep is {keep}; at least 2 checkpoints are kept, so that one may be damaged")
        self._store = store
        self._keep = keep
        self._warned: set[str] = set()
        self._uploader: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}

    def save(self, step: int, tensors: Mapping[str, Tensor], state: object) -> None:
        """Commits a checkpoint, then forgets the oldest. Equal content under the same step is fine.

        Raises CheckpointCorrupt for NaN or infinity, naming the tensor, ValueError for a state that is no JSON,
        Conflict when the step exists with other content, StoreFull, StoreUnavailable; and nothing becomes visible.
        """
        self.wait()
        self.commit(step, self.write_part(step, tensors), state)

    def save_in_background(self, step: int, tensors: Mapping[str, Tensor], state: object) -> None:
        """Like `save`, but returns when the tensors are checked and copied; one upload at most is under way.

        Waits for the upload before, and raises what that one raised. The copies stay in memory for the next save.
        """
        self.wait()
        _check_step(step)
        document = canonical_json(state)
        copies = {name: self._copied(name, _finite(name, tensor)) for name, tensor in tensors.items()}
        if self._uploader is None:
            self._uploader = ThreadPoolExecutor(1, "checkpoint")

        def upload() -> None:
            self.commit(step, self._write(step, copies), json.loads(document))

        self._pending = self._uploader.submit(upload)

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        """Into the memory of the save before where that fits: fresh pages cost ten times the copy itself."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return buffer.copy_(tensor.detach())

    def wait(self) -> None:
        """Until the background upload is committed. Raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits and ends the background thread. The store may be used again."""
        try:
            self.wait()
        finally:
            if self._uploader is not None:
                self._uploader.shutdown()
                self._uploader = None
            self._buffers.clear()

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write_part(self, step: int, tensors: Mapping[str, Tensor]) -> tuple[TensorFile, ...]:
        """Writes tensors of a checkpoint that is not committed yet; several ranks may each write theirs.

        Raises CheckpointCorrupt for NaN or infinity, StoreFull, StoreUnavailable.
        """
        return self._write(step, {name: _finite(name, tensor) for name, tensor in tensors.items()})

    def commit(self, step: int, parts: Iterable[TensorFile], state: object) -> None:
        """Makes the checkpoint of all `parts` visible, then forgets the oldest.

        Raises ValueError when two parts hold the same tensor, Conflict when the step exists with other content.
        """
        files = sorted(parts, key=lambda file: file.name)
        names = [name for file in files for name in file.tensors]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two parts of step {step} hold the tensor {twice!r}")
        document = {"schema_version": SCHEMA_VERSION, "step": step, "files": files, "state": state}
        self._store.child(_folder(step)).create(MANIFEST, canonical_json(document))
        self._forget(step)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order.

        A look during which a writer added or forgot one is taken again: it may have listed the old ones and found them gone.
        """
        before = self._candidates()
        while True:
            complete = [step for step, folder in before if self._complete(step, folder)]
            after = self._candidates()
            if after == before:
                return complete
            before = after

    def latest(self) -> int | None:
        """The highest step of a complete checkpoint."""
        return max(self.steps(), default=None)

    def load(self, step: int | None = None, *, select: Callable[[str], bool] = lambda name: True) -> Checkpoint:
        """The checkpoint of `step`, by default the latest, with the tensors whose name `select` accepts.

        Raises NotFound, CheckpointCorrupt when a file is damaged or holds NaN or infinity.
        """
        wanted = self.latest() if step is None else step
        if wanted is None:
            raise NotFound(f"{self._store.uri} holds no complete checkpoint")
        document = self._document(_folder(wanted))
        if document is None:
            raise NotFound(f"{self._store.uri} holds no checkpoint of step {wanted}")
        tensors: dict[str, Tensor] = {}
        for file in document.files:
            if any(map(select, file.tensors)):
                found = read_tensors(self._store.child(_folder(wanted)), file)
                tensors |= {name: _finite(name, tensor) for name, tensor in found.items() if select(name)}
        return Checkpoint(wanted, tensors, document.state)

    def _write(self, step: int, finite: Mapping[str, Tensor]) -> tuple[TensorFile, ...]:
        return tuple(write_tensors(self._store.child(_folder(step)), finite))

    def _candidates(self) -> list[tuple[int, str]]:
        found = []
        for name in self._store.folders():
            match = _FOLDER.fullmatch(name)
            if match:
                found.append((int(match[1]), name))
            else:
                self._warn(name, "its name is not step- and eight digits")
        return sorted(found)

    def _complete(self, step: int, folder: str) -> bool:
        try:
            document = self._document(folder)
        except CheckpointCorrupt as error:
            self._warn(folder, str(error))
            return False
        if document is None:
            self._warn(folder, "it has no manifest: its writer was interrupted, or is at work")
            return False
        sizes = {info.key: info.size for info in self._store.list(f"{folder}/")}
        for file in document.files:
            if sizes.get(f"{folder}/{file.name}") != file.bytes:
                self._warn(folder, f"its file {file.name} is missing or does not have {file.bytes:,} bytes")
                return False
        if document.step != step:
            self._warn(folder, f"its manifest is that of step {document.step}")
            return False
        return True

    def _document(self, folder: str) -> "_Document | None":
        try:
            data = self._store.read(f"{folder}/{MANIFEST}")
        except NotFound:
            return None
        return _Document.parse(data, f"{self._store.uri}/{folder}/{MANIFEST}")

    def _warn(self, folder: str, why: str) -> None:
        if folder not in self._warned:
            self._warned.add(folder)
            log.warning("%s/%s is ignored: %s", self._store.uri, folder, why)

    def _forget(self, committed: int) -> None:
        """Deletes all but the newest complete checkpoints and what interrupted attempts left up to this step.

        A manifest goes before its files, so that no checkpoint is ever visible without them.
        """
        outdated = self.steps()[: -self._keep]
        for step, folder in self._candidates():
            manifest = f"{folder}/{MANIFEST}"
            if step in outdated:
                self._store.delete(manifest)
            if step in outdated or (step < committed and self._store.stat(manifest) is None):
                self._store.delete_prefix(f"{folder}/")
        document = self._document(_folder(committed))
        if document is not None:
            below = self._store.child(_folder(committed))
            ours = {MANIFEST, *(file.name for file in document.files)}
            for name in [info.key for info in below.list() if info.key not in ours]:
                below.delete(name)


@dataclass(frozen=True, slots=True)
class _Document:
    step: int
    files: Sequence[TensorFile]
    state: Any

    @staticmethod
    def parse(data: bytes, place: str) -> "_Document":
        try:
            body = json.loads(data)
            version = body["schema_version"]
            if version > SCHEMA_VERSION:
                raise CheckpointCorrupt(
                    f"{place} has version {version}; this program reads up to {SCHEMA_VERSION}: update it"
                )
            files = [TensorFile.from_json(file) for file in body["files"]]
            return _Document(body["step"], files, body["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointCorrupt(f"{place} is no manifest ({type(error).__name__}): it is damaged") from error


def _folder(step: int) -> str:
    return f"step-{_check_step(step):08d}"


def _check_step(step: int) -> int:
    if not 0 <= step <= LAST_STEP:
        raise ValueError(f"the step {step} cannot be saved; steps go from 0 to {LAST_STEP:,}")
    return step


def _finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself, after one pass over it without temporaries (aminmax hands NaN through)."""
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        for bound in torch.aminmax(real.detach()):
            if not torch.isfinite(bound):
                raise CheckpointCorrupt(
                    f"the tensor {name!r} holds {bound.item()}; checkpoints hold finite numbers only"
                )
    return tensor
