"""Which photographs a job may read: `s3://` in allowed buckets, or files below allowed folders; never HTTP."""

import os
from pathlib import Path
from urllib.parse import unquote

from models.images import MAX_BYTES
from storage.stores import open_store
from tasks.sources import EMBEDDED, PICTURE_SUFFIXES, embedded_portrait

MAX_LENGTH = 1024
MOST_DRIVERS = 240
"""Photographs in one folder of driver frames."""
# Comma-separated; "*" allows every bucket the credentials can read, which is right on one's own machine.
BUCKETS_VARIABLE = "INSTAFACE_IMAGE_BUCKETS"
FOLDERS_VARIABLE = "INSTAFACE_IMAGE_FOLDERS"
DRIVER_PATTERN = r"^(embedded:portrait|(s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]/|file:///|[A-Za-z0-9_~./])[^\x00-\x1f\x7f]*)$"
# The same rules, as far as a JSON schema can say them: Prefect's API refuses what does not match before a run exists.
PATTERN = (
    r"^(embedded:portrait"
    r"|(s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]/|file:///)[^\x00-\x1f\x7f]*\.([jJ][pP][eE]?[gG]|[pP][nN][gG]|[wW][eE][bB][pP])"
    r"|[A-Za-z0-9_~./][^\x00-\x1f\x7f:]*\.([jJ][pP][eE]?[gG]|[pP][nN][gG]|[wW][eE][bB][pP]))$"
)


class BadImageUri(ValueError):
    """An image_uri that this installation does not read."""


def check_image_uri(uri: str, *, exists: bool = True) -> tuple[str, str]:
    """Validate and split an image URI into (store URI, name). Without `exists`, a local file need not be there.

    `embedded:portrait` is the public-domain portrait; a plain path is a local file.

    Raises:
        BadImageUri: with the value, what is wrong and what is allowed.
    """
    if uri == EMBEDDED:
        portrait = embedded_portrait()
        return str(portrait.parent), portrait.name
    _check_text(uri)
    if uri.startswith("s3://"):
        return _check_s3(uri)
    if "://" in uri and not uri.startswith("file:///"):
        raise BadImageUri(
            f"image_uri={uri!r}: only s3://bucket/key and local files are read (no HTTP); upload the photograph first"
        )
    return _check_file(uri, exists)


def read_image_uri(uri: str) -> bytes:
    """The photograph's bytes.

    Raises:
        BadImageUri: not allowed, absent or larger than 25 MiB (checked before anything is transferred).
    """
    folder, name = check_image_uri(uri)
    store = open_store(folder)
    info = store.stat(name)
    if info is None:
        raise BadImageUri(
            f"image_uri={uri!r}: there is no such object. Check bucket and key, or upload the photograph first"
        )
    if info.size > MAX_BYTES:
        raise BadImageUri(
            f"image_uri={uri!r}: {info.size / 2**20:.1f} MiB is more than the allowed {MAX_BYTES / 2**20:.0f} MiB"
        )
    return store.read(name)


def absolute_uri(uri: str) -> str:
    """The address as every process understands it: a local path from its file system's root, links followed.

    Raises:
        BadImageUri: not an address that is read here.
    """
    if uri == EMBEDDED:
        return uri
    folder, name = check_image_uri(uri, exists=False)
    return uri if uri.startswith("s3://") else str(Path(folder) / name)


def read_drivers(uri: str) -> list[tuple[str, bytes]]:
    """Name and bytes of one photograph, or of every photograph in a folder or `s3://` prefix, in the order of names.

    Raises:
        BadImageUri: not allowed, absent, empty, or one of them is too large.
    """
    if uri == EMBEDDED or Path(unquote(uri)).suffix.lower() in PICTURE_SUFFIXES:
        return [(uri, read_image_uri(uri))]
    folder = uri.rstrip("/") + "/"
    store = open_store(check_image_uri(f"{folder}any.png", exists=False)[0])
    names = []
    for info in store.list():
        if "/" in info.key or Path(info.key).suffix.lower() not in PICTURE_SUFFIXES:
            continue  # frames lie in the folder itself
        names.append(info.key)
        if len(names) > MOST_DRIVERS:  # said before the first is read
            raise BadImageUri(f"driver {uri!r} holds more than {MOST_DRIVERS} pictures: split the folder, or name one photograph")
    if not names:
        raise BadImageUri(f"driver {uri!r}: no JPEG, PNG or WebP file is there. Give a photograph, or a folder of frames")
    return [(folder + name, read_image_uri(folder + name)) for name in sorted(names)]


def _check_text(uri: str) -> None:
    if not uri or len(uri) > MAX_LENGTH:
        raise BadImageUri(f"image_uri={uri[:40]!r}… has {len(uri)} characters; give 1 to {MAX_LENGTH}")
    odd = [c for c in uri if not c.isprintable() or ord(c) == 0x7F]
    if odd:
        raise BadImageUri(f"image_uri={uri!r} contains the control character {odd[0]!r}; write the plain address")
    if ".." in unquote(uri).split("://", 1)[-1].split("/") and "://" in uri:
        raise BadImageUri(f"image_uri={uri!r} contains '..'; write the address without it")
    if Path(unquote(uri)).suffix.lower() not in PICTURE_SUFFIXES:
        raise BadImageUri(
            f"image_uri={uri!r} is not a JPEG, PNG or WebP file by its name ({', '.join(sorted(PICTURE_SUFFIXES))})"
        )


def _check_s3(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise BadImageUri(f"image_uri={uri!r} needs the form s3://bucket/key.jpg")
    allowed = [name.strip() for name in os.environ.get(BUCKETS_VARIABLE, "*").split(",")]
    if "*" not in allowed and bucket not in allowed:
        raise BadImageUri(f"image_uri={uri!r}: bucket {bucket!r} is not among the allowed ones ({', '.join(allowed)})")
    folder, _, name = key.rpartition("/")
    return f"s3://{bucket}/{folder}".rstrip("/"), name


def _check_file(uri: str, exists: bool) -> tuple[str, str]:
    path = Path(uri.removeprefix("file://")).expanduser().resolve()
    folders = [
        Path(f.strip()).expanduser().resolve() for f in os.environ.get(FOLDERS_VARIABLE, "").split(",") if f.strip()
    ]
    if folders and not any(path.is_relative_to(folder) for folder in folders):
        raise BadImageUri(f"image_uri={uri!r} lies outside the allowed folders ({', '.join(map(str, folders))})")
    if exists and not path.is_file():
        raise BadImageUri(f"image_uri={uri!r}: there is no such file. Check the path")
    return str(path.parent), path.name
