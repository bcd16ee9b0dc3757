"""Nested state (of an optimiser, a scheduler, a random generator) as tensors by name and a JSON value.

tensors, skeleton = split_state({"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()})
checkpoints.save(step, tensors, skeleton) state = join_state(checkpoint.tensors, checkpoint.state)
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TENSOR, _PAIRS, _TUPLE = "__tensor__", "__pairs__", "__tuple__"


def split_state(state: object) -> tuple[dict[str, Tensor], Any]:
    """Tensors named by their path ("optimizer.state.0.exp_avg") and the rest with references to them.

    Takes tensors, JSON values, tuples and mappings with str or int keys. Raises ValueError for anything else, and for
    two tensors whose paths read the same.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _split(state, "", tensors)


def join_state(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """The state that was split. Raises KeyError with the name of a tensor that is missing."""
    if isinstance(skeleton, list):
        return [join_state(tensors, item) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _TENSOR in skeleton:
        return tensors[skeleton[_TENSOR]]
    if _TUPLE in skeleton:
        return tuple(join_state(tensors, item) for item in skeleton[_TUPLE])
    if _PAIRS in skeleton:
        return {key: join_state(tensors, item) for key, item in skeleton[_PAIRS]}
    return {key: join_state(tensors, item) for key, item in skeleton.items()}


def _split(value: object, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if path in tensors:
            raise ValueError(f"two tensors have the path {path!r}; rename a key")
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        items = [(key, _split(item, _join(path, key), tensors)) for key, item in value.items()]
        if all(isinstance(key, str) and key not in (_TENSOR, _PAIRS, _TUPLE) for key, _ in items):
            return dict(items)
        return {_PAIRS: [[key, item] for key, item in items]}
    if isinstance(value, list | tuple):
        items = [_split(item, _join(path, number), tensors) for number, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{path or 'the state'} is a {type(value).__name__}; only tensors and JSON values can be saved")


def _join(path: str, key: object) -> str:
    if not isinstance(key, str | int):
        raise ValueError(f"{path or 'the state'} has the key {key!r}; only str and int keys can be saved")
    return f"{path}.{key}" if path else str(key)
