"""Synthetic portraits as a source of photographs: listed without rendering, rendered when they are read."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from models.face3d.parameters import FaceParameters
from models.images import encode_png
from models.portraits.people import Person, person_of
from models.portraits.portrait import GENERATOR_DIGEST, render_portrait
from models.portraits.scenes import MAX_YAW, YAW, Scene, scene_of, scene_parameters
from models.portraits.skin import albedo_of
from storage.canonical import canonical_json, sha256_of
from tasks.sources import PORTRAITS, NoPhotos, Photo

DEFAULT_SIZE = 256
MAX_PORTRAITS = 10_000_000
_FORM = "portraits:PEOPLExPICTURES[@SEED][/SIZE][~YAW]"
_SPEC = re.compile(
    r"portraits:(?P<people>\d+)x(?P<pictures>\d+)(@(?P<seed>\d+))?(/(?P<size>\d+))?(~(?P<yaw>\d+))?"
)
_STORE = re.compile(r"portraits:@(?P<seed>\d+)/(?P<size>\d+)(~(?P<yaw>\d+))?")
_NAME = re.compile(r"(?P<person>\d+)-(?P<picture>\d+)\.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class PortraitSource:
    """What `portraits:PEOPLExPICTURES[@SEED][/SIZE][~YAW]` says."""

    people: int
    pictures: int
    """Of each person."""
    seed: int = 0
    size: int = DEFAULT_SIZE
    """Pixels a side."""
    yaw: int = int(YAW)
    """Degrees that heads are turned by at most. Another one is another population of pictures, of the same people."""


def parse_portraits(spec: str) -> PortraitSource:
    """The source that a text such as `portraits:400x12@0` or `portraits:20x1@1000/128` names.

    Raises:
        NoPhotos: another text, no portrait at all, too many, a size outside 16…2048, or a yaw outside 1…75.
    """
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise NoPhotos(
            f"{spec!r} names no portraits; write {_FORM}, such as portraits:400x12@0"
        )
    given = {name: int(value) for name, value in found.groupdict().items() if value is not None}
    source = PortraitSource(**given)
    if not 1 <= source.people * source.pictures <= MAX_PORTRAITS:
        raise NoPhotos(
            f"{spec!r} asks for {source.people * source.pictures} portraits; 1 to {MAX_PORTRAITS} can be had"
        )
    if not 16 <= source.size <= 2048:
        raise NoPhotos(f"{spec!r} asks for {source.size} pixels a side; 16 to 2048 can be had")
    if not 1 <= source.yaw <= MAX_YAW:
        raise NoPhotos(f"{spec!r} turns heads by up to {source.yaw} degrees; 1 to {MAX_YAW:g} can be had")
    return source


def list_portraits(spec: str) -> list[Photo]:
    """A row for every portrait of a `portraits:` text, person by person; nothing is rendered.

    Raises:
        NoPhotos: as `parse_portraits`.
    """
    source = parse_portraits(spec)
    rows = []
    wider = [] if source.yaw == YAW else [source.yaw]  # left out where it is the usual one: rows keep their keys
    for person in range(source.people):
        for picture in range(source.pictures):
            what = [GENERATOR_DIGEST, source.seed, person, picture, *wider]
            rows.append(
                Photo(
                    store_uri=f"{PORTRAITS}@{source.seed}/{source.size}" + "".join(f"~{yaw}" for yaw in wider),
                    name=f"{person:06d}-{picture:04d}.png",
                    sha256=sha256_of(canonical_json(["portrait", *what, source.size])),
                    person=f"portrait-{source.seed}-{person}",
                    aligned=True,
                    truth=json.dumps({"portrait": what}),
                )
            )
    return rows


def read_portrait(photo: Photo) -> bytes:
    """PNG of a row of `list_portraits`.

    Raises:
        NoPhotos: a row of something else.
    """
    store, name = _STORE.fullmatch(photo.store_uri), _NAME.fullmatch(photo.name)
    if store is None or name is None:
        raise NoPhotos(f"{photo.source!r} is no portrait; rows come from list_portraits")
    seed, person, picture = int(store["seed"]), int(name["person"]), int(name["picture"])
    scene = scene_of(seed, person, picture, yaw=float(store["yaw"] or YAW))
    return encode_png(render_portrait(_person(seed, person), scene, size=int(store["size"])).image)


def portrait_truth(what: list[str | int]) -> FaceParameters:
    """The exact parameters behind a row's `truth`: [generator digest, seed, person, picture, yaw where not the usual].

    Raises:
        ValueError: the row was listed by another version of the generator, whose portraits looked otherwise.
    """
    digest, seed, person = what[:3]
    if digest != GENERATOR_DIGEST:
        raise ValueError(
            f"portrait of the generator {digest}; this one is {GENERATOR_DIGEST}: render the portraits again"
        )
    one = _person(int(seed), int(person))
    return scene_parameters(one, portrait_scene(what), albedo_of(one))


def portrait_scene(what: list[str | int]) -> Scene:
    """The scene behind a row's `truth`, as `portrait_truth` takes it."""
    _, seed, person, picture, *wider = what
    return scene_of(int(seed), int(person), int(picture), yaw=float(wider[0]) if wider else YAW)


@lru_cache(maxsize=64)
def _person(seed: int, number: int) -> Person:
    return person_of(seed, number)
