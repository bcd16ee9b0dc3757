"""Opening a store by its URI."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.errors import BadKey
from storage.interface import Leftover, ObjectInfo, Store
from storage.keys import check_prefix
from storage.local import LocalStore
from storage.s3 import S3Store
from storage.s3_requests import S3Config

__all__ = ["Leftover", "LocalStore", "ObjectInfo", "S3Config", "S3Store", "Store", "open_store"]


def open_store(uri: str | Path, *, s3: S3Config | None = None) -> Store:
    """Opens "s3://bucket/prefix", "file:///folder" or a plain folder path. Nothing is contacted or created yet.

    Raises BadKey for any other scheme and for locations that cannot be.
    """
    if isinstance(uri, Path):
        return LocalStore(str(uri.absolute()))
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if parts.query or parts.fragment or not parts.netloc:
            raise BadKey(f"{uri!r} is no S3 location; write s3://bucket or s3://bucket/prefix")
        return S3Store(parts.netloc, check_prefix(parts.path.strip("/")), s3 or S3Config())
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise BadKey(f"{uri!r} is no file location; write file:///absolute/folder")
        return LocalStore(str(Path(unquote(parts.path))))
    if "://" in uri or not uri or "\0" in uri:
        raise BadKey(f"{uri!r} cannot be opened; use s3://bucket/prefix, file:///folder or a folder path")
    return LocalStore(str(Path(uri).absolute()))
