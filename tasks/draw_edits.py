"""Condition maps of edits → pictures: tokens, sampling in batches, the background kept, the photograph's detail carried."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.editor import InstaFace
from models.diffusion.sampling import BackgroundLock, head_region, sample
from models.encoders.codec import LatentCodec, mode
from models.face3d.detail_carry import carry_detail
from models.face3d.maps import ConditionMaps
from models.face3d.surface_flow import SurfaceFlow
from tasks.edit_config import EditConfig
from tasks.featurizer import map_latents
from tasks.pictures import to_pixels

Pixels = NDArray[np.uint8]


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


@torch.no_grad()
def draw_edits(
    model: InstaFace,
    codec: LatentCodec,
    source: Photographed,
    wanted: Sequence[Wanted],
    config: EditConfig,
    report: Callable[[int], None] = lambda done: None,
) -> list[Pixels]:
    """One picture (S, S, 3) an edit, `config.batch` of them at a time; `report` hears how many are done."""
    device = source.features["face"].device
    tokens = model.tokens(source.features["semantic"], source.features["face"])
    guiding = model.guidance_tokens(source.features["semantic"], source.features["face"], tokens)
    moments = source.features.get("moments")
    photographed = map_latents(codec, [source.maps]).to(device)
    guided = config.reference_scale != 1

    def drawn(conditions: torch.Tensor, lock: BackgroundLock | None) -> list[Pixels]:
        made = sample(
            model, codec, conditions, tokens, keys=[source.key] * len(conditions), seed=config.seed, steps=config.steps,
            solver=config.solver,  # type: ignore[arg-type]  # checked by EditConfig
            guidance_tokens=guiding, lock=lock, reference=photographed if guided else None,
            reference_scale=config.reference_scale,
        )  # fmt: skip
        return [to_pixels(one) for one in made]

    rebuilt: Pixels | None = None
    if config.carry_detail and source.image is not None and any(one.flow is not None for one in wanted):
        (rebuilt,) = drawn(photographed, None)
    images: list[Pixels] = []
    for start in range(0, len(wanted), config.batch):
        some = wanted[start : start + config.batch]
        latents = [map_latents(codec, [one.maps]) if one.conditions is None else one.conditions for one in some]
        locked = config.background_lock and moments is not None
        lock = _lock(source, [one.maps for one in some]) if locked else None
        for one, picture in zip(some, drawn(torch.cat(latents).to(device), lock), strict=True):
            if rebuilt is not None and source.image is not None and one.flow is not None:
                picture = carry_detail(
                    picture, rebuilt, source.image, one.flow, source.maps, one.maps,
                    keep_background=config.background_lock,
                )  # fmt: skip
            images.append(picture)
        report(len(images))
    return images


def _lock(source: Photographed, edited: Sequence[ConditionMaps]) -> BackgroundLock:
    moments = source.features["moments"]
    size = (moments.shape[-2], moments.shape[-1])
    before = _masks([source.maps]).expand(len(edited), -1, -1, -1)
    return BackgroundLock(source=mode(moments), free=head_region(before, _masks(edited), size=size).to(moments))


def _masks(maps: Sequence[ConditionMaps]) -> torch.Tensor:
    return torch.from_numpy(np.stack([one.mask for one in maps]))[:, None].float()
