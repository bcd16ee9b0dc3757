"""One person of an evaluation: the picture, its face and features, what is asked of it, and the truth where there is one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from models.face3d.editing import apply_edit, transfer
from models.face3d.maps import ConditionMaps
from models.face3d.morphable import MorphableModel
from models.face3d.parameters import FaceParameters
from models.face3d.surface_flow import SurfaceFlow, surface_flow
from models.images import BadImage, decode_png
from models.portraits.people import person_of
from models.portraits.portrait import Portrait, render_portrait
from models.portraits.scenes import edited, scene_of
from storage.canonical import sha256_of
from tasks.aligner import Aligner
from tasks.array_bytes import from_npy
from tasks.evaluation_protocols import Entry, EvaluationManifest, Person
from tasks.featurizer import Featurizer
from tasks.mapper import Mapper
from tasks.preset import Preset
from tasks.rows import RowFailed
from tasks.sources import read_photo
from tasks.truth import truth_text

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A person, prepared: everything that methods and measures need."""

    person: Person
    entries: tuple[Entry, ...]
    """Those that can be made."""
    unusable: Mapping[str, str]
    """Why not the others, by entry: the photograph of the driver."""
    image: Pixels
    """The aligned photograph."""
    model: MorphableModel
    parameters: FaceParameters
    """Of the photograph."""
    maps: ConditionMaps
    asked: tuple[FaceParameters, ...]
    """What each entry asks for."""
    wanted: tuple[ConditionMaps, ...]
    """Its condition maps."""
    features: Batch
    """moments, conditions, face, semantic: one row."""
    head: Mask | None
    """Pixels of head and hair; None where nobody knows."""
    truths: tuple[Portrait, ...]
    """Ground truth of each entry, of synthetic people; else empty."""

    @property
    def key(self) -> str:
        """Names the noise: the same for all edits of the person."""
        return self.person.sha256[:16]

    def flow(self, place: int) -> SurfaceFlow:
        """From the edit of an entry to the photograph."""
        return surface_flow(self.model, self.parameters, self.asked[place], self.image.shape[0])


class Preparation:
    """Photograph → Subject. Holds estimator and encoders."""

    def __init__(self, preset: Preset, parameters: str, device: str = "cpu") -> None:
        """`parameters`: `true` takes those that synthetic portraits are known to have, `estimated` never does."""
        self.preset = preset
        self.parameters = parameters
        self.mapper = Mapper(replace(preset.extract, truth=True, estimated_share=0.0), device)
        self.featurizer = Featurizer(preset.encode, device)
        self.aligner = Aligner(preset.shard)
        self._driver: Callable[[Person], FaceParameters | str] = lru_cache(maxsize=4096)(self._driver_parameters)

    def subject(self, manifest: EvaluationManifest, person: Person, truths: bool = True) -> Subject:
        """Raises: RowFailed, BadImage: the photograph cannot be used. ValueError, NotFound: it is another one by now, or gone."""
        image, head, truth = self._picture(person)
        source, maps, mesh = self.mapper.face(image, person.id, truth)
        model, size = self.mapper.estimator.model, image.shape[0]
        asked, usable, unusable = [], [], {}
        for entry in manifest.entries_of(person.id):
            driven = source
            if entry.driver is not None:
                driver = self._driver(manifest.person(entry.driver))
                if isinstance(driver, str):
                    unusable[entry.name] = f"the driver {entry.driver}: {driver}"
                    continue
                driven = transfer(model, source, driver, entry.take)
            usable.append(entry)
            asked.append(apply_edit(model, driven, entry.face_edit))
        if not usable:
            raise RowFailed("no_driver", next(iter(unusable.values()), "nothing is asked of this person"))
        entries = tuple(usable)
        encoded = self.featurizer.features(image, maps, mesh)
        return Subject(
            person=person,
            entries=entries,
            unusable=unusable,
            image=image,
            model=model,
            parameters=source,
            maps=maps,
            asked=tuple(asked),
            wanted=tuple(self.mapper.estimator.maps(one, size) for one in asked),
            features=feature_batch(encoded),
            head=head,
            truths=true_pictures(person, entries, size) if truths else (),
        )

    def _picture(self, person: Person) -> tuple[Pixels, Mask | None, str | None]:
        if person.portrait is not None:
            portrait = render_portrait(
                person_of(*person.portrait[:2]), scene_of(*person.portrait), size=self.preset.shard.size
            )
            truth = truth_text(portrait.parameters) if self.parameters == "true" else None
            return portrait.image, portrait.head, truth
        data = read_photo(person.photo)
        if sha256_of(data) != person.sha256:
            raise ValueError(
                f"{person.photo.source} is no longer the photograph that the manifest names ({person.sha256[:12]}): restore it, "
                "or draw a new manifest"
            )
        aligned = self.aligner.align(data, person.photo.source, aligned=person.aligned)
        return decode_png(aligned["image.png"]), None, None

    def _driver_parameters(self, person: Person) -> FaceParameters | str:
        """Or why there are none."""
        try:
            image, _, truth = self._picture(person)
            return self.mapper.face(image, person.id, truth)[0]
        except (RowFailed, BadImage) as error:
            return str(error)


def true_pictures(person: Person, entries: Sequence[Entry], size: int) -> tuple[Portrait, ...]:
    """The very edits, rendered; nothing for photographs, whose truth nobody knows."""
    if person.portrait is None:
        return ()
    someone, scene = person_of(*person.portrait[:2]), scene_of(*person.portrait)
    return tuple(render_portrait(someone, edited(scene, entry.face_edit), size=size) for entry in entries)


def feature_batch(encoded: Mapping[str, bytes]) -> Batch:
    """Features of one sample → tensors of one row."""
    return {name.removesuffix(".npy"): torch.from_numpy(from_npy(data)).float()[None] for name, data in encoded.items()}
