"""Whose pictures are evaluated: ours and its ablations, what needs no model, other models, folders of other systems."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.adaptation import scaled
from models.diffusion.editor import InstaFace
from models.diffusion.hidden_face import hide_face
from models.encoders.codec import LatentCodec, mode
from models.face3d.maps import ConditionMaps
from models.images import BadImage, read_image
from storage.canonical import sha256_of
from storage.errors import NotFound
from storage.stores import open_store
from tasks.draw_edits import Networks, Photographed, Wanted, draw_edits
from tasks.edit_config import EditConfig
from tasks.evaluation_people import Batch, Subject
from tasks.evaluation_protocols import Entry
from tasks.featurizer import map_latents
from tasks.identity_training import train_steps
from tasks.pictures import to_pixels
from tasks.preset import Preset

Pixels = NDArray[np.uint8]
Kind = Literal["copy", "paste", "truth", "codec", "model", "images"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    key: str
    """Short name, unique in an evaluation."""
    label: str
    kind: Kind
    finetune: bool = True
    """Of a model: fine-tune it on the photograph first."""
    without: Literal["", "face", "semantic"] = ""
    """Of a model: set the face embedding or the semantic tokens to zero, in fine-tune and edits."""
    hidden: bool = False
    """Of a model: hide the face from semantic tokens and maps, which show its texture, so that the face embedding alone tells who
    it is (`models.diffusion.hidden_face`)."""
    carried: bool = False
    """Of a model: carry the photograph's detail along the surface, where the preset does. Off, pictures are the model's alone:
    that is what the paper describes, and where ablations show."""
    shuffled: bool = False
    """Of a model: give every picture the maps of another picture that was asked for."""
    model: str | None = None
    """URI of another stage-1 model; None is the evaluation's own."""
    images: str | None = None
    """Folder or s3:// prefix of another system's pictures, one for each entry, by its name."""

    @property
    def is_reference(self) -> bool:
        """Made from the truth: says what the best possible pictures score, and takes no part in a comparison."""
        return self.kind in ("truth", "codec")


BUILT_IN: Mapping[str, Method] = {
    one.key: one
    for one in (
        Method(key="copy", label="copy of the source", kind="copy"),
        Method(key="paste", label="3D render pasted on the source", kind="paste"),
        Method(key="truth", label="the truth itself", kind="truth"),
        Method(key="codec", label="the truth through the codec", kind="codec"),
        Method(key="zero-shot", label="ours without fine-tune", kind="model", finetune=False, carried=True),
        Method(key="ours", label="ours", kind="model", carried=True),
        Method(key="plain", label="ours without carried detail", kind="model"),
        Method(key="no-face", label="ours without face recognition", kind="model", without="face"),
        Method(key="no-semantic", label="ours without semantic tokens", kind="model", without="semantic"),
        Method(key="hidden", label="face hidden, without fine-tune", kind="model", finetune=False, hidden=True),
        Method(
            key="hidden-no-face", label="the same without face recognition", kind="model", finetune=False, hidden=True,
            without="face",
        ),
        Method(key="shuffled", label="ours with maps of another edit", kind="model", shuffled=True),
    )
}


def other_model(name: str, uri: str, *, carried: bool = True) -> Method:
    """Another stage-1 model, fine-tuned and sampled as ours."""
    return Method(key=_key(name), label=name, kind="model", model=uri, carried=carried)


def other_images(name: str, folder: str) -> Method:
    """Pictures that another system made for the same manifest."""
    return Method(key=_key(name), label=name, kind="images", images=folder)


def _key(name: str) -> str:
    key = "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
    if not key or key in BUILT_IN:
        raise ValueError(
            f"a method cannot be named {name!r}: give letters or digits, and none of {', '.join(BUILT_IN)}"
        )
    return key


Made = Mapping[str, Pixels]
"""Pictures by the name of their entry; what another system did not make is not in it."""


class Maker:
    """Makes the pictures of methods for one person after another. Holds the base models and, for one person at a time, the
    fine-tuned ones, which several methods share."""

    def __init__(
        self, preset: Preset, codec: LatentCodec, base: Callable[[str | None], InstaFace], device: str = "cpu"
    ) -> None:
        """`base` loads a stage-1 model by its URI, None for the evaluation's own; keep them loaded there."""
        self.preset = preset
        self.codec = codec
        self.base = base
        self.device = torch.device(device)
        self._tuned: dict[tuple[str, str | None, str], tuple[InstaFace, list[float]]] = {}
        self._encoded: tuple[str, torch.Tensor] | None = None

    def make(self, method: Method, subject: Subject) -> tuple[dict[str, Pixels], dict[str, Any]]:
        """Pictures (S, S, 3) of a method by entry, and facts worth keeping (losses of a fine-tune, what is missing)."""
        names = [entry.name for entry in subject.entries]
        if method.kind == "copy":
            return dict.fromkeys(names, subject.image), {}
        if method.kind == "paste":
            return dict(zip(names, (pasted(subject, maps) for maps in subject.wanted), strict=True)), {}
        if method.kind in ("truth", "codec"):
            images = [portrait.image for portrait in subject.truths]
            if method.kind == "codec":
                images = [through_codec(self.codec, image, self.device) for image in images]
            return dict(zip(names, images, strict=bool(images))), {}
        if method.kind == "images":
            return read_images(str(method.images), subject.entries, subject.image.shape[0])
        return self._generated(method, subject)

    def _generated(self, method: Method, subject: Subject) -> tuple[dict[str, Pixels], dict[str, Any]]:
        features = {name: one.to(self.device) for name, one in subject.features.items()}
        if method.without:
            features[method.without] = torch.zeros_like(features[method.without])
        conditions = self._conditions(subject)
        if method.hidden:
            network, tokens = self.base(method.model).config, features["semantic"]
            hidden, conditions = hide_face(network, tokens.expand(len(conditions), -1, -1), conditions)
            features["semantic"] = hidden[:1]
        model, losses = self._model(method, subject, features)
        count = len(subject.entries)
        places = _shuffled(count) if method.shuffled else list(range(count))
        config = replace(self.preset.edit, carry_detail=method.carried and self.preset.edit.carry_detail)
        networks: InstaFace | Networks = model
        if method.finetune:
            networks = partial(
                scaled, self.base(method.model), model, self.preset.finetune.adaptation,
                semantic=features["semantic"], face=features["face"],
            )  # fmt: skip
        images = self._denoised(config, networks, features, subject, places, conditions)
        names = [entry.name for entry in subject.entries]
        return dict(zip(names, images, strict=True)), {"losses": losses} if method.finetune else {}

    def _model(self, method: Method, subject: Subject, features: Batch) -> tuple[InstaFace, list[float]]:
        base = self.base(method.model)
        if not method.finetune:
            return base.to(self.device).eval(), []
        key = (subject.key, method.model, method.without)
        if key not in self._tuned:
            self._tuned = {known: one for known, one in self._tuned.items() if known[0] == subject.key}
            own = copy.deepcopy(base).to(self.device).train()
            losses, _ = train_steps(self.preset.finetune, subject.key, own, features)
            self._tuned[key] = own.eval(), [round(loss, 6) for loss in losses]
        return self._tuned[key]

    def _denoised(
        self,
        config: EditConfig,
        networks: InstaFace | Networks,
        features: Batch,
        subject: Subject,
        places: Sequence[int],
        conditions: torch.Tensor,
    ) -> list[Pixels]:
        """Edits with the maps, and their latents, of the entries at `places`; guidance runs once an edit."""
        source = Photographed(key=subject.key, maps=subject.maps, features=features, image=subject.image)
        wanted = [
            Wanted(
                maps=subject.wanted[place],
                flow=subject.flow(place) if config.carry_detail else None,
                conditions=conditions[place : place + 1],
            )
            for place in places
        ]
        return draw_edits(networks, self.codec, source, wanted, config)

    def _conditions(self, subject: Subject) -> torch.Tensor:
        """Condition latents (N, 3C, h, w) of all entries: the same for every method, encoded once."""
        if self._encoded is None or self._encoded[0] != subject.key:
            latents = [map_latents(self.codec, [maps]) for maps in subject.wanted]
            self._encoded = subject.key, torch.cat(latents).to(self.device)
        return self._encoded[1]


def pasted(subject: Subject, maps: ConditionMaps) -> Pixels:
    """The Lambertian render over the photograph: what the 3D estimator alone gives."""
    render = (np.clip(maps.render, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.where(maps.mask[..., None], render, subject.image)


@torch.no_grad()
def through_codec(codec: LatentCodec, image: Pixels, device: torch.device) -> Pixels:
    """A picture encoded and decoded: no model over this codec can do better."""
    picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(device) / 127.5 - 1
    return to_pixels((codec.decode(mode(codec.moments(picture)))[0] / 2 + 0.5).clamp(0, 1))


def read_images(folder: str, entries: Sequence[Entry], side: int) -> tuple[dict[str, Pixels], dict[str, Any]]:
    """Another system's pictures for these entries; what is not there, or has another size, is told by entry."""
    found: dict[str, Pixels] = {}
    missing: dict[str, str] = {}
    for entry in entries:
        data = image_bytes(folder, entry)
        if data is None:
            missing[entry.name] = "missing"
            continue
        try:
            pixels = read_image(data, f"{folder}/{entry.name}")
        except BadImage as error:
            missing[entry.name] = str(error)
            continue
        if pixels.shape != (side, side, 3):
            missing[entry.name] = f"{pixels.shape[1]}×{pixels.shape[0]} pixels, not {side}×{side}"
            continue
        found[entry.name] = pixels
    return found, {"missing": missing}


def image_bytes(folder: str, entry: Entry) -> bytes | None:
    """The file of an entry, with any of the suffixes; None where there is none."""
    store = open_store(folder)
    for suffix in SUFFIXES:
        try:
            return store.read(f"{entry.name}{suffix}")
        except NotFound:
            continue
    return None


def images_digests(folder: str, entries: Sequence[Entry]) -> list[str]:
    """sha256 of each entry's file, "" where there is none: another content is another result."""
    read = partial(image_bytes, folder)
    return ["" if data is None else sha256_of(data) for data in map(read, entries)]


def _shuffled(count: int) -> list[int]:
    """A fixed order in which nothing stays in its place (from two pictures on)."""
    step = max(1, count // 2)
    return [(place + step) % count for place in range(count)]
