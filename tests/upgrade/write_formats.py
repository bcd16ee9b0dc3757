"""Write a dataset, an interrupted training and an identity as this commit writes them, into one small archive.

Usage: python -m tests.upgrade.write_formats tests/upgrade/formats-2026-11-23.tar.xz

The archive stays in the repository; test_upgrade.py reads it with later commits. When a format changes on purpose, write
another one beside it and keep the old: what users have stored must stay readable. Needs a minute.
"""

import io
import json
import lzma
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flows.presets import by_name
from models.diffusion import presets as networks
from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.folder import save_model
from storage.canonical import sha256_of
from storage.identities import IdentityStore
from storage.records import Record, commit_record, committed
from storage.stores import Store, open_store
from tasks import train_networks
from tasks.array_bytes import from_npy
from tasks.edit_render import load_identity
from tasks.encode import encode
from tasks.extract import extract
from tasks.generation import find_generation
from tasks.identity_training import FinetuneJob, train_identity
from tasks.image_uri import read_image_uri
from tasks.preset import Preset
from tasks.ray_pool import PoolConfig, ray_session
from tasks.shard import shard
from tasks.sources import list_photos
from tasks.train_config import TrainConfig
from tasks.train_data import FEATURES
from tasks.train_loop import train_rank
from tasks.train_stage1 import describe, job_for
from tasks.train_state import Place, load_networks
from tests.identity_process import PORTRAIT, Reports

SIDE = 64
STOPPED_AFTER = 2
TRAINING = TrainConfig(
    model="debug", steps=4, batch=1, repeat=True, learning_rate=1e-3, checkpoint_every=2, validation_samples=1
)
HERE = Place(0, 1, torch.device("cpu"))


def preset() -> Preset:
    chosen = by_name("debug")
    finetune = replace(chosen.finetune, steps=2, copies=2, method="full")
    return replace(chosen, shard=replace(chosen.shard, size=SIDE), finetune=finetune)


def smaller(**changes: Any) -> InstaFaceConfig:
    """The debug networks, so narrow that an archive of them is small."""
    narrow: dict[str, Any] = {"widths": (4, 8), "attention": (False, True), "heads": 1, "groups": 2, "token_width": 8}
    narrow |= {"tokens": 2, "identity_depth": 1, "identity_head_width": 8}
    return replace(networks.debug_config(), **{**narrow, **changes})


def training(root: Store, *, stop_after: int | None = None) -> tuple[str, list[dict[str, Any]]]:
    """Train below `root`, to the end or until it is asked to stop; URI of the run, and its rows."""
    train_networks.debug_config = smaller
    try:
        job = job_for(TRAINING, find_generation(root, "features", None), root)
        describe(job, open_store(job.home))
        rows: list[dict[str, Any]] = []
        done = lambda: stop_after is not None and sum("loss" in row for row in rows) >= stop_after - 1  # noqa: E731
        train_rank(replace(job, tensorboard=None), HERE, report=rows.append, stopping=done)
    finally:
        train_networks.debug_config = networks.debug_config
    return job.home, rows


def digests(root: Store) -> dict[str, dict[str, str]]:
    """sha256 of every field of every stage, its samples one after another."""
    found = {}
    for stage in ("images", "maps", "features"):
        generation = find_generation(root, stage, None)
        reader = generation.reader(list(generation.manifest.fields))
        samples = [sample for _, sample in reader]
        found[stage] = {field: sha256_of(b"".join(sample[field] for sample in samples)) for field in reader.fields}
    return found


def identity_loss(root: Store, record: Record) -> float:
    """The loss of an identity's model on its own features, with fixed noise."""
    model = load_identity(record, load_networks(committed(root.child("stage1/base").uri))).eval()
    batch = {name: torch.from_numpy(from_npy(record.read(f"{name}.npy"))).float()[None] for name in FEATURES}
    with torch.no_grad():
        return float(model.loss(batch, draws_for(model.config, ["upgrade"], run_seed=0, epoch=0)))


def write(root: Store) -> dict[str, Any]:
    """Everything below `root`; what a reader must find."""
    chosen = preset()
    with tempfile.TemporaryDirectory() as folder:
        config = smaller(latent_size=SIDE // 8, semantic_width=320, face_width=128)
        save_model(InstaFace.from_config(config, seed=3), folder)
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
    base = commit_record(root.child("stage1/base"), files, {"step": 0, "losses": [1.0]}).uri
    with ray_session(2):
        pool = PoolConfig(actors=1)
        images = shard(chosen.shard, list_photos(PORTRAIT), root, pool)
        maps = extract(chosen.extract, images, root, pool)
        encode(chosen.encode, images, maps, root, pool)
    home, _ = training(root, stop_after=STOPPED_AFTER)
    data = read_image_uri(PORTRAIT)
    identity = IdentityStore(root).home("eileen").child("0" * 16)
    train_identity(
        FinetuneJob(
            preset=chosen, image_uri=PORTRAIT, image_sha256=sha256_of(data), identity_id="eileen", consent=None,
            base=base, root=root, home=identity,
        ),
        data, Reports(),
    )  # fmt: skip
    return {
        "digests": digests(root), "training": home.rpartition("/")[2], "step": STOPPED_AFTER,
        "identity_loss": identity_loss(root, committed(identity.uri)),
    }  # fmt: skip


def main(archive: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        expected = write(open_store(folder))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
                tar.add(path, str(path.relative_to(folder)))
            text = json.dumps(expected, indent=1, sort_keys=True).encode()
            facts = tarfile.TarInfo("expected.json")
            facts.size = len(text)
            tar.addfile(facts, io.BytesIO(text))
    Path(archive).write_bytes(lzma.compress(buffer.getvalue(), preset=9))
    print(f"{archive}: {Path(archive).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
