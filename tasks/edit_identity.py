"""edit-identity: an identity and edits → images, by FLAME-style numbers or from a driver photograph."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import task

from models.diffusion.adaptation import AdaptationConfig, load_adaptation
from models.diffusion.editor import InstaFace
from models.diffusion.sampling import BackgroundLock, head_region, sample
from models.encoders.codec import mode
from models.face3d.editing import TAKES, FaceEdit, apply_edit, transfer
from models.face3d.maps import ConditionMaps
from models.face3d.parameters import FaceParameters
from models.images import decode_png, encode_png
from storage.canonical import digest_of, sha256_of
from storage.records import Record, commit_record, committed, only_record, read_record
from storage.stores import Store, open_store
from tasks.array_bytes import from_npy, from_safetensors
from tasks.encode import load_codec, map_latents
from tasks.extract import Mapper
from tasks.image_uri import read_image_uri
from tasks.live import watch
from tasks.pictures import contact_sheet, to_pixels
from tasks.preset import Preset
from tasks.progress import StageProgress
from tasks.ray_pool import run_remote
from tasks.shard import Aligner
from tasks.train_state import load_networks

VERSION = "1"
GRID: tuple[Mapping[str, Any], ...] = (
    {"name": "as photographed"},
    {"name": "turn left", "yaw": -25.0},
    {"name": "turn right", "yaw": 25.0},
    {"name": "look up", "pitch": 15.0},
    {"name": "smile", "expressions": {"smile": 1.0}},
    {"name": "mouth open", "expressions": {"mouth-open": 1.0}},
    {"name": "surprise", "expressions": {"surprise": 1.0}},
    {"name": "light from left", "light": "left"},
    {"name": "light from right", "light": "right"},
    {"name": "light from above", "light": "above"},
    {"name": "turn, smile, light", "yaw": 15.0, "expressions": {"smile": 0.8}, "light": "left"},
)
"""What a person wants to see first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedEdit:
    name: str
    edit: FaceEdit
    driver: bool = False
    """Take pose, expression or light from the driver photograph first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EditedImage:
    name: str
    image: str
    """Name of the PNG in the record."""
    render: str
    """Name of the Lambertian render that asked for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    uri: str
    identity_uri: str
    images: tuple[EditedImage, ...]
    record: Record
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EditJob:
    preset: Preset
    identity: str
    edits: tuple[NamedEdit, ...]
    take: tuple[str, ...]
    home: str


def parse_edits(edits: Sequence[Mapping[str, Any]] | None, *, driver: bool) -> tuple[NamedEdit, ...]:
    """Edits as a flow gets them (JSON) → typed; None is the default grid.

    Raises:
        ValueError: a field that is none of an edit's, a value out of its range, a name given twice.
    """
    named = []
    for number, values in enumerate(GRID if edits is None else edits):
        fields = dict(values)
        name = str(fields.pop("name", f"edit {number}"))
        named.append(NamedEdit(name=name, edit=FaceEdit.from_json(json.dumps(fields))))
    if driver:
        named.append(NamedEdit(name="as the driver", edit=FaceEdit(), driver=True))
    names = [one.name for one in named]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two edits are named {repeated[0]!r}: give each its own name")
    if not named:
        raise ValueError("no edit was asked for: give at least one, or leave edits out for a grid")
    return tuple(named)


def edit_identity(
    preset: Preset,
    identity: str,
    edits: Sequence[Mapping[str, Any]] | None,
    driver_uri: str | None,
    take: Sequence[str],
    root: Store,
) -> Edits:
    """Edit the person whose checkpoint is at `identity`, or find these very edits done; below `<root>/edits/<digest>/`.

    Raises:
        ValueError: an unknown identity, edit or `take`.
        BadImageUri, BadImage, RowFailed: the driver photograph cannot be used.
    """
    if unknown := sorted(set(take) - set(TAKES)):
        raise ValueError(f"take={unknown}: a driver gives {', '.join(TAKES)}")
    named = parse_edits(edits, driver=driver_uri is not None)
    driver = read_image_uri(driver_uri) if driver_uri is not None else None
    request = [
        VERSION, preset.edit, identity, [[one.name, asdict(one.edit), one.driver] for one in named],
        list(take) if driver is not None else None, sha256_of(driver) if driver is not None else None,
    ]  # fmt: skip
    home = root.child(f"edits/{digest_of(request)}")
    with StageProgress("edit", total=len(named), unit="images") as progress:
        record = read_record(home)
        if record is not None:
            progress.reused({})
            return edits_of(record, reused=True, seconds=progress.seconds)
        job = EditJob(preset=preset, identity=identity, edits=named, take=tuple(take), home=home.uri)
        watch(
            lambda mailbox: run_remote(edit_rank, job, driver, mailbox, gpu=preset.edit.gpu),
            lambda report: progress.step(report["step"], report["note"]),
        )
    return edits_of(committed(home.uri), reused=False, seconds=progress.seconds)


def edit_rank(job: EditJob, driver: bytes | None, mailbox: Any) -> None:
    """All edits of one request, in one process: parameters → maps → latents → images."""
    config = job.preset.edit
    device = torch.device("cuda" if config.gpu else "cpu")
    identity = committed(job.identity)
    mapper = Mapper(job.preset.extract)
    source = read_parameters({name: identity.read(name) for name in ("params.npy", "texture.png")})

    # Edited parameters and their maps.
    mailbox.put.remote({"step": 0, "note": "condition maps"})
    driving = None
    if driver is not None:
        aligned = Aligner(job.preset.shard).align(driver, "the driver photograph")
        driving = read_parameters(mapper.maps(decode_png(aligned["image.png"]), "the driver photograph"))
    wanted = [_edited(mapper, source, one, driving, job.take) for one in job.edits]
    image = decode_png(identity.read("image.png"))
    maps = [mapper.estimator.maps(parameters, image.shape[0]) for parameters in wanted]

    # Images, some edits at a time.
    model, codec = load_identity(identity), load_codec(job.preset.encode.codec)
    model = model.to(device).eval()
    batch = {
        name: torch.from_numpy(from_npy(identity.read(f"{name}.npy"))).float()[None]
        for name in ("semantic", "face", "moments")
    }
    with torch.no_grad():
        tokens = model.tokens(batch["semantic"].to(device), batch["face"].to(device))
    photographed = mapper.estimator.maps(source, image.shape[0])
    reference = map_latents(codec, [photographed]).to(device)
    key = sha256_of(identity.read("image.png"))[:16]
    images: list[NDArray[np.uint8]] = []
    for start in range(0, len(maps), config.batch):
        some = maps[start : start + config.batch]
        lock = _lock(some, photographed, batch["moments"], reference) if config.background_lock else None
        made = sample(
            model, codec, map_latents(codec, some).to(device), tokens, keys=[key] * len(some), seed=config.seed,
            steps=config.steps, solver=config.solver, lock=lock,  # type: ignore[arg-type]  # checked by EditConfig
            reference=reference if config.reference_scale != 1 else None, reference_scale=config.reference_scale,
        )  # fmt: skip
        images += [to_pixels(one) for one in made]
        mailbox.put.remote({"step": len(images), "note": job.edits[len(images) - 1].name})

    # Commit.
    files: dict[str, bytes] = {}
    listed = []
    for number, (one, pixels, asked, parameters) in enumerate(zip(job.edits, images, maps, wanted, strict=True)):
        stem = f"{number:03d}"
        files |= {f"{stem}.png": encode_png(pixels), f"{stem}.params.npy": parameters.to_npy()}
        files |= {f"{stem}.{name}": data for name, data in asked.encode().items() if name != "mask.png"}
        listed.append(
            {"name": one.name, "image": f"{stem}.png", "render": f"{stem}.render.png", "params": f"{stem}.params.npy"}
        )
    sheet = [("photograph", image), *((one.name, pixels) for one, pixels in zip(job.edits, images, strict=True))]
    files["grid.png"] = contact_sheet(sheet, columns=4)
    facts = {"identity": job.identity, "images": listed, "config": asdict(config), "take": list(job.take)}
    commit_record(open_store(job.home), files, facts)


def _edited(
    mapper: Mapper, source: FaceParameters, one: NamedEdit, driving: FaceParameters | None, take: Sequence[str]
) -> FaceParameters:
    model = mapper.estimator.model
    start = transfer(model, source, driving, take) if one.driver and driving is not None else source
    return apply_edit(model, start, one.edit)


def _lock(
    edited: Sequence[ConditionMaps], source: ConditionMaps, moments: torch.Tensor, like: torch.Tensor
) -> BackgroundLock:
    def masks(maps: Sequence[ConditionMaps]) -> torch.Tensor:
        return torch.from_numpy(np.stack([m.mask for m in maps]))[:, None].float()

    old = masks([source]).expand(len(edited), -1, -1, -1)
    size = (like.shape[-2], like.shape[-1])
    return BackgroundLock(source=mode(moments).to(like), free=head_region(old, masks(edited), size=size).to(like))


def read_parameters(files: Mapping[str, bytes]) -> FaceParameters:
    """The parameters of a maps sample, with their UV albedo where the estimator has one."""
    parameters = FaceParameters.from_npy(files["params.npy"])
    albedo = decode_png(files["texture.png"])
    return parameters.replaced(albedo=albedo) if albedo.shape[0] > 1 else parameters


def load_identity(identity: Record) -> InstaFace:
    """The base model with what the identity changed."""
    lineage = identity.facts["lineage"]
    model = load_networks(committed(str(lineage["base"])))
    adaptation = AdaptationConfig(kind=lineage["config"]["method"], rank=lineage["config"]["rank"])
    load_adaptation(model, adaptation, from_safetensors(identity.read("weights.safetensors")))
    return model


def find_identity(root: Store, identity_id: str | None) -> str:
    """URI of the only checkpoint of an identity; with None, of the only identity.

    Raises:
        ValueError: no such identity, or several to choose from.
    """
    remedy = "run finetune-identity with this root first"
    if identity_id is None:
        names = sorted({info.key.split("/")[0] for info in root.child("identities").list()})
        if len(names) != 1:
            listed = ", ".join(names) or "none"
            raise ValueError(
                f"which identity? {root.uri} has: {listed}. Give identity_id" + ("" if names else f", or {remedy}")
            )
        identity_id = names[0]
    return only_record(root, f"identities/{identity_id}", remedy)


def edits_of(record: Record, *, reused: bool, seconds: float = 0.0) -> Edits:
    """Finished edits from their record."""
    images = tuple(EditedImage(name=i["name"], image=i["image"], render=i["render"]) for i in record.facts["images"])
    return Edits(
        uri=record.uri,
        identity_uri=str(record.facts["identity"]),
        images=images,
        record=record,
        reused=reused,
        seconds=seconds,
    )


@task(name="edit", persist_result=False)
def edit_task(
    preset: Preset,
    identity_id: str | None,
    identity_uri: str | None,
    edits: Sequence[Mapping[str, Any]] | None,
    driver_uri: str | None,
    take: Sequence[str],
    root: str,
) -> Edits:
    """An identity and edits → images."""
    store = open_store(root)
    return edit_identity(preset, identity_uri or find_identity(store, identity_id), edits, driver_uri, take, store)
