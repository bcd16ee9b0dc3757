"""Condition maps of edits → pictures: tokens, sampling in batches, the background kept, the photograph's detail carried."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.editor import InstaFace
from models.diffusion.sampling import BackgroundLock, head_region, sample
from models.encoders.codec import LatentCodec, mode
from models.face3d.detail_carry import carry_detail, turned_or_lit, turns
from models.face3d.maps import ConditionMaps
from models.face3d.surface_flow import SurfaceFlow
from tasks.edit_config import EditConfig
from tasks.featurizer import map_latents
from tasks.pictures import to_pixels

Pixels = NDArray[np.uint8]
Networks = Callable[[float], InstaFace]
"""The networks with a share of what a fine-tune changed: 0 is the base model, 1 the fine-tuned one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Photographed:
    """What is known of the photograph that is edited."""

    key: str
    """Names the noise: the same for all edits."""
    maps: ConditionMaps
    features: Mapping[str, torch.Tensor]
    """face (1, F), semantic (1, L, D) and, for the background lock, moments (1, 2C, h, w)."""
    image: Pixels | None
    """(S, S, 3); None where it was not kept: then no detail can be carried."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Wanted:
    """One edit."""

    maps: ConditionMaps
    flow: SurfaceFlow | None = None
    """To the photograph, from the parameters of both; without it no detail is carried."""
    conditions: torch.Tensor | None = None
    """(1, 3C, h, w) latents of the maps, where they are encoded already."""
    film: str | None = None
    """Frames of one film are drawn by the same networks."""


@torch.no_grad()
def draw_edits(
    networks: InstaFace | Networks,
    codec: LatentCodec,
    source: Photographed,
    wanted: Sequence[Wanted],
    config: EditConfig,
    report: Callable[[int, int], None] = lambda done, place: None,
) -> list[Pixels]:
    """One picture (S, S, 3) an edit. `report` hears how many are done, and the place of the last of them in `wanted`.

    Raises ValueError for a `guidance_scale` that the model was not trained for.

    `networks` are one model for all edits, or the fine-tuned ones by how much of the fine-tune an edit uses.
    """
    images: dict[int, Pixels] = {}
    turned = _turned(source, wanted, config)
    scales = [1.0] * len(wanted) if isinstance(networks, InstaFace) else _scales(source, wanted, config)
    for scale in dict.fromkeys(scales):
        places = [place for place, one in enumerate(scales) if one == scale]
        model = networks if isinstance(networks, InstaFace) else networks(scale)
        rebuilt = _rebuilt(model, codec, source, [wanted[place] for place in places], config)
        for start in range(0, len(places), config.batch):
            some = places[start : start + config.batch]
            made = _drawn(
                model, codec, source, [wanted[place] for place in some], config, rebuilt, [turned[place] for place in some]
            )
            images |= dict(zip(some, made, strict=True))
            report(len(images), some[-1])
        del model  # before the next one is made: two do not fit everywhere
    return [images[place] for place in range(len(wanted))]


def _scales(source: Photographed, wanted: Sequence[Wanted], config: EditConfig) -> list[float]:
    """How much of the fine-tune each edit uses."""
    carried = config.carry_detail and source.image is not None
    strong = [
        carried and one.flow is not None and turned_or_lit(one.flow, source.maps, one.maps) for one in wanted
    ]
    return [config.scale(turned_or_lit=strongly) for strongly in _alike_in_films(wanted, strong)]


def _turned(source: Photographed, wanted: Sequence[Wanted], config: EditConfig) -> list[bool]:
    """Which edits turn a head whose detail is carried: long hair turns with it, so the background is not locked. What is drawn as
    for the photograph stays all the same (`carry_detail`)."""
    carried = config.carry_detail and source.image is not None
    return _alike_in_films(wanted, [carried and one.flow is not None and turns(one.flow) for one in wanted])


def _alike_in_films(wanted: Sequence[Wanted], told: Sequence[bool]) -> list[bool]:
    """What is told of one frame holds for all of its film, which otherwise would jump."""
    films = {one.film for one, yes in zip(wanted, told, strict=True) if yes} - {None}
    return [yes or one.film in films for one, yes in zip(wanted, told, strict=True)]


def _rebuilt(
    model: InstaFace, codec: LatentCodec, source: Photographed, wanted: Sequence[Wanted], config: EditConfig
) -> Pixels | None:
    """The photograph drawn from its own maps, (S, S, 3), where an edit needs it to carry detail."""
    if not config.carry_detail or source.image is None or all(one.flow is None for one in wanted):
        return None
    return _sampled(model, codec, source, map_latents(codec, [source.maps]), config, None)[0]


def _drawn(
    model: InstaFace,
    codec: LatentCodec,
    source: Photographed,
    wanted: Sequence[Wanted],
    config: EditConfig,
    rebuilt: Pixels | None,
    turned: Sequence[bool],
) -> list[Pixels]:
    """One batch."""
    latents = [map_latents(codec, [one.maps]) if one.conditions is None else one.conditions for one in wanted]
    locked = config.background_lock and "moments" in source.features
    lock = _lock(source, [one.maps for one in wanted], turned) if locked and not all(turned) else None
    images = []
    drawn = _sampled(model, codec, source, torch.cat(latents), config, lock)
    for one, picture, turning in zip(wanted, drawn, turned, strict=True):
        if rebuilt is not None and source.image is not None and one.flow is not None:
            picture = carry_detail(
                picture, rebuilt, source.image, one.flow, source.maps, one.maps,
                keep_background=config.background_lock, turned=turning,
            )  # fmt: skip
        images.append(picture)
    return images


def _sampled(
    model: InstaFace,
    codec: LatentCodec,
    source: Photographed,
    conditions: torch.Tensor,
    config: EditConfig,
    lock: BackgroundLock | None,
) -> list[Pixels]:
    """Pictures (S, S, 3) of condition latents (B, 3C, h, w), as the networks draw them."""
    device = source.features["face"].device
    semantic, face = source.features["semantic"], source.features["face"]
    tokens = model.tokens(semantic, face)
    guided = config.reference_scale != 1
    if config.guidance_scale != 1 and model.config.condition_dropout == 0:
        raise ValueError(
            f"guidance_scale={config.guidance_scale}: this model was trained without condition_dropout and does not know what "
            "it draws without conditions; leave guidance_scale at 1, or train with changes={'condition_dropout': 0.1}"
        )
    made = sample(
        model, codec, conditions.to(device), tokens, keys=[source.key] * len(conditions), seed=config.seed,
        steps=config.steps, solver=config.solver,  # type: ignore[arg-type]  # checked by EditConfig
        guidance_tokens=model.guidance_tokens(semantic, face, tokens), lock=lock,
        reference=map_latents(codec, [source.maps]).to(device) if guided else None,
        reference_scale=config.reference_scale, guidance_scale=config.guidance_scale,
    )  # fmt: skip
    return [to_pixels(one) for one in made]


def _lock(source: Photographed, edited: Sequence[ConditionMaps], turned: Sequence[bool]) -> BackgroundLock:
    """The background of the photograph, of edits that do not turn the head."""
    moments = source.features["moments"]
    size = (moments.shape[-2], moments.shape[-1])
    before = _masks([source.maps]).expand(len(edited), -1, -1, -1)
    free = head_region(before, _masks(edited), size=size).to(moments)
    return BackgroundLock(source=mode(moments), free=free.maximum(torch.tensor(turned).view(-1, 1, 1, 1).to(free)))


def _masks(maps: Sequence[ConditionMaps]) -> torch.Tensor:
    return torch.from_numpy(np.stack([one.mask for one in maps]))[:, None].float()
