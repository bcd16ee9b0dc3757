"""A model on synthetic people it never saw: edits of one picture against the ground truth of those very edits.

The pictures of one person go through the project's own steps: parameters and maps (true, or estimated like any
photograph's), features, edits of the parameters, DDIM sampling with the background kept, the stage-2 fine-tune.
`tasks.portrait_scores` measures what comes out.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.editor import InstaFace
from models.diffusion.sampling import BackgroundLock, head_region, sample
from models.encoders.codec import LatentCodec, mode
from models.face3d.editing import FaceEdit, apply_edit
from models.face3d.maps import ConditionMaps
from models.portraits.people import person_of
from models.portraits.portrait import Portrait, render_portrait
from models.portraits.scenes import edited, scene_of
from tasks.array_bytes import from_npy
from tasks.edit_config import FinetuneConfig
from tasks.featurizer import Featurizer, map_latents
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
    steps: int = 20
    background_lock: bool = True
    batch: int = 4
    """Edits denoised together."""
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
    edited: Mapping[str, ConditionMaps]
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
        edited={name: frozen.mapper.estimator.maps(one, config.size) for name, one in asked.items()},
        features={
            name.removesuffix(".npy"): torch.from_numpy(from_npy(data)).float()[None] for name, data in encoded.items()
        },
    )


@torch.no_grad()
def made_pictures(
    model: InstaFace,
    codec: LatentCodec,
    subject: Subject,
    config: TrialConfig,
    names: Sequence[str],
    *,
    features: Batch | None = None,
    conditions: Mapping[str, ConditionMaps] | None = None,
) -> dict[str, Pixels]:
    """The edits called `names`, by name; "" is the unedited picture, whole from noise: nothing of it is locked.

    `features` (face, semantic) and `conditions` take the place of the subject's own, for ablations.
    """
    model.eval()
    seen = features or subject.features
    tokens = model.tokens(seen["semantic"], seen["face"])
    guiding = model.guidance_tokens(seen["semantic"], seen["face"], tokens)
    maps = {"": subject.maps, **subject.edited}
    pictures: dict[str, Pixels] = {}
    asked = [name for name in names if name]
    groups = [asked[start : start + config.batch] for start in range(0, len(asked), config.batch)]
    for some in [[""], *groups] if "" in names else groups:
        shown = [(conditions or maps)[name] for name in some]
        made = sample(
            model,
            codec,
            map_latents(codec, shown),
            tokens,
            keys=[subject.key] * len(some),
            steps=config.steps,
            guidance_tokens=guiding,
            lock=_lock(subject, [maps[name] for name in some]) if config.background_lock and some != [""] else None,
        )
        pictures |= {name: to_pixels(one) for name, one in zip(some, made, strict=True)}
    return {name: pictures[name] for name in names}


def tuned(model: InstaFace, subject: Subject, config: TrialConfig) -> tuple[InstaFace, list[float]]:
    """A copy of the model fine-tuned on the subject's picture, and the losses by step."""
    own = copy.deepcopy(model).train()
    losses, _ = train_steps(config.finetune, subject.key, own, subject.features)
    return own.eval(), losses


def baselines(subject: Subject, codec: LatentCodec) -> dict[str, dict[str, Pixels]]:
    """Pictures that need no model: the source itself, the 3D render pasted on it, the truth through the codec alone."""
    copied = dict.fromkeys(EDITS, subject.source.image)
    pasted = {}
    for name, maps in subject.edited.items():
        render = (np.clip(maps.render, 0, 1) * 255 + 0.5).astype(np.uint8)
        pasted[name] = np.where(maps.mask[..., None], render, subject.source.image)
    ceiling = {name: through_codec(codec, portrait.image) for name, portrait in subject.truths.items()}
    return {"copy of the source": copied, "render pasted on it": pasted, "codec alone": ceiling}


@torch.no_grad()
def through_codec(codec: LatentCodec, image: Pixels) -> Pixels:
    """A picture encoded and decoded."""
    picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return to_pixels((codec.decode(mode(codec.moments(picture)))[0] / 2 + 0.5).clamp(0, 1))


def _lock(subject: Subject, shown: Sequence[ConditionMaps]) -> BackgroundLock:
    moments = subject.features["moments"]
    size = (moments.shape[-2], moments.shape[-1])
    source = torch.from_numpy(subject.maps.mask)[None, None].float().expand(len(shown), -1, -1, -1)
    masks = torch.from_numpy(np.stack([maps.mask for maps in shown]))[:, None].float()
    return BackgroundLock(source=mode(moments), free=head_region(source, masks, size=size))
