"""finetune-identity: one photograph → an identity (paper §4, stage 2).

Fetch → validate → align → maps → features → train → preview → commit, in one Ray process that loads each model once.
The eight copies of the paper share image, maps and tokens; only noise and timestep differ, so the frozen parts run once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import task

from models.diffusion.adaptation import adapt, adaptation_state
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.sampling import sample
from models.encoders.codec import LatentCodec, mode
from models.face3d.maps import ConditionMaps
from models.images import decode_png
from storage.canonical import digest_of, sha256_of
from storage.identities import IdentityStore, check_identity_id
from storage.records import Record, commit_record, committed, only_record, read_record
from storage.stores import Store, open_store
from tasks.array_bytes import from_npy, to_safetensors
from tasks.encode import Featurizer
from tasks.extract import Mapper
from tasks.image_uri import read_image_uri
from tasks.live import watch
from tasks.pictures import picture_bytes, psnr, stack
from tasks.preset import Preset
from tasks.progress import StageProgress
from tasks.ray_pool import run_remote
from tasks.shard import Aligner
from tasks.train_data import FEATURES
from tasks.train_state import load_networks

VERSION = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    identity_id: str
    uri: str
    metrics: Mapping[str, float]
    preview: bytes
    """PNG: the aligned photograph beside its reconstruction."""
    losses: tuple[float, ...]
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneJob:
    preset: Preset
    image_uri: str
    image_sha256: str
    identity_id: str
    base: str
    root: str
    digest: str


def finetune_identity(
    preset: Preset, image_uri: str, identity_id: str | None, root: Store, base: str | None
) -> Identity:
    """Fine-tune on one photograph, or find it done; below `<root>/identities/<id>/<digest>/`.

    Raises:
        BadImageUri, BadImage, RowFailed: the photograph cannot be used, with the reason.
        ValueError: no stage-1 model, or several to choose from.
    """
    data = read_image_uri(image_uri)
    sha256 = sha256_of(data)
    name = check_identity_id(identity_id or f"id-{sha256[:12]}")
    base_uri = base or only_record(root, "stage1", "run train-stage1 with this root first")
    digest = digest_of(
        [VERSION, preset.finetune, preset.shard, preset.extract, preset.encode, committed(base_uri).files, sha256]
    )
    home = IdentityStore(root).home(name).child(digest)
    with StageProgress("finetune", total=preset.finetune.steps, unit="steps") as progress:
        record = read_record(home)
        if record is not None:
            progress.reused({})
            return identity_of(record, reused=True, seconds=progress.seconds)
        job = FinetuneJob(
            preset=preset,
            image_uri=image_uri,
            image_sha256=sha256,
            identity_id=name,
            base=base_uri,
            root=root.uri,
            digest=digest,
        )
        watch(
            lambda mailbox: run_remote(finetune_rank, job, data, mailbox, gpu=preset.finetune.gpu),
            lambda report: progress.step(report["step"], report["note"]),
        )
    return identity_of(committed(home.uri), reused=False, seconds=progress.seconds)


def finetune_rank(job: FinetuneJob, photograph: bytes, mailbox: Any) -> None:
    """Everything that one fine-tune does, in one process."""
    config = job.preset.finetune
    device = torch.device("cuda" if config.gpu else "cpu")

    # Photograph → aligned image, maps, features.
    mailbox.put.remote({"step": 0, "note": "3D face and features"})
    aligned = Aligner(job.preset.shard).align(photograph, job.image_uri)
    image = decode_png(aligned["image.png"])
    maps = Mapper(job.preset.extract).maps(image, job.image_uri)
    featurizer = Featurizer(job.preset.encode)
    features = featurizer.features(image, ConditionMaps.decode(maps), from_npy(maps["landmarks.npy"]))
    batch = {name: torch.from_numpy(from_npy(features[f"{name}.npy"])).float()[None].to(device) for name in FEATURES}

    # Train what the method trains; the rest is frozen.
    model = load_networks(committed(job.base)).to(device).train()
    trainable = adapt(model, config.adaptation, semantic=batch["semantic"], face=batch["face"], seed=config.seed)
    optimiser = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    losses: list[float] = []
    for step in range(config.steps):
        draws = draws_for(
            model.config, [job.image_sha256[:16]], run_seed=config.seed, epoch=step, copies=config.copies,
            stratified=config.stratified,
        )  # fmt: skip
        loss = model.loss(batch, draws.to(device))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {float(loss)} for {job.image_uri}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, config.clip)
        optimiser.step()
        losses.append(float(loss.detach()))
        mailbox.put.remote({"step": step + 1, "note": f"loss {losses[-1]:.3f}"})

    # Preview: the person as photographed, generated from the maps.
    model.eval()
    rebuilt, metrics = preview(model, featurizer.codec, batch, image, job)
    metrics["final_loss"] = sum(losses[-5:]) / len(losses[-5:])
    files = {
        "weights.safetensors": to_safetensors(adaptation_state(model, config.adaptation)),
        "preview.png": picture_bytes(torch.cat([stack([image])[0], rebuilt.cpu()], dim=2)),
        **{name: aligned[name] for name in ("image.png", "meta.json")},
        **maps,
        **features,
    }
    lineage = {
        "image_uri": job.image_uri, "image_sha256": job.image_sha256, "base": job.base, "preset": job.preset.name,
        "config": asdict(config), "encoders": featurizer.digest,
    }  # fmt: skip
    commit_record(
        IdentityStore(open_store(job.root)).home(job.identity_id).child(job.digest),
        files,
        {"identity_id": job.identity_id, "metrics": metrics, "lineage": lineage, "losses": losses},
    )


@torch.no_grad()
def preview(
    model: InstaFace, codec: LatentCodec, batch: Mapping[str, torch.Tensor], image: NDArray[np.uint8], job: FinetuneJob
) -> tuple[torch.Tensor, dict[str, float]]:
    """The photograph rebuilt from noise, its maps and tokens, (3, H, W) in [0, 1], and PSNR to the photograph beside
    what the codec alone reaches."""
    tokens = model.tokens(batch["semantic"], batch["face"])
    key, steps = job.image_sha256[:16], job.preset.edit.steps
    rebuilt = sample(model, codec, batch["conditions"], tokens, keys=[key], steps=steps)[0]
    ceiling = (codec.decode(mode(batch["moments"]))[0] / 2 + 0.5).clamp(0, 1)
    original = stack([image])[0]
    return rebuilt, {"reconstruction_psnr_db": psnr(rebuilt, original), "codec_psnr_db": psnr(ceiling, original)}


def identity_of(record: Record, *, reused: bool, seconds: float = 0.0) -> Identity:
    """A finished identity from its record."""
    facts = record.facts
    return Identity(
        identity_id=str(facts["identity_id"]),
        uri=record.uri,
        metrics={key: round(float(value), 4) for key, value in facts["metrics"].items()},
        preview=record.read("preview.png"),
        losses=tuple(float(value) for value in facts["losses"]),
        reused=reused,
        seconds=seconds,
    )


@task(name="finetune", persist_result=False)
def finetune_task(
    preset: Preset, image_uri: str, identity_id: str | None, root: str, base: str | None, steps: int | None
) -> Identity:
    """One photograph → an identity."""
    if steps is not None:
        preset = replace(preset, finetune=replace(preset.finetune, steps=steps))
    return finetune_identity(preset, image_uri, identity_id, open_store(root), base)
