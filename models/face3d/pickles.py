"""Reading the pickles that FLAME ships in, without running what else a pickle may hold.

An unpickler calls whatever a pickle names. :func:`read_pickle` lets it name only the few constructors that
FLAME's files need, none of which runs code from the file: NumPy arrays, sparse matrices and chumpy arrays (as
plain records of their state), torch tensors (through ``weights_only``), dicts and sets. Anything else is
refused by name.
"""

from __future__ import annotations

import codecs
import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.face3d.weight_files import existing

_BROKEN = (
    pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, RuntimeError, OverflowError,
    MemoryError,
)  # fmt: skip
"""What an unpickler raises on bytes that are no pickle, besides ValueError."""

LARGEST = 2 << 30
"""Bytes: no FLAME file comes near; a larger one is not read into memory."""


class _Record:
    """Stands for an object of a class that is not imported: keeps the state, runs nothing."""

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}


class _ChumpyArray(_Record):
    """``chumpy.ch.Ch``: the array is under ``x``."""


class _SparseMatrix(_Record):
    """``scipy.sparse`` compressed columns: ``data``, ``indices``, ``indptr``, ``_shape``."""


def _reconstruct(kind: type, shape: Any, code: Any) -> NDArray[Any]:
    """``numpy.core.multiarray._reconstruct``: an empty array whose state follows."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"an array of class {kind!r}")
    return np.ndarray.__new__(np.ndarray, shape, code)


def _scalar(dtype: np.dtype[Any], value: bytes) -> Any:
    return np.frombuffer(value if isinstance(value, bytes) else value.encode("latin-1"), dtype)[0]


def _reconstructor(kind: type, base: type, state: object) -> Any:
    """``copy_reg._reconstructor`` of protocols 0 and 1, for records only."""
    if not issubclass(kind, _Record) or base is not object or state is not None:
        raise pickle.UnpicklingError(f"an object of class {kind!r}")
    return kind()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """``_codecs.encode``: how Python 3 writes bytes in protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return codecs.encode(text, "latin-1")


def _torch_storage(data: bytes) -> Any:
    """``torch.storage._load_from_bytes``, which upstream unpickles freely."""
    return torch.load(io.BytesIO(data), weights_only=True)


_NUMPY, _SPARSE = ("numpy.core.multiarray", "numpy._core.multiarray"), ("scipy.sparse.csc", "scipy.sparse._csc")
_BUILTINS, _COPY = ("__builtin__", "builtins"), ("copy_reg", "copyreg")

_CONSTRUCTORS: tuple[tuple[tuple[str, ...], str, Any], ...] = (
    (("numpy",), "ndarray", np.ndarray),
    (("numpy",), "dtype", np.dtype),
    (_NUMPY, "_reconstruct", _reconstruct),
    (_NUMPY, "scalar", _scalar),
    (_SPARSE, "csc_matrix", _SparseMatrix),
    (("chumpy.ch",), "Ch", _ChumpyArray),
    (_BUILTINS, "set", set),
    (_BUILTINS, "object", object),
    (_COPY, "_reconstructor", _reconstructor),
    (("_codecs",), "encode", _encode),
    (("collections",), "OrderedDict", collections.OrderedDict),
    (("torch._utils",), "_rebuild_tensor_v2", torch._utils._rebuild_tensor_v2),
    (("torch.storage",), "_load_from_bytes", _torch_storage),
)
"""Modules under which a file may name a constructor (Python 2 and 3, old and new NumPy and SciPy), its name, ours."""

_ALLOWED: dict[tuple[str, str], Any] = {
    (module, name): ours for modules, name, ours in _CONSTRUCTORS for module in modules
}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data), encoding="latin-1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ValueError(
                f"{self._path}: the pickle asks for {module}.{name}, which no FLAME file needs and which could run code; "
                f"it was refused. Download the file again from its original place"
            ) from None


def read_pickle(path: Path) -> Any:
    """What a FLAME pickle (or pickled ``.npy``) holds, with arrays in place of sparse and chumpy objects.

    Raises ``ValueError`` naming the file for anything beyond the allow-list and for truncated or broken
    pickles.
    """
    size = existing(path).stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path}: {size} bytes; no FLAME file has more than {LARGEST}")
    data = path.read_bytes()
    if data.startswith(b"\x93NUMPY"):
        data = _object_array_payload(data, path)
    try:
        value = _RestrictedUnpickler(data, path).load()
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: a broken pickle ({error}); download it again") from error
    except _BROKEN as error:
        raise ValueError(f"{path}: a broken or refused pickle ({error}); download it again") from error
    return _plain(value, path)


def _object_array_payload(data: bytes, path: Path) -> bytes:
    """The pickle inside a ``.npy`` file of Python objects."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read_header(stream)
    except ValueError as error:
        raise ValueError(f"{path}: a broken .npy header ({error}); download it again") from error
    if not dtype.hasobject:
        raise ValueError(f"{path}: a .npy file of {dtype} {shape}, not of a pickled dict; is it another file?")
    return data[stream.tell() :]


def _plain(value: Any, path: Path) -> Any:
    """Records and tensors → arrays, all the way down dicts and 0-d object arrays."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject and value.size == 1:
        return _plain(value.item(), path)
    if isinstance(value, _ChumpyArray):
        if not isinstance(value.state.get("x"), np.ndarray):
            raise ValueError(f"{path}: a chumpy object without an array; only plain chumpy arrays are known")
        return value.state["x"]
    if isinstance(value, _SparseMatrix):
        return _dense(value.state, path)
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _plain(item, path) for key, item in value.items()}
    return value


def _dense(state: dict[str, Any], path: Path) -> NDArray[np.float64]:
    """Compressed sparse columns → (rows, columns)."""
    try:
        rows, columns = (int(length) for length in state["_shape"])
        data, indices, starts = (np.asarray(state[name]) for name in ("data", "indices", "indptr"))
        if len(starts) != columns + 1 or rows * columns > LARGEST // 8:
            raise ValueError(f"{len(starts)} column starts for {columns} columns of {rows} rows")
        out = np.zeros((rows, columns))
        np.add.at(out, (indices, np.repeat(np.arange(columns), np.diff(starts))), data)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: a broken sparse matrix ({error}); download the file again") from error
    return out
