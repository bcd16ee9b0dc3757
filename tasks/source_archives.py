"""Pictures inside archives: zip, tar (plain or gzipped, WebDataset shards among them) and Parquet with image bytes.

An archive is a file on this machine's disk; nothing in it is ever unpacked to a name of its own choosing. A member is
found again by its locator, without reading what lies before it.
"""

import gzip
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.images import MAX_BYTES, BadImage

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".parquet")
GZIPPED = (".tar.gz", ".tgz")
FACTS = ("person", "split", "licence", "aligned")
_SPELLINGS = {"license": "licence", "identity": "person"}
_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp", "picture", "bytes", "image_bytes", "content")
_ROWS_AT_ONCE = 16
_TAR_LOCATOR = re.compile(r"(\d+)\+(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One picture of an archive."""

    name: str
    """Its name inside, for people."""
    locator: str
    """How `read_member` finds it."""
    size: int
    """Bytes; 0 where only reading tells (Parquet)."""
    checksum: str = ""
    """What the archive itself says of the bytes (zip: CRC-32)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """person, split, licence, aligned, as far as the archive says so."""


class ArchiveDamaged(ValueError):
    """An archive that cannot be read as what its name says."""


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in PICTURE_SUFFIXES and not any(
        part.startswith(".") for part in path.parts if part != "."
    )


def members(path: Path) -> Iterator[Member]:
    """The pictures of an archive in its own order, without reading them.

    Raises:
        ArchiveDamaged: it is cut off, or no archive of its kind.
    """
    kind = path.name.lower()
    try:
        if kind.endswith(".zip"):
            yield from _zip_members(path)
        elif kind.endswith(".parquet"):
            yield from _parquet_members(path)
        else:
            yield from _tar_members(path)
    except (zipfile.BadZipFile, tarfile.TarError, pa.ArrowException, EOFError, OSError) as error:
        raise ArchiveDamaged(f"{path.name} cannot be read as an archive ({error}): fetch it again") from error


def read_member(path: Path, locator: str, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a member.

    Raises:
        BadImage: more than `limit` bytes (zip bombs are not inflated), or damaged.
    """
    kind = path.name.lower()
    try:
        if kind.endswith(".zip"):
            return _read_zip(path, locator, limit)
        if kind.endswith(".parquet"):
            group, row = (int(number) for number in locator.split(":"))
            return _parquet_rows(str(path), path.stat().st_mtime_ns).read(group, row)
        match = _TAR_LOCATOR.fullmatch(locator)
        assert match is not None, locator
        start, size = int(match[1]), int(match[2])
        _refuse_large(path, locator, size, limit)
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)
    except (zipfile.BadZipFile, pa.ArrowException, RuntimeError, EOFError) as error:  # RuntimeError: locked or odd zips
        raise BadImage(f"{path.name}: the member {locator} cannot be read: {error}") from error


def inflate(source: Path, target: Path) -> None:
    """A gzipped tar as a plain one, whose members can be reached directly."""
    staged = target.with_name(f".{target.name}.part")
    with gzip.open(source, "rb") as packed, staged.open("wb") as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)
    staged.replace(target)


def _refuse_large(path: Path, name: str, size: int, limit: int) -> None:
    if size > limit:
        raise BadImage(
            f"{path.name}: the member {name} has {size:,} bytes, at most {limit:,} are read; save it smaller"
        )


def _zip_members(path: Path) -> Iterator[Member]:
    for info in _zip(str(path), path.stat().st_mtime_ns).infolist():
        if not info.is_dir() and is_picture(info.filename):
            yield Member(name=info.filename, locator=info.filename, size=info.file_size, checksum=f"{info.CRC:08x}")


@lru_cache(maxsize=8)
def _zip(path: str, stamp: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _read_zip(path: Path, name: str, limit: int) -> bytes:
    archive = _zip(str(path), path.stat().st_mtime_ns)
    _refuse_large(path, name, archive.getinfo(name).file_size, limit)
    with archive.open(name) as member:
        data = member.read(limit + 1)
    _refuse_large(path, name, len(data), limit)  # whatever its header said
    return data


def _tar_members(path: Path) -> Iterator[Member]:
    """A WebDataset sample's own facts (KEY.json, KEY.meta.json) follow or precede its picture; both are small."""
    facts: dict[str, dict[str, Any]] = {}
    pictures: list[tuple[str, Member]] = []
    with tarfile.open(path, "r:") as tar, path.open("rb") as file:
        for info in tar:
            if not info.isreg():
                continue
            folder, _, base = info.name.rpartition("/")
            key = f"{folder}/{base.split('.', 1)[0]}"
            if is_picture(info.name):
                locator = f"{info.offset_data}+{info.size}"
                pictures.append((key, Member(name=info.name, locator=locator, size=info.size)))
            elif base.endswith(".json") and info.size < 1 << 20:
                file.seek(info.offset_data)
                facts[key] = _facts_of(file.read(info.size))
    for key, member in pictures:
        found = facts.get(key, {})
        yield Member(name=member.name, locator=member.locator, size=member.size, facts=found) if found else member


def _facts_of(data: bytes) -> dict[str, Any]:
    """Whatever of FACTS a sample's JSON says; the images of this project's own shards are aligned."""
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    facts = known_facts(body)
    if "quad" in body and "perceptual_hash" in body:
        facts["aligned"] = True
    return facts


def known_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a photograph in somebody's record, under any usual spelling; what has another type is left out."""
    facts: dict[str, Any] = {}
    for name, value in body.items():
        name = _SPELLINGS.get(name, name)
        if name in FACTS and isinstance(value, bool if name == "aligned" else str | int) and value != "":
            facts[name] = value if name == "aligned" else str(value)
    if facts.get("split") not in (None, "train", "validation", "test"):
        del facts["split"]
    return facts


def _parquet_members(path: Path) -> Iterator[Member]:
    with pq.ParquetFile(path, memory_map=True) as file:
        image_column(file)
        others = [name for name in file.schema_arrow.names if _SPELLINGS.get(name, name) in FACTS]
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            table = file.read_row_group(group, columns=others).to_pylist() if others else [{}] * rows
            for row, record in enumerate(table):
                facts = known_facts(record)
                yield Member(name=f"row-{number:06d}", locator=f"{group}:{row}", size=0, facts=facts)
                number += 1


def image_column(file: pq.ParquetFile) -> str:
    """The column with the pictures: a struct of `bytes` (the image type of the hub's datasets), or plain binary.

    Raises:
        ArchiveDamaged: there is none.
    """
    schema = file.schema_arrow
    for name in sorted(schema.names, key=lambda name: (name not in _IMAGE_COLUMNS, name)):
        kind = schema.field(name).type
        if pa.types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields)):
            return str(name)
        if name in _IMAGE_COLUMNS and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return str(name)
    raise ArchiveDamaged(f"no column of image bytes among {', '.join(schema.names)}: name it 'image'")


class _ParquetRows:
    """Rows of one file, read forward in small batches: neighbours cost one read, memory stays small."""

    def __init__(self, path: str) -> None:
        self.file = pq.ParquetFile(path, memory_map=True)
        self.column = image_column(self.file)
        self.group, self.start = -1, 0
        self.batches: Iterator[pa.RecordBatch] = iter(())
        self.batch: pa.RecordBatch | None = None

    def read(self, group: int, row: int) -> bytes:
        if group != self.group or row < self.start or self.batch is None:
            self.batches = self.file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[self.column])
            self.group, self.start, self.batch = group, 0, next(self.batches)
        while row >= self.start + self.batch.num_rows:
            self.start += self.batch.num_rows
            self.batch = next(self.batches)
        value = self.batch.column(0)[row - self.start].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise BadImage(f"row {row} of row group {group} holds no image bytes")
        return bytes(data)


@lru_cache(maxsize=2)
def _parquet_rows(path: str, stamp: int) -> _ParquetRows:
    return _ParquetRows(path)
