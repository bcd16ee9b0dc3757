"""Where photographs come from: folder trees, archives, shards, `s3://` prefixes of any of these, FFHQ as it is published.

What decides that a photograph is the same one as before (`Photo.sha256`):

* on this machine: the SHA-256 of its bytes. They are read once to know it, and remembered in a ledger below
  `<root>/sources/`; a later listing trusts name, size and modification time, and reads nothing.
* on S3: the SHA-256 that the store knows, else ETag and size; nothing is read. Archives on S3 are fetched once into a
  cache on this machine's disk, and then count as lying here.
* with `identity="stamp"`: name, size and modification time (archives: of the archive, and the place inside; zip: the
  CRC-32). Nothing is ever read to list, for sources too large for that; moved or touched files count as new.
"""

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from models.images import MAX_BYTES
from storage.canonical import canonical_json, digest_of, sha256_of
from storage.stores import ObjectInfo, Store, open_store
from tasks import source_archives, source_ffhq
from tasks.earlier_rows import cache_folder
from tasks.source_archives import PICTURE_SUFFIXES, is_archive, is_picture
from tasks.source_ledger import Ledger, stamp_of

__all__ = [
    "EMBEDDED", "PICTURE_SUFFIXES", "PORTRAITS", "NoPhotos", "Photo", "SourceConfig", "embedded_portrait", "list_photos",
    "locate", "read_photo",
]  # fmt: skip

EMBEDDED = "embedded:portrait"
PORTRAITS = "portraits:"
"""Sources and stores of synthetic portraits start so."""
_READERS = min(8, 2 * (os.cpu_count() or 1))


class SyntheticSource(Protocol):
    """What a module that renders its photographs offers."""

    def list_portraits(self, spec: str) -> "list[Photo]":
        """The photographs of `portraits:PEOPLExPICTURES[@SEED]`, without rendering them."""

    def read_portrait(self, photo: "Photo") -> bytes:
        """PNG."""


class NoPhotos(ValueError):
    """A source that holds no photograph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """A source and how to take it."""

    source: str
    """Folder, file, archive, `s3://` prefix, `portraits:400x12@0`, or `embedded:portrait`."""
    layout: str = "auto"
    """`auto` knows FFHQ by the names of its folders; `ffhq` says that these are FFHQ's aligned pictures, numbered by their
    names or, without such names, in their order; `aligned`: in FFHQ framing; `plain`: align them all."""
    identity: str = "content"
    """`content` or `stamp`: what decides that a photograph is the same as before (module docstring)."""

    def __post_init__(self) -> None:
        if self.layout not in ("auto", "ffhq", "aligned", "plain"):
            raise ValueError(f"layout={self.layout!r}: choose auto, ffhq, aligned or plain")
        if self.identity not in ("content", "stamp"):
            raise ValueError(f"identity={self.identity!r}: choose content or stamp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One photograph to read."""

    store_uri: str
    """Folder or prefix it lies in."""
    name: str
    """Path below `store_uri`; with it, the human-readable source in status tables."""
    sha256: str
    """64 hex digits that decide the bytes: the identity of the photograph wherever it lies."""
    member: str = ""
    """Where in the archive `name` it is; empty for a file of its own."""
    stamp: str = ""
    """What told the archive from others of its name."""
    title: str = ""
    """The member's name, for people."""
    person: str | None = None
    """Who it shows, where the source says so: photographs of one person share it, and are never split apart."""
    split: str | None = None
    """train, validation or test, where the source says so; a stable hash decides otherwise."""
    licence: str | None = None
    """Licence of the photograph, where the source says so."""
    aligned: bool = False
    """Already in FFHQ framing: resized, never aligned again."""
    landmarks: str | None = None
    """68 published landmarks "x,y x,y …" in pixels that say which face is meant; it is aligned by them."""
    truth: str | None = None
    """Face parameters known exactly, as `tasks.truth.truth_text`; only synthetic sources have them."""

    @property
    def source(self) -> str:
        inside = f"!{self.title or self.member}" if self.member else ""
        return f"{self.store_uri.rstrip('/')}/{self.name}{inside}"

    @property
    def key(self) -> str:
        """Sample key: 16 hex digits of the content, so equal photographs have equal keys everywhere."""
        return self.sha256[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A picture before its identity is known."""

    photo: Photo
    size: int
    stamp: str
    sha256: str | None = None


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
        single = Path(tail).suffix.lower() in PICTURE_SUFFIXES or is_archive(tail)
        return (open_store(head), tail) if single and head != "s3:/" else (open_store(source), None)
    path = Path(source.removeprefix("file://")).expanduser().resolve()
    if path.is_file():
        return open_store(path.parent), path.name
    if not path.is_dir():
        raise NoPhotos(
            f"no photographs at {source!r}: neither a file nor a folder. Give a folder of JPEG, PNG or WebP files"
        )
    return open_store(path), None


def list_photos(source: str | SourceConfig, root: Store | None = None) -> list[Photo]:
    """All photographs of a source, in the order of their names, archives in their own order.

    `root` is where digests are remembered (below `sources/`); without it every listing reads every byte.

    Raises:
        NoPhotos: nothing with a picture's suffix is there.
        ArchiveDamaged: an archive that cannot be read.
    """
    config = source if isinstance(source, SourceConfig) else SourceConfig(source=source)
    if config.source.startswith(PORTRAITS):
        return synthetic().list_portraits(config.source)
    store, name = locate(config.source)
    infos = [*_objects(store, name)]
    found = [one for info in infos for one in _pictures(store, info)]
    if not found:
        raise NoPhotos(
            f"{config.source!r} holds no photograph (looked for {', '.join(sorted(PICTURE_SUFFIXES))}, and for zip, tar "
            "and parquet). Give a folder of photographs, or leave it out to use the embedded portrait"
        )
    ledger = Ledger(root, f"{store.uri} {name or ''}")
    found = _as_laid_out(found, config, store, infos, ledger)
    photos = _identified(found, config, ledger)
    ledger.save()
    return photos


def synthetic() -> SyntheticSource:
    """The renderer of synthetic portraits; it is loaded only for sources that need it."""
    return cast(SyntheticSource, import_module("tasks.portraits"))


def read_photo(photo: Photo) -> bytes:
    """The bytes of a photograph; of a file that is far too large, as many as show that.

    Raises:
        NotFound: it is gone. BadImage: a member that cannot be read.
    """
    if photo.store_uri.startswith(PORTRAITS):
        return synthetic().read_portrait(photo)
    store = open_store(photo.store_uri)
    if photo.member:
        return source_archives.read_member(local_archive(store, photo.name, photo.stamp), photo.member)
    return store.read_range(photo.name, 0, MAX_BYTES + 1)


def local_archive(store: Store, name: str, stamp: str) -> Path:
    """An archive as a file on this machine, where its members can be reached: fetched or inflated once if need be."""
    path = store.local_path(name)
    gzipped = name.lower().endswith(source_archives.GZIPPED)
    if path is not None and not gzipped:
        return path
    kept = cache_folder("sources") / digest_of([store.uri, name, stamp])
    kept.mkdir(parents=True, exist_ok=True)
    if path is None:
        path = kept / Path(name).name
        if not path.exists():
            store.download(name, path)
    if not gzipped:
        return path
    plain = kept / "inflated.tar"
    if not plain.exists():
        source_archives.inflate(path, plain)
    return plain


def _objects(store: Store, name: str | None) -> Iterator[ObjectInfo]:
    if name is not None:
        info = store.stat(name)
        if info is None:
            raise NoPhotos(f"there is no {store.uri}/{name}")
        yield info
        return
    for info in store.list():
        if not any(part.startswith(".") for part in info.key.split("/")):
            yield info


def _pictures(store: Store, info: ObjectInfo) -> Iterator[_Found]:
    if is_picture(info.key):
        photo = Photo(store_uri=store.uri, name=info.key, sha256="")
        sha256 = info.sha256 or (None if store.local_path(info.key) else _digest(["etag", info.size, info.stamp]))
        yield _Found(photo=photo, size=info.size, stamp=stamp_of(info.size, info.stamp), sha256=sha256)
    elif is_archive(info.key):
        stamp = stamp_of(info.size, info.stamp)
        for member in source_archives.members(local_archive(store, info.key, stamp)):
            photo = Photo(
                store_uri=store.uri, name=info.key, sha256="", member=member.locator, stamp=stamp, title=member.name,
                **member.facts,
            )  # fmt: skip
            yield _Found(photo=photo, size=member.size, stamp=f"{stamp} {member.checksum}".strip())


def _as_laid_out(
    found: Sequence[_Found], config: SourceConfig, store: Store, infos: Sequence[ObjectInfo], ledger: Ledger
) -> list[_Found]:
    """What the layout says of each picture: aligned, which split, whose licence."""
    if config.layout == "plain":
        return list(found)
    if config.layout == "aligned":
        return [replace(one, photo=replace(one.photo, aligned=True)) for one in found]
    parts = [source_ffhq.layout_of(_path(one.photo)) for one in found]
    chosen = source_ffhq.preferred(part for part in parts if part is not None)
    if config.layout == "auto" and chosen is None:
        return list(found)
    if chosen is not None:  # other sizes of the same photographs are not other photographs
        found = [one for one, part in zip(found, parts, strict=True) if part in (chosen, None)]
    in_the_wild = chosen == source_ffhq.IN_THE_WILD
    metadata = _metadata(store, infos, ledger, landmarks=in_the_wild)
    laid_out = []
    for order, one in enumerate(found):
        number = source_ffhq.number_of(_path(one.photo))
        if number is None and config.layout == "ffhq":
            number = order
        if number is None:
            laid_out.append(one)
            continue
        facts: dict[str, Any] = {"split": source_ffhq.split_of_number(number), "aligned": not in_the_wild}
        laid_out.append(replace(one, photo=replace(one.photo, **{**facts, **metadata.get(str(number), {})})))
    return laid_out


def _path(photo: Photo) -> str:
    """With the name of the folder that the source is: somebody may name `images1024x1024` itself."""
    return "/".join(filter(None, [Path(photo.store_uri).name, photo.name, photo.title]))


def _metadata(
    store: Store, infos: Sequence[ObjectInfo], ledger: Ledger, *, landmarks: bool
) -> dict[str, dict[str, Any]]:
    """FFHQ's own metadata, where it lies beside the pictures; the few facts of its 255 MB are remembered."""
    info = next((info for info in infos if Path(info.key).name == source_ffhq.METADATA), None)
    if info is None:
        return {}
    name = f"facts-{digest_of([info.key, info.size, info.stamp, landmarks])}.json"
    remembered = ledger.recall(name)
    if remembered is None:
        facts = source_ffhq.read_metadata(store.read(info.key), landmarks=landmarks)
        ledger.remember(name, canonical_json(facts))
        return facts
    recalled: dict[str, dict[str, Any]] = json.loads(remembered)
    return recalled


def _identified(found: Sequence[_Found], config: SourceConfig, ledger: Ledger) -> list[Photo]:
    """The photographs with their identity; those whose bytes must be read are read side by side, archives in order."""
    digests: list[str | None] = []
    for one in found:
        place = (one.photo.name, one.photo.member, one.stamp)
        if config.identity == "stamp":
            digests.append(one.sha256 or _digest(["stamp", one.photo.store_uri, *place]))
        else:
            digests.append(one.sha256 or ledger.known.get(place))
    unknown = [index for index, digest in enumerate(digests) if digest is None]
    files = [index for index in unknown if not found[index].photo.member]
    with ThreadPoolExecutor(_READERS) as executor:
        for index, digest in zip(files, executor.map(lambda i: _content_digest(found[i]), files), strict=True):
            digests[index] = digest
    for index in unknown:
        digests[index] = digests[index] or _content_digest(found[index])
        one = found[index]
        ledger.known[one.photo.name, one.photo.member, one.stamp] = str(digests[index])
    return [replace(one.photo, sha256=str(digest)) for one, digest in zip(found, digests, strict=True)]


def _content_digest(one: _Found) -> str:
    """SHA-256 of the bytes. What is too large or too damaged to be read is known by where it lies: it becomes a row."""
    if one.size > MAX_BYTES:
        return _digest(["unread", one.photo.source, one.stamp])
    try:
        return sha256_of(read_photo(one.photo))
    except ValueError:
        return _digest(["unread", one.photo.source, one.stamp])


def _digest(parts: Sequence[object]) -> str:
    return sha256_of(canonical_json(list(parts)))
