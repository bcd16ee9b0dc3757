"""A model on synthetic people it never saw: edits of one picture against the ground truth of those very edits.

The pictures of one person go through the project's own steps: parameters and maps (true, or estimated like any
photograph's), features, edits of the parameters, DDIM sampling with the background kept, the stage-2 fine-tune.
`tasks.portrait_scores` measures what comes out.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.adaptation import scaled
from models.diffusion.editor import InstaFace
from models.encoders.codec import LatentCodec, mode
from models.face3d.editing import FaceEdit, apply_edit
from models.face3d.maps import ConditionMaps
from models.face3d.surface_flow import surface_flow
from models.portraits.people import person_of
from models.portraits.portrait import Portrait, render_portrait
from models.portraits.scenes import edited, scene_of
from tasks.array_bytes import from_npy
from tasks.draw_edits import Networks, Photographed, Wanted, draw_edits
from tasks.edit_config import EditConfig, FinetuneConfig
from tasks.featurizer import Featurizer
from tasks.identity_training import train_steps
from tasks.mapper import Mapper
from tasks.pictures import to_pixels
from tasks.truth import truth_text

Pixels = NDArray[np.uint8]
Batch = dict[str, torch.Tensor]

EDITS: Mapping[str, FaceEdit] = {
    "turn left": FaceEdit(yaw=-25.0),
    "turn right": FaceEdit(yaw=25.0),
    "mouth open": FaceEdit(expressions={"mouth-open": 1.0}),
    "smile": FaceEdit(expressions={"smile": 1.0}),
    "light left": FaceEdit(light="left"),
    "light right": FaceEdit(light="right"),
    "light above": FaceEdit(light="above"),
    "light below": FaceEdit(light="below"),
}
"""What is asked of every picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    seed: int = 1000
    """Population the people are from; training uses another."""
    size: int = 256
    parameters: str = "true"
    """`true`: the portrait's own; `estimated`: as for any photograph, by the 3D estimator."""
    edit: EditConfig = field(default_factory=lambda: EditConfig(batch=4, carry_detail=True))
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        if self.parameters not in ("true", "estimated"):
            raise ValueError(f"parameters={self.parameters!r}: choose true or estimated")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """One person's picture, what is known of it, and the truth about its edits."""

    number: int
    source: Portrait
    truths: Mapping[str, Portrait]
    maps: ConditionMaps
    """Of the source, true or estimated."""
    edited: Mapping[str, Wanted]
    features: Batch
    """moments, conditions, face, semantic: one row."""

    @property
    def key(self) -> str:
        return f"portrait-{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """What the networks see through."""

    mapper: Mapper
    featurizer: Featurizer

    @property
    def codec(self) -> LatentCodec:
        return self.featurizer.codec


def meet(number: int, frozen: Frozen, config: TrialConfig) -> Subject:
    """Render a person's first scene and all its edits, and encode the picture.

    Raises:
        RowFailed: no face is found (parameters are estimated).
    """
    person, scene = person_of(config.seed, number), scene_of(config.seed, number, 0)
    source = render_portrait(person, scene, size=config.size)
    truth = truth_text(source.parameters) if config.parameters == "true" else None
    parameters, maps, mesh = frozen.mapper.face(source.image, f"portrait-{number}", truth)
    model = frozen.mapper.estimator.model
    asked = {name: apply_edit(model, parameters, edit) for name, edit in EDITS.items()}
    encoded = frozen.featurizer.features(source.image, maps, mesh)
    return Subject(
        number=number,
        source=source,
        truths={name: render_portrait(person, edited(scene, edit), size=config.size) for name, edit in EDITS.items()},
        maps=maps,
        edited={
            name: Wanted(
                maps=frozen.mapper.estimator.maps(one, config.size),
                flow=surface_flow(model, parameters, one, config.size),
            )
            for name, one in asked.items()
        },
        features={
            name.removesuffix(".npy"): torch.from_numpy(from_npy(data)).float()[None] for name, data in encoded.items()
        },
    )


def made_pictures(
    model: InstaFace | Networks,
    codec: LatentCodec,
    subject: Subject,
    config: TrialConfig,
    names: Sequence[str],
    *,
    features: Batch | None = None,
    wanted: Mapping[str, Wanted] | None = None,
) -> dict[str, Pixels]:
    """The edits called `names`, by name; "" is the unedited picture, whole from noise: nothing is locked or carried.

    `features` (face, semantic) and `wanted` take the place of the subject's own, for ablations.
    """
    if isinstance(model, InstaFace):
        model.eval()
    source = Photographed(
        key=subject.key, maps=subject.maps, features={**subject.features, **(features or {})}, image=subject.source.image
    )
    asked = [name for name in names if name]
    drawn = draw_edits(model, codec, source, [(wanted or subject.edited)[name] for name in asked], config.edit)
    pictures = dict(zip(asked, drawn, strict=True))
    if "" in names:
        bare = replace(config.edit, background_lock=False, carry_detail=False)
        (pictures[""],) = draw_edits(model, codec, source, [Wanted(maps=subject.maps)], bare)
    return {name: pictures[name] for name in names}


def tuned(model: InstaFace, subject: Subject, config: TrialConfig) -> tuple[InstaFace, list[float]]:
    """A copy of the model fine-tuned on the subject's picture, and the losses by step."""
    own = copy.deepcopy(model).train()
    losses, _ = train_steps(config.finetune, subject.key, own, subject.features)
    return own.eval(), losses


def partly_tuned(model: InstaFace, own: InstaFace, subject: Subject, config: TrialConfig) -> Networks:
    """What edits use: the base with a share of what the fine-tuned one learned."""
    features = {name: subject.features[name] for name in ("semantic", "face")}
    return lambda share: scaled(model, own, config.finetune.adaptation, share, **features)


def baselines(subject: Subject, codec: LatentCodec) -> dict[str, dict[str, Pixels]]:
    """Pictures that need no model: the source itself, the 3D render pasted on it, the truth through the codec alone."""
    copied = dict.fromkeys(EDITS, subject.source.image)
    pasted = {}
    for name, wanted in subject.edited.items():
        maps = wanted.maps
        render = (np.clip(maps.render, 0, 1) * 255 + 0.5).astype(np.uint8)
        pasted[name] = np.where(maps.mask[..., None], render, subject.source.image)
    ceiling = {name: through_codec(codec, portrait.image) for name, portrait in subject.truths.items()}
    return {"copy of the source": copied, "render pasted on it": pasted, "codec alone": ceiling}


@torch.no_grad()
def through_codec(codec: LatentCodec, image: Pixels) -> Pixels:
    """A picture encoded and decoded."""
    picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return to_pixels((codec.decode(mode(codec.moments(picture)))[0] / 2 + 0.5).clamp(0, 1))
