"""One fine-tune in a process of its own, to be killed from outside.

Usage: python -m tests.identity_process ROOT BASE IDENTITY [PATIENCE]
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.presets import by_name
from models.diffusion.config import InstaFaceConfig
from models.diffusion.editor import InstaFace
from models.diffusion.folder import save_model
from storage.claims import sole_worker
from storage.identities import IdentityStore
from storage.records import commit_record, read_record
from storage.stores import Store, open_store
from tasks.identity_training import FinetuneJob, train_identity
from tasks.image_uri import read_image_uri
from tasks.preset import Preset

PORTRAIT = "embedded:portrait"
SIDE = 128


class Reports:
    """A mailbox in the same process: `put.remote(report)` as an actor's. Prints what is going on."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self.put = self

    def remote(self, report: dict[str, Any]) -> None:
        self.all.append(report)
        print(report["step"], report["note"], flush=True)


def small_preset() -> Preset:
    preset = by_name("debug")
    return replace(
        preset, shard=replace(preset.shard, size=SIDE), finetune=replace(preset.finetune, steps=2),
        edit=replace(preset.edit, batch=2),
    )  # fmt: skip


def small_base(root: Store) -> str:
    """A stage-1 record of small random networks over the embedded encoders."""
    config = InstaFaceConfig(
        latent_channels=16, latent_size=SIDE // 8, widths=(16, 32), attention=(False, True), layers=1, heads=2,
        groups=8, token_width=32, semantic_width=320, face_width=128, identity_depth=1, identity_head_width=16,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_model(InstaFace.from_config(config, seed=3), folder)
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
    return commit_record(root.child("stage1/base"), files, {"step": 0, "losses": [1.0]}).uri


def job_for(root: str, base: str, identity: str) -> FinetuneJob:
    store = open_store(root)
    return FinetuneJob(
        preset=small_preset(), image_uri=PORTRAIT, image_sha256="0" * 64, identity_id=identity, consent=None, base=base,
        root=store, home=IdentityStore(store).home(identity).child("0" * 16),
    )  # fmt: skip


def main(root: str, base: str, identity: str, patience: str = "2") -> None:
    job = job_for(root, base, identity)
    finished = lambda: read_record(job.home) is not None  # noqa: E731
    with sole_worker(job.home, finished, beat=0.2, patience=float(patience)) as mine:
        if mine:
            train_identity(job, read_image_uri(PORTRAIT), Reports())
    print("trained" if mine else "found", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
