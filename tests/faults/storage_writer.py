"""The process that test_storage_kill kills: writes a dataset and three checkpoints, the same bytes every time.

python storage_writer.py URI    (says "ready" when it is about to write, "done" at the end)
"""

import random
import sys

import torch

from storage.checkpoints import CheckpointStore
from storage.manifest import Manifest, StatusRow, write_status
from storage.reader import SampleReader
from storage.shards import write_shard
from storage.stores import S3Config, S3Store, open_store
from storage.units import commit_unit

FIELDS = ("image.png", "meta.json")
SHARDS = 4
PLAIN = "images/abc"
UNITS = "maps/abc"
RUN = "models/run"


def samples_of(shard: int) -> list[tuple[str, dict[str, bytes]]]:
    chance = random.Random(shard)
    return [(f"k{shard}-{n}", {"image.png": chance.randbytes(20_000), "meta.json": b"{}"}) for n in range(10)]


def rows_of(shard: int) -> list[StatusRow]:
    name = f"shard-{shard:06d}.tar"
    return [StatusRow(key=key, source=f"{key}.jpg", status="ok", shard=name) for key, _ in samples_of(shard)]


def write(uri: str) -> None:
    root = open_store(uri)
    if isinstance(root, S3Store):
        root = S3Store(root.bucket, root.prefix, S3Config(addressing="path", part_size=5 << 20))
    store = root.child(PLAIN)
    entries = tuple(write_shard(store, f"shard-{n:06d}.tar", samples_of(n), FIELDS) for n in range(SHARDS))
    write_status(store, [row for n in range(SHARDS) for row in rows_of(n)])
    _manifest("images", entries).commit(store)

    store = root.child(UNITS)
    units = [commit_unit(store, n, samples_of(n), FIELDS, rows_of(n)) for n in range(SHARDS)]
    write_status(store, [row for unit in units for row in unit.rows])
    _manifest("maps", tuple(unit.entry for unit in units if unit.entry is not None)).commit(store)

    with CheckpointStore(root.child(RUN)) as checkpoints:
        for step in (1, 2, 3):
            if step > (checkpoints.latest() or 0):
                # More than one part on S3: 6 MiB.
                checkpoints.save_in_background(step, tensors_of(step), {"step": step})


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3 << 19,), float(step)), "step": torch.tensor(step)}


def _manifest(stage: str, entries: tuple) -> Manifest:
    return Manifest(stage=stage, fields=FIELDS, config_digest="c", code_version="v", inputs={}, shards=entries)


def check_what_is_visible(uri: str, cache: str) -> None:
    """Reads all that a reader may see; raises if any of it is not what it must be."""
    root = open_store(uri)
    for place in (PLAIN, UNITS):
        manifest = Manifest.read(root.child(place))
        if manifest is not None:
            expected = [sample for n in range(SHARDS) for sample in samples_of(n)]
            assert list(SampleReader(root.child(place), manifest, FIELDS, cache)) == expected
    checkpoints = CheckpointStore(root.child(RUN))
    for step in checkpoints.steps():
        assert torch.equal(checkpoints.load(step).tensors["weight"], tensors_of(step)["weight"])


if __name__ == "__main__":
    print("ready", flush=True)
    write(sys.argv[1])
    print("done", flush=True)
