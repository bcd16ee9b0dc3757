"""Feature shards small enough to train on in a test: random numbers, or a pattern that maps explain."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from storage.canonical import canonical_json
from storage.manifest import Manifest
from storage.shards import write_shard
from storage.stores import Store
from tasks.array_bytes import npy_bytes
from tasks.generation import Generation

FIELDS = ("moments.npy", "conditions.npy", "face.npy", "semantic.npy")
SPLITS = ("train", "train", "train", "validation")


def random_sample(numbers: np.random.Generator, size: int = 8) -> dict[str, NDArray[np.floating]]:
    latent = (size, size)
    shapes = {"moments": (32, *latent), "conditions": (48, *latent), "face": (128,), "semantic": (5, 24)}
    arrays = {name: numbers.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    arrays["moments"][16:] = -30
    return arrays


def features(
    root: Store,
    samples: Sequence[Mapping[str, NDArray[np.floating]]] | int = 3,
    *,
    persons: int | None = None,
    splits: Sequence[str] = SPLITS,
    shard_size: int = 1000,
) -> Generation:
    """A generation of `samples` (or of that many random ones). With `persons`, row i shows person i modulo persons, and
    person j has the split j modulo the number of splits; without, there is no meta.json."""
    if isinstance(samples, int):
        numbers = np.random.default_rng(0)
        samples = [random_sample(numbers) for _ in range(samples)]
    fields = FIELDS if persons is None else (*FIELDS, "meta.json")
    rows = []
    for i, arrays in enumerate(samples):
        row = {f"{name}.npy": npy_bytes(array) for name, array in arrays.items()}
        if persons is not None:
            person = i % persons
            row["meta.json"] = canonical_json({"person": f"person-{person}", "split": splits[person % len(splits)]})
        rows.append((f"sample-{i:03d}", row))
    home = root.child("features/0123456789abcdef")
    shards = tuple(
        write_shard(home, f"shard-{start // shard_size:06d}.tar", rows[start : start + shard_size], fields)
        for start in range(0, len(rows), shard_size)
    )
    manifest = Manifest(
        stage="features", fields=fields, config_digest="c", code_version="0", inputs={}, shards=shards,
        counts={"ok": len(rows)},
    )  # fmt: skip
    manifest.commit(home)
    return Generation(stage="features", uri=home.uri, manifest=manifest, reused=False)
