"""The process that makes an identity: photograph → face and features → training → preview → record (paper §4, stage 2).

The eight copies of the paper share image, maps and tokens; only noise and timestep differ, so the frozen parts, and the
Guidance Network, run once a step.
"""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.adaptation import adapt, adaptation_state
from models.diffusion.editor import InstaFace, draws_for
from models.diffusion.sampling import sample
from models.encoders.codec import LatentCodec, mode
from models.encoders.face_recognition import DlibEncoder
from models.face3d.editing import FaceEdit, apply_edit, possible
from models.face3d.landmarks import FaceLandmarker, five_points
from models.face3d.maps import ConditionMaps
from models.images import decode_png
from models.provenance import Provenance
from models.rng import numpy_generator
from storage.canonical import digest_of
from storage.reader import SampleReader
from storage.records import Record, commit_record, committed
from storage.stores import Store
from tasks.aligner import Aligner
from tasks.array_bytes import from_npy, to_safetensors
from tasks.edit_config import FinetuneConfig
from tasks.edit_render import read_parameters
from tasks.featurizer import Featurizer, map_latents
from tasks.generation import earlier_generations, find_generation
from tasks.identity_card import identity_card
from tasks.mapper import Mapper
from tasks.marking import SOFTWARE, mark
from tasks.pictures import contact_sheet, psnr, stack, to_pixels
from tasks.preset import Preset
from tasks.run_log import say
from tasks.train_data import FEATURES
from tasks.train_state import load_networks

Pixels = NDArray[np.uint8]
Batch = dict[str, torch.Tensor]
PREVIEWS: Mapping[str, FaceEdit] = {
    "turned left": FaceEdit(yaw=-20.0),
    "turned right": FaceEdit(yaw=20.0),
    "smile": FaceEdit(expressions={"smile": 1.0}),
    "light from left": FaceEdit(light="left"),
}
WITHOUT_NAMES = ("mouth open", FaceEdit(expressions={"mouth-open": 1.0}))
"""In place of the smile, for models whose expressions have no names (FLAME)."""
CHECK_EVERY = 5
"""Steps between two looks at the validation loss, where early stopping is on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneJob:
    preset: Preset
    image_uri: str
    image_sha256: str
    identity_id: str
    consent: str | None
    base: str
    root: Store
    home: Store


def train_identity(job: FinetuneJob, photograph: bytes, mailbox: Any) -> None:
    """Everything that one fine-tune does, in one process; phases and their seconds end up in the record."""
    config = job.preset.finetune
    clock = _Phases(mailbox)
    device = torch.device("cuda" if config.gpu else "cpu")

    clock.begin("3D face")
    aligned = Aligner(job.preset.shard).align(photograph, job.image_uri)
    image = decode_png(aligned["image.png"])
    mapper = Mapper(job.preset.extract)
    maps = mapper.maps(image, job.image_uri)

    clock.begin("features")
    featurizer = Featurizer(job.preset.encode)
    features = featurizer.features(image, ConditionMaps.decode(maps), from_npy(maps["landmarks.npy"]))
    batch = _batch([features], device)

    clock.begin("base model")
    base = committed(job.base)
    model = load_networks(base).to(device).train()

    clock.begin("training")
    prior = Prior(config, features_of_base(config, base, job.root)) if config.prior_weight else None

    def report(step: int, loss: float) -> None:
        clock.step = step
        mailbox.put.remote({"step": step, "note": f"loss {loss:.3f}"})

    losses, validation = train_steps(config, job.image_sha256[:16], model, batch, prior=prior, report=report)

    clock.begin("preview")
    model.eval()
    pictures = preview(model, featurizer.codec, mapper, batch, maps, job)
    metrics = measure(pictures["rebuilt"], image, featurizer.codec, batch)
    metrics["final_loss"] = sum(losses[-5:]) / len(losses[-5:])
    weights = to_safetensors(adaptation_state(model, config.adaptation))
    lineage = {
        "image_uri": job.image_uri, "image_sha256": job.image_sha256, "base": job.base,
        "base_digest": digest_of({name: entry["sha256"] for name, entry in base.files.items()}),
        "preset": job.preset.name, "config": asdict(config), "encoders": featurizer.digest, "consent": job.consent,
        "code": version("instaface"),
    }  # fmt: skip
    facts = {
        "identity_id": job.identity_id, "size": image.shape[0], "metrics": metrics, "lineage": lineage,
        "losses": losses, "validation": validation, "seconds": clock.seconds(),
    }  # fmt: skip
    files = _kept(config, aligned, maps, features) | {"weights.safetensors": weights}
    files["preview.png"] = _preview_sheet(config, image, pictures, lineage)
    files["README.md"] = identity_card(facts, weight_bytes=len(weights)).encode()
    commit_record(job.home, files, facts)


def train_steps(
    config: FinetuneConfig,
    key: str,
    model: InstaFace,
    batch: Batch,
    *,
    prior: "Prior | None" = None,
    report: Callable[[int, float], None] | None = None,
) -> tuple[list[float], list[float]]:
    """Train what the method trains, in place; returns the losses by step and those on the fixed validation noise.

    `key` names the photograph's noise; `report` hears of every step and its loss.
    """
    device = batch["face"].device
    trainable = adapt(model, config.adaptation, semantic=batch["semantic"], face=batch["face"], seed=config.seed)
    optimiser = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    watch = EarlyStop(model, trainable, batch, key, config) if config.patience is not None else None
    losses: list[float] = []
    for step in range(config.steps):
        draws = draws_for(
            model.config, [key], run_seed=config.seed, epoch=step, copies=config.copies,
            stratified=config.stratified, antithetic=config.antithetic,
        )  # fmt: skip
        loss = model.loss(batch, draws.to(device))
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"step {step}: the loss is {losses[-1]} for the photograph {key}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if prior is not None:
            prior.add_gradient(model, step, device)
        torch.nn.utils.clip_grad_norm_(trainable, config.clip)
        optimiser.step()
        if report is not None:
            report(step + 1, losses[-1])
        if watch is not None and (step + 1) % CHECK_EVERY == 0 and watch.no_better():
            break
    if watch is not None:
        watch.restore()
    return losses, watch.losses if watch is not None else []


class Prior:
    """Prior preservation (DreamBooth, arXiv:2208.12242): other people's cached features keep the model from forgetting.

    A person is a sample of features that are encoded already: (key, files of the sample).
    """

    def __init__(
        self, config: FinetuneConfig, people: SampleReader | Sequence[tuple[str, Mapping[str, bytes]]]
    ) -> None:
        self.config, self.people = config, people

    def add_gradient(self, model: InstaFace, step: int, device: torch.device) -> None:
        """Add the gradient of prior_weight · loss on `prior_batch` other people, drawn by the seed and the step."""
        config = self.config
        rows = numpy_generator(config.seed, "prior", step).integers(0, len(self.people), config.prior_batch)
        samples = [self.people[int(row)] for row in rows]
        batch = _batch([sample for _, sample in samples], device)
        draws = draws_for(model.config, [key for key, _ in samples], run_seed=config.seed, epoch=step)
        loss = config.prior_weight * model.loss(batch, draws.to(device))
        loss.backward()


def features_of_base(config: FinetuneConfig, base: Record, root: Store) -> SampleReader:
    """The features that a stage-1 model was trained on, in random access.

    Raises:
        ValueError: they are not below this root.
    """
    wanted = base.facts.get("features")
    for uri in earlier_generations(root, "features"):
        generation = find_generation(root, "features", uri)
        if generation.manifest.digest == wanted:
            return generation.reader([f"{name}.npy" for name in FEATURES])
    raise ValueError(
        f"prior_weight={config.prior_weight} needs the features that the base was trained on, and {root.uri} has none of that "
        "digest: use the base's own root, or prior_weight=0"
    )


class EarlyStop:
    """Watches the loss on fixed noise, and keeps the best weights."""

    def __init__(
        self, model: InstaFace, trainable: Sequence[torch.nn.Parameter], batch: Batch, key: str, config: FinetuneConfig
    ) -> None:
        self.model, self.trainable, self.batch, self.patience = model, list(trainable), batch, config.patience or 1
        draws = draws_for(
            model.config, [key], run_seed=config.seed, epoch=-1, copies=2 * config.copies, stratified=True
        )
        self.draws = draws.to(batch["face"].device)
        self.losses: list[float] = []
        self.best: list[torch.Tensor] = []
        self.no_better()

    @torch.no_grad()
    def no_better(self) -> bool:
        """Measure once more; True when the last `patience` measurements brought nothing."""
        self.losses.append(float(self.model.loss(self.batch, self.draws)))
        if self.losses[-1] <= min(self.losses):
            self.best = [copy.deepcopy(p.detach()) for p in self.trainable]
        return len(self.losses) - 1 - int(np.argmin(self.losses)) >= self.patience

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, best in zip(self.trainable, self.best, strict=True):
            parameter.copy_(best)


@torch.no_grad()
def preview(
    model: InstaFace, codec: LatentCodec, mapper: Mapper, batch: Batch, maps: Mapping[str, bytes], job: FinetuneJob
) -> dict[str, torch.Tensor]:
    """The photograph rebuilt from noise ("rebuilt") and a few edits, each (3, S, S) in [0, 1]."""
    config = job.preset.edit
    tokens = model.tokens(batch["semantic"], batch["face"])
    source = read_parameters(maps)
    side = decode_png(maps["render.png"]).shape[0]
    face = mapper.estimator.model
    shown = dict(one if possible(face, one[1]) else WITHOUT_NAMES for one in PREVIEWS.items())
    edited = [mapper.estimator.maps(apply_edit(face, source, edit), side) for edit in shown.values()]
    conditions = torch.cat([batch["conditions"], map_latents(codec, edited).to(batch["conditions"])])
    made = sample(
        model, codec, conditions, tokens, keys=[job.image_sha256[:16]] * len(conditions), seed=config.seed,
        steps=config.steps, solver=config.solver,  # type: ignore[arg-type]  # checked by EditConfig
        guidance_tokens=model.guidance_tokens(batch["semantic"], batch["face"], tokens),
    )  # fmt: skip
    return dict(zip(["rebuilt", *shown], made.cpu(), strict=True))


def measure(rebuilt: torch.Tensor, image: Pixels, codec: LatentCodec, batch: Batch) -> dict[str, float | None]:
    """PSNR of the rebuilt photograph and of the codec alone, and how far a recogniser finds the two faces apart."""
    original = stack([image])[0]
    with torch.no_grad():
        ceiling = (codec.decode(mode(batch["moments"]))[0] / 2 + 0.5).clamp(0, 1)
    landmarker, recogniser = FaceLandmarker(), DlibEncoder()
    embedded = []
    for pixels in (image, to_pixels(rebuilt)):
        faces = [face for face in landmarker.detect(pixels) if face.reason is None]
        embedded.append(recogniser.embed(pixels, five_points(faces[0].mesh)) if faces else None)
    before, after = embedded
    both = before is not None and after is not None
    return {
        "reconstruction_psnr_db": psnr(rebuilt, original),
        "codec_psnr_db": psnr(ceiling, original),
        "reid_distance": float(np.linalg.norm(before - after)) if both else None,  # type: ignore[operator]
    }


def _kept(
    config: FinetuneConfig, aligned: Mapping[str, bytes], maps: Mapping[str, bytes], features: Mapping[str, bytes]
) -> dict[str, bytes]:
    """What an identity stores. Without the photograph neither its crop nor its latents; maps, texture and weights still show
    the face: that is what they are for."""
    meta = json.loads(aligned["meta.json"])
    kept = {"meta.json": json.dumps({"quad": meta.get("quad")}).encode(), **maps, **features}
    if config.keep_photograph:
        return kept | {"image.png": aligned["image.png"]}
    return {name: data for name, data in kept.items() if name != "moments.npy"}


def _preview_sheet(
    config: FinetuneConfig, image: Pixels, pictures: Mapping[str, torch.Tensor], lineage: Mapping[str, Any]
) -> bytes:
    shown = [(name, to_pixels(picture)) for name, picture in pictures.items()]
    if config.keep_photograph:
        shown.insert(0, ("photograph", image))
    provenance = Provenance(
        software=SOFTWARE, model=str(lineage["base_digest"]), identity="", edit="preview",
        composite=config.keep_photograph,
    )  # fmt: skip
    return mark(contact_sheet(shown, columns=len(shown)), provenance)


def _batch(samples: Sequence[Mapping[str, bytes]], device: torch.device) -> Batch:
    return {
        name: torch.from_numpy(np.stack([from_npy(sample[f"{name}.npy"]) for sample in samples])).float().to(device)
        for name in FEATURES
    }


class _Phases:
    """Names what is going on, and how long each phase took."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox
        self.began: list[tuple[str, float]] = []
        self.step = 0
        """Of the training; phases after it leave the bar where it is."""

    def begin(self, name: str) -> None:
        self.began.append((name, time.perf_counter()))
        self.mailbox.put.remote({"step": self.step, "note": name})
        say("finetune", name)

    def seconds(self) -> dict[str, float]:
        ends = [start for _, start in self.began[1:]] + [time.perf_counter()]
        return {name: round(end - start, 3) for (name, start), end in zip(self.began, ends, strict=True)}
