"""What an evaluation asks for: protocols as presets, and seeded manifests that any system can be run against.

A manifest names sources, and for every picture to be made an edit in numbers or a driver photograph. It depends on the
protocol's seed and on who a person is, not on how many there are: the people of a small protocol have the same edits in
a larger one, so results are shared.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from models.face3d.editing import FaceEdit
from models.face3d.lighting import ambient_light, directional_light
from models.portraits.scenes import YAW, scene_of
from models.rng import numpy_generator
from storage.canonical import canonical_json, digest_of, sha256_of
from tasks.portraits import parse_portraits
from tasks.sources import PORTRAITS, Photo, list_photos, read_photo

Mode = Literal["pose", "expression", "light"]
MODES: tuple[Mode, ...] = ("pose", "expression", "light")
FORMAT = 1
TRAINED_ON = (0, 1)
"""Seeds of the synthetic populations of docs/tiny.md."""
HELD_OUT = 1000
"""Seed of the synthetic population that no training sees."""
_FARTHEST_YAW, _LEAST_TURN = 35.0, 10.0
_FACES = ("smile", "laugh", "surprise", "anger", "sadness", "disgust", "mouth-open", "kiss", "blink")


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    name: str
    purpose: str
    people: int
    each: int
    """Pictures of a person in each of the three modes."""
    methods: tuple[str, ...]
    """Keys of tasks.evaluation_methods.BUILT_IN."""
    modes: tuple[Mode, ...] = MODES
    seed: int = 0

    @property
    def images(self) -> int:
        return self.people * self.each * len(self.modes)

    def __post_init__(self) -> None:
        if self.people < 1 or self.each < 1:
            raise ValueError(f"people={self.people}, each={self.each}: at least 1 is needed")


PROTOCOLS: Mapping[str, Protocol] = {
    one.name: one
    for one in (
        Protocol(
            name="smoke", purpose="does every part run?", people=2, each=2,
            methods=("copy", "paste", "truth", "zero-shot", "ours"),
        ),
        Protocol(
            name="table1", purpose="quality and identity: 400 images each of novel pose, expression and light",
            people=100, each=4, methods=("copy", "paste", "truth", "codec", "zero-shot", "plain", "ours"),
        ),
        Protocol(
            name="table2", purpose="control: re-inference error over 1,200 images", people=100, each=4,
            methods=("copy", "paste", "truth", "zero-shot", "plain", "ours"),
        ),
        Protocol(
            name="table3", purpose="ablations over 600 images", people=50, each=4,
            methods=("copy", "truth", "plain", "no-face", "no-semantic", "shuffled"),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One source picture."""

    id: str
    store: str
    """Folder or prefix the picture lies in, or the population of synthetic portraits."""
    name: str
    sha256: str
    portrait: tuple[int, int, int] | None = None
    """Seed, person and picture of a synthetic portrait; its edits have a ground truth."""
    aligned: bool = False

    @property
    def photo(self) -> Photo:
        return Photo(store_uri=self.store, name=self.name, sha256=self.sha256, aligned=self.aligned)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One picture to be made: `edit` in numbers, or `take` something from the person `driver`."""

    name: str
    """The picture's file name without suffix."""
    person: str
    mode: Mode
    edit: Mapping[str, Any] | None = None
    driver: str | None = None
    take: tuple[str, ...] = ()

    @property
    def face_edit(self) -> FaceEdit:
        return FaceEdit() if self.edit is None else FaceEdit.from_json(json.dumps(self.edit))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationManifest:
    protocol: str
    seed: int
    source: str
    """What was given for the sources, for people to read."""
    people: tuple[Person, ...]
    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """Of who is edited how; not of where the pictures lie."""
        who = [[one.id, one.sha256] for one in self.people]
        return digest_of([FORMAT, self.seed, who, [asdict(entry) for entry in self.entries]])

    @property
    def has_truth(self) -> bool:
        return all(one.portrait is not None for one in self.people)

    def person(self, identifier: str) -> Person:
        return next(one for one in self.people if one.id == identifier)

    def entries_of(self, person: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.person == person)

    def to_json(self) -> bytes:
        """`from_json` gives an equal manifest."""
        return canonical_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "EvaluationManifest":
        """Raises: ValueError for anything else, or a manifest of another format."""
        values = json.loads(data)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(
                f"this is no evaluation manifest of format {FORMAT}: `instaface evaluate manifest` writes one"
            )
        try:
            people = tuple(
                Person(**{**one, "portrait": None if one["portrait"] is None else tuple(one["portrait"])})
                for one in values["people"]
            )
            entries = tuple(Entry(**{**one, "take": tuple(one["take"])}) for one in values["entries"])
            manifest = cls(
                protocol=values["protocol"], seed=values["seed"], source=values["source"], people=people, entries=entries
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the manifest is damaged ({type(error).__name__}: {error}): write it anew") from error
        manifest.check()
        return manifest

    def check(self) -> None:
        """Raises: ValueError for nobody, an entry of nobody or driven by nobody, or a name given twice."""
        known = {one.id for one in self.people}
        if not self.people or not self.entries or len(known) != len(self.people):
            raise ValueError("the manifest needs people with different ids, and entries")
        names = [entry.name for entry in self.entries]
        for entry in self.entries:
            if entry.person not in known or entry.driver not in (None, *known) or entry.mode not in MODES:
                raise ValueError(
                    f"the manifest's entry {entry.name!r} is of person {entry.person!r}, driver {entry.driver!r} and mode "
                    f"{entry.mode!r}: people must be listed, modes are {', '.join(MODES)}"
                )
            entry.face_edit  # noqa: B018 - raises ValueError for an edit that cannot be
        if len(set(names)) != len(names):
            raise ValueError("the manifest names two entries alike")


def protocol_of(name: str, *, people: int | None = None, each: int | None = None) -> Protocol:
    """A protocol, of another size where one is given. Raises ValueError for a name that is none."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol={name!r}: choose one of {', '.join(PROTOCOLS)}")
    changes = {key: value for key, value in (("people", people), ("each", each)) if value is not None}
    return replace(PROTOCOLS[name], **changes)  # type: ignore[arg-type]


def build_manifest(protocol: Protocol, source: str | None = None) -> EvaluationManifest:
    """Draw the edits of a protocol; equal arguments give equal manifests.

    `source` is `portraits:…@SEED` (edits in numbers, with a ground truth), or a folder of photographs, each of another
    person (driven by one another, as in the paper); by default synthetic people no training sees.

    Raises:
        NoPhotos: no picture there. ValueError: fewer people than the protocol asks for.
    """
    source = source or f"{PORTRAITS}{protocol.people}x1@{HELD_OUT}"
    synthetic = source.startswith(PORTRAITS)
    photos = [one for one in list_photos(source) if not synthetic or one.name.endswith("-0000.png")]
    if synthetic:
        _check_population(source)
    held_out = [one for one in photos if one.split != "train"]  # of FFHQ's numbers; other folders have no splits
    photos = held_out if len(held_out) >= protocol.people else photos
    if any(one.member for one in photos):
        raise ValueError(f"source={source!r} has photographs inside archives: unpack them for an evaluation")
    if not synthetic and protocol.people < 2:
        raise ValueError(f"people={protocol.people}: photographs drive one another, so at least 2 are needed")
    people = _portraits(photos, protocol.people, source) if synthetic else _distinct(photos, protocol.people)
    if len(people) < protocol.people:
        raise ValueError(
            f"source={source!r} has {len(people)} people and the protocol {protocol.name} asks for {protocol.people}: give "
            f"people={len(people)} or more photographs"
        )
    entries = [
        _entry(protocol, people, place, mode, number)
        for place in range(len(people))
        for mode in protocol.modes
        for number in range(protocol.each)
    ]
    return EvaluationManifest(
        protocol=protocol.name, seed=protocol.seed, source=source, people=people, entries=tuple(entries)
    )


def _check_population(source: str) -> None:
    population = parse_portraits(source)
    if population.seed in TRAINED_ON:
        raise ValueError(
            f"source={source!r} are people that tiny was trained on (seed {population.seed}): take another seed, such as "
            f"@{HELD_OUT}"
        )
    if population.yaw != YAW:
        raise ValueError(
            f"source={source!r} turns heads by up to {population.yaw} degrees, and an evaluation asks for its own turns: leave "
            f"~{population.yaw} out"
        )


def _portraits(photos: Sequence[Photo], wanted: int, source: str) -> tuple[Person, ...]:
    seed = parse_portraits(source).seed
    return tuple(
        Person(
            id=f"{seed}-{number:04d}",
            store=photo.store_uri,
            name=photo.name,
            sha256=photo.sha256,
            portrait=(seed, number, 0),
            aligned=photo.aligned,
        )
        for number, photo in enumerate(photos[:wanted])
    )


def _distinct(photos: Sequence[Photo], wanted: int) -> tuple[Person, ...]:
    """The first photographs of different bytes, fewer where there are no more. They are read: what tells photographs of a
    listing apart need not be their bytes (`tasks.sources`), and a manifest is checked against its sha256 wherever it is run."""
    found: dict[str, Photo] = {}
    for photo in photos:
        found.setdefault(sha256_of(read_photo(photo)), photo)
        if len(found) == wanted:
            break
    return tuple(
        Person(id=sha256[:16], store=photo.store_uri, name=photo.name, sha256=sha256, aligned=photo.aligned)
        for sha256, photo in found.items()
    )


def _entry(protocol: Protocol, people: Sequence[Person], place: int, mode: Mode, number: int) -> Entry:
    person = people[place]
    rng = numpy_generator("evaluation", protocol.seed, person.id, mode, number)
    name = f"{person.id}-{mode}-{number}"
    if person.portrait is None:
        other = people[(place + 1 + int(rng.integers(len(people) - 1))) % len(people)]
        return Entry(name=name, person=person.id, mode=mode, driver=other.id, take=(mode,))
    draw = {"pose": _pose, "expression": _expression, "light": _light}[mode]
    return Entry(name=name, person=person.id, mode=mode, edit=draw(rng, person.portrait))


def _pose(rng: np.random.Generator, portrait: tuple[int, int, int]) -> dict[str, Any]:
    """A head turned by at least 10° to a yaw of at most 35°, and nodding."""
    scene = scene_of(*portrait)
    while True:
        yaw = float(rng.uniform(-_FARTHEST_YAW, _FARTHEST_YAW)) - scene.yaw
        if abs(yaw) >= _LEAST_TURN:
            break
    pitch = float(rng.uniform(-12, 12)) - scene.pitch
    return {"yaw": round(yaw, 2), "pitch": round(pitch, 2)}


def _expression(rng: np.random.Generator, portrait: tuple[int, int, int]) -> dict[str, Any]:
    """Two named expressions, one of them weak."""
    first, second = rng.choice(len(_FACES), size=2, replace=False)
    strong, weak = float(rng.uniform(0.6, 1.0)), float(rng.uniform(0.0, 0.3))
    return {"expressions": {_FACES[int(first)]: round(strong, 3), _FACES[int(second)]: round(weak, 3)}}


def _light(rng: np.random.Generator, portrait: tuple[int, int, int]) -> dict[str, Any]:
    """A light from anywhere in front, over some ambient; brightness and colour stay the photograph's."""
    azimuth, height = np.radians(rng.uniform(-90, 90)), np.radians(rng.uniform(-40, 60))
    towards = (np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height))
    ambient = float(rng.uniform(0.2, 0.5))
    light = ambient_light(ambient) + directional_light(towards, 1 - ambient)
    return {"light": [[round(float(value), 4) for value in row] for row in light]}
