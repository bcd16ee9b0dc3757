"""Where photographs come from: a folder, one file, an `s3://` prefix or the embedded public-domain portrait."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from storage.canonical import sha256_of
from storage.stores import Store, open_store

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
EMBEDDED = "embedded:portrait"
PORTRAITS = "portraits:"
"""Sources and stores of synthetic portraits start so."""


class SyntheticSource(Protocol):
    """What a module that renders its photographs offers."""

    def list_portraits(self, spec: str) -> "list[Photo]":
        """The photographs of `portraits:PEOPLExPICTURES[@SEED]`, without rendering them."""

    def read_portrait(self, photo: "Photo") -> bytes:
        """PNG."""


class NoPhotos(ValueError):
    """A source that holds no photograph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One photograph to read."""

    store_uri: str
    """Folder or prefix it lies in."""
    name: str
    """Path below `store_uri`; with it, the human-readable source in status tables."""
    sha256: str
    """64 hex digits that decide the bytes: the identity of the photograph wherever it lies."""
    person: str | None = None
    """Who it shows, where the source says so: photographs of one person share it, and are never split apart."""
    split: str | None = None
    """train, validation or test, where the source says so; a stable hash decides otherwise."""
    licence: str | None = None
    """Licence of the photograph, where the source says so."""
    aligned: bool = False
    """Already in FFHQ framing: resized, never aligned again."""
    truth: str | None = None
    """Face parameters known exactly, as `tasks.truth.truth_text`; only synthetic sources have them."""

    @property
    def source(self) -> str:
        return f"{self.store_uri.rstrip('/')}/{self.name}"

    @property
    def key(self) -> str:
        """Sample key: 16 hex digits of the content, so equal photographs have equal keys everywhere."""
        return self.sha256[:16]


def embedded_portrait() -> Path:
    """The public-domain NASA portrait that scikit-image carries (512², one frontal face)."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise NoPhotos(
            "scikit-image is not installed, so its public-domain portrait is missing: pip install scikit-image"
        )
    return Path(spec.origin).parent / "data" / "astronaut.png"


def locate(source: str) -> tuple[Store, str | None]:
    """Split a source into (store, name): name is None for a folder or prefix, else one file's name.

    Raises:
        NoPhotos: a local path that does not exist.
        StorageError: a URI that no store understands.
    """
    if source == EMBEDDED:
        portrait = embedded_portrait()
        return open_store(portrait.parent), portrait.name
    if source.startswith("s3://"):
        head, _, tail = source.rstrip("/").rpartition("/")
        if Path(tail).suffix.lower() in PICTURE_SUFFIXES and head != "s3:/":
            return open_store(head), tail
        return open_store(source), None
    path = Path(source.removeprefix("file://")).expanduser().resolve()
    if path.is_file():
        return open_store(path.parent), path.name
    if not path.is_dir():
        raise NoPhotos(
            f"no photographs at {source!r}: neither a file nor a folder. Give a folder of JPEG, PNG or WebP files"
        )
    return open_store(path), None


def list_photos(source: str) -> list[Photo]:
    """All photographs of `source`, in the order of their names; `portraits:400x12@0` renders synthetic ones.

    Raises:
        NoPhotos: nothing with a picture's suffix is there.
    """
    if source.startswith(PORTRAITS):
        return synthetic().list_portraits(source)
    store, name = locate(source)
    names = [name] if name is not None else _pictures(store)
    photos = [Photo(store_uri=store.uri, name=n, sha256=sha256_of(store.read(n))) for n in names]
    if not photos:
        raise NoPhotos(
            f"{source!r} holds no photograph (looked for {', '.join(sorted(PICTURE_SUFFIXES))}). "
            "Give a folder of photographs, or leave it out to use the embedded portrait"
        )
    return photos


def synthetic() -> SyntheticSource:
    """The renderer of synthetic portraits; it is loaded only for sources that need it."""
    return cast(SyntheticSource, import_module("tasks.portraits"))


def read_photo(photo: Photo) -> bytes:
    if photo.store_uri.startswith(PORTRAITS):
        return synthetic().read_portrait(photo)
    return open_store(photo.store_uri).read(photo.name)


def _pictures(store: Store) -> list[str]:
    def keys() -> Iterator[str]:
        for info in store.list():
            hidden = any(part.startswith(".") for part in info.key.split("/"))
            if not hidden and Path(info.key).suffix.lower() in PICTURE_SUFFIXES:
                yield info.key

    return sorted(keys())
