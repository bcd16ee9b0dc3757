"""The process that renders edits: parameters → condition maps → latents → images, for one identity after another."""

import copy
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.diffusion.adaptation import AdaptationConfig, load_adaptation
from models.diffusion.editor import InstaFace
from models.diffusion.sampling import head_region
from models.encoders.codec import LatentCodec
from models.face3d.editing import apply_edit, transfer
from models.face3d.maps import ConditionMaps
from models.face3d.parameters import FaceParameters
from models.face3d.paste_back import paste_back
from models.face3d.surface_flow import surface_flow
from models.face3d.temporal import smooth_frames
from models.images import decode_png, encode_png, read_image
from models.provenance import Provenance
from storage.canonical import digest_of
from storage.records import Record, commit_record, committed
from storage.stores import Store
from tasks.aligner import Aligner
from tasks.array_bytes import from_npy, from_safetensors
from tasks.draw_edits import Networks, Photographed, Wanted, draw_edits
from tasks.edit_config import EditConfig
from tasks.edit_requests import NamedEdit
from tasks.frozen import load_codec
from tasks.mapper import Mapper
from tasks.marking import SOFTWARE, mark
from tasks.pictures import contact_sheet
from tasks.preset import Preset
from tasks.train_state import load_networks

Pixels = NDArray[np.uint8]
FRAME_MILLISECONDS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """A photograph whose pose, expression or light is taken."""

    name: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class EditJob:
    """One identity of a request."""

    identity: str
    """URI of its record."""
    home: Store
    """Where its edits go."""
    photograph: bytes | None
    """To paste into, where that was asked for."""


def render_edits(
    preset: Preset,
    jobs: Sequence[EditJob],
    edits: Sequence[NamedEdit],
    drivers: Sequence[Driver],
    take: Sequence[str],
    mailbox: Any,
) -> None:
    """All edits of all identities of one request, in one process; each identity is committed when it is done."""
    mapper, codec = Mapper(preset.extract), load_codec(preset.encode.codec)
    base = cache(lambda uri: load_networks(committed(uri)))
    mailbox.put.remote({"step": 0, "note": "driver photographs" if drivers else "condition maps"})
    driving = driver_parameters(preset, mapper, drivers)
    for number, job in enumerate(jobs):
        identity = committed(job.identity)
        original = base(str(identity.facts["lineage"]["base"]))

        def networks(share: float, identity: Record = identity, original: InstaFace = original) -> InstaFace:
            return load_identity(identity, copy.deepcopy(original), share).eval()

        def report(done: int, note: str, before: int = number * len(edits)) -> None:
            mailbox.put.remote({"step": before + done, "note": note})

        render_identity(preset, job, networks, codec, mapper, edits, driving, take, report)


def render_identity(
    preset: Preset,
    job: EditJob,
    networks: Networks,
    codec: LatentCodec,
    mapper: Mapper,
    edits: Sequence[NamedEdit],
    driving: Sequence[FaceParameters],
    take: Sequence[str],
    report: Any,
) -> None:
    """All edits of one identity → its record."""
    identity = committed(job.identity)
    source = read_parameters({name: identity.read(name) for name in ("params.npy", "texture.png")})
    face = mapper.estimator.model
    wanted = [
        apply_edit(
            face, transfer(face, source, driving[one.frame], take) if one.frame is not None else source, one.edit
        )
        for one in edits
    ]
    size = picture_side(identity)
    maps = [mapper.estimator.maps(parameters, size) for parameters in wanted]
    photographed = mapper.estimator.maps(source, size)
    device = torch.device("cuda" if preset.edit.gpu else "cpu")
    asked = [Wanted(maps=one, film=edit.sweep) for one, edit in zip(maps, edits, strict=True)]
    if preset.edit.carry_detail:
        asked = [
            replace(one, flow=surface_flow(face, source, to, size)) for one, to in zip(asked, wanted, strict=True)
        ]
    images = draw_edits(
        lambda share: networks(share).to(device), codec, photographed_of(identity, photographed, device), asked, preset.edit,
        lambda done, place: report(done, edits[place].name),
    )  # fmt: skip
    marked = partial(provenance_of, identity, composite=shows_photograph(identity, preset.edit))
    files, listed = _files(marked, edits, images, maps, wanted)
    if job.photograph is not None:
        full = read_image(job.photograph, "the photograph")
        for entry, pixels, one in zip(listed, images, maps, strict=True):
            entry["full"] = entry["image"].replace(".png", ".full.png")
            files[entry["full"]] = mark(
                encode_png(_pasted(full, pixels, identity, one, photographed)),
                provenance_of(identity, entry["name"], composite=True),
            )
    films = _films(marked, edits, images)
    files |= dict(films.values())
    shown = [(one.name, pixels) for one, pixels in zip(edits, images, strict=True)]
    if "image.png" in identity.files:
        shown.insert(0, ("photograph", decode_png(identity.read("image.png"))))
    with_photograph = shows_photograph(identity, preset.edit) or "image.png" in identity.files
    sheet = provenance_of(identity, "contact sheet", composite=with_photograph)
    files["grid.png"] = mark(contact_sheet(shown, columns=4), sheet)
    facts = {
        "identity": job.identity, "images": listed, "films": {name: file for name, (file, _) in films.items()},
        "config": asdict(preset.edit), "take": list(take),
    }  # fmt: skip
    commit_record(job.home, files, facts)


def photographed_of(identity: Record, maps: ConditionMaps, device: torch.device) -> Photographed:
    """What an identity keeps of its photograph."""
    kept = [name for name in ("face", "semantic", "moments") if f"{name}.npy" in identity.files]
    return Photographed(
        key=str(identity.facts["lineage"]["image_sha256"])[:16],
        maps=maps,
        features={name: _feature(identity, name).to(device) for name in kept},
        image=decode_png(identity.read("image.png")) if "image.png" in identity.files else None,
    )


def driver_parameters(preset: Preset, mapper: Mapper, drivers: Sequence[Driver]) -> list[FaceParameters]:
    """Parameters of each driver photograph; those of several, the frames of a film, are smoothed over time.

    Raises:
        BadImage, RowFailed: a photograph that cannot be used, by its name.
    """
    aligner = Aligner(preset.shard) if drivers else None
    found = []
    for driver in drivers:
        aligned = aligner.align(driver.data, driver.name)  # type: ignore[union-attr]  # there are drivers
        found.append(read_parameters(mapper.maps(decode_png(aligned["image.png"]), driver.name)))
    return list(smooth_frames(found)) if len(found) > 1 else found


def read_parameters(files: Mapping[str, bytes]) -> FaceParameters:
    """The parameters of a maps sample, with their UV albedo where the estimator has one."""
    parameters = FaceParameters.from_npy(files["params.npy"])
    albedo = decode_png(files["texture.png"])
    return parameters.replaced(albedo=albedo) if albedo.shape[0] > 1 else parameters


def load_identity(identity: Record, base: InstaFace, scale: float = 1.0) -> InstaFace:
    """The base model, changed in place by what the identity changed, or by a part of it."""
    config = identity.facts["lineage"]["config"]
    adaptation = AdaptationConfig(
        kind=config["method"], rank=config["rank"], split_projection=config.get("split_projection", False),
        feed_forward=config.get("feed_forward", False),
    )  # fmt: skip
    load_adaptation(
        base, adaptation, from_safetensors(identity.read("weights.safetensors")), scale=scale,
        semantic=_feature(identity, "semantic"), face=_feature(identity, "face"),
    )  # fmt: skip
    return base


def picture_side(identity: Record) -> int:
    """Side of the identity's pictures; records written before it was noted have the picture itself."""
    noted = identity.facts.get("size")
    return int(noted) if noted is not None else decode_png(identity.read("image.png")).shape[0]


def shows_photograph(identity: Record, config: EditConfig) -> bool:
    """Whether edits keep parts of the photograph: its background, or its detail."""
    return (config.background_lock and "moments.npy" in identity.files) or (
        config.carry_detail and "image.png" in identity.files
    )


def provenance_of(identity: Record, edit: str, *, composite: bool = False) -> Provenance:
    """What a picture of an identity says about itself; digests only."""
    return Provenance(
        software=SOFTWARE,
        model=str(identity.facts["lineage"].get("base_digest", "not noted")),
        identity=digest_of({name: entry["sha256"] for name, entry in identity.files.items()}),
        edit=edit,
        composite=composite,
    )


def _feature(identity: Record, name: str) -> torch.Tensor:
    return torch.from_numpy(from_npy(identity.read(f"{name}.npy"))).float()[None]


def _masks(maps: Sequence[ConditionMaps]) -> torch.Tensor:
    return torch.from_numpy(np.stack([m.mask for m in maps]))[:, None].float()


def _pasted(
    photograph: Pixels, edited: Pixels, identity: Record, asked: ConditionMaps, photographed: ConditionMaps
) -> Pixels:
    quad = json.loads(identity.read("meta.json"))["quad"]
    if quad is None:  # the photograph was the aligned square itself
        height, width = photograph.shape[:2]
        quad = np.array([[0, 0], [0, height], [width, height], [width, 0]]) - 0.5
    region = head_region(_masks([asked]), _masks([photographed]), size=edited.shape[:2])
    return paste_back(photograph, edited, quad, region[0, 0].numpy() > 0)


def _files(
    marked: Callable[[str], Provenance],
    edits: Sequence[NamedEdit],
    images: Sequence[Pixels],
    maps: Sequence[ConditionMaps],
    wanted: Sequence[FaceParameters],
) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    files: dict[str, bytes] = {}
    listed = []
    for number, (one, pixels, asked, parameters) in enumerate(zip(edits, images, maps, wanted, strict=True)):
        stem = f"{number:03d}"
        files[f"{stem}.png"] = mark(encode_png(pixels), marked(one.edit.to_json()))
        files[f"{stem}.params.npy"] = parameters.to_npy()
        files |= {f"{stem}.{name}": data for name, data in asked.encode().items() if name != "mask.png"}
        listed.append(
            {"name": one.name, "image": f"{stem}.png", "render": f"{stem}.render.png", "params": f"{stem}.params.npy"}
        )
    return files, listed


def _films(
    marked: Callable[[str], Provenance], edits: Sequence[NamedEdit], images: Sequence[Pixels]
) -> dict[str, tuple[str, bytes]]:
    """File name and GIF of each sweep: there and back."""
    names = list(dict.fromkeys(one.sweep for one in edits if one.sweep is not None))
    films = {}
    for number, name in enumerate(names):
        frames = [Image.fromarray(p) for one, p in zip(edits, images, strict=True) if one.sweep == name]
        if all(one.frame is None for one in edits if one.sweep == name):
            frames += frames[-2:0:-1]
        buffer = io.BytesIO()
        frames[0].save(
            buffer, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0, disposal=1
        )
        films[name] = (f"film-{number:03d}.gif", mark(buffer.getvalue(), marked(name)))
    return films
