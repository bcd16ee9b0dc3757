"""The part of the tar format that shards use: regular files with plain names, and nothing else.

Written: POSIX ustar headers without times or owners, so that equal samples give equal bytes. Read: ustar, GNU long
names and pax records (webdataset's writer emits them), with everything refused that could surprise a reader. Format:
POSIX.1-1988 ustar and POSIX.1-2001 pax interchange format.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from storage.errors import BadKey, ShardCorrupt

BLOCK = 512
END = bytes(2 * BLOCK)
LARGEST_MEMBER = 1 << 30
"""Bytes. Larger members are refused: a sample is read into memory whole."""
LONGEST_NAME = 100
"""Bytes; the name field of a header."""

_LINKS_AND_DEVICES = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6":
    "a pipe", b"S": "a sparse file", b"K": "a long link name", b"g": "a global header", }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    start: int
    """Byte at which its content begins."""
    size: int
    """Bytes of content."""


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's content. Raises BadKey for long names, ValueError for large members."""
    encoded = name.encode()
    if len(encoded) > LONGEST_NAME:
        raise BadKey(f"the member name {name!r} has {len(encoded)} bytes; shards take at most {LONGEST_NAME}")
    if size > LARGEST_MEMBER:
        raise ValueError(f"{name} has {size:,} bytes; shards take members of at most {LARGEST_MEMBER:,} bytes")
    fields = b"%-100b0000644\x000000000\x000000000\x00%011o\x0000000000000\x00" % (encoded, size)
    block = fields.replace(b" ", b"\0") + b" " * 8 + b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def members(tar: bytes | memoryview, shard: str) -> Iterator[Member]:
    """The members in order, checked one by one. `tar` is the whole archive, `shard` its name for messages.

    Raises ShardCorrupt, naming the member, for damage and for anything but regular files with plain names.
    """
    position, longname = 0, None
    extra: dict[str, str] = {}
    while True:
        block = bytes(tar[position : position + BLOCK])
        if len(block) < BLOCK:
            raise ShardCorrupt(f"{shard} ends after {len(tar):,} bytes without the end mark of a tar: it is cut off")
        if not any(block):
            return
        name, kind, size = _parse(block, shard, position)
        start = position + BLOCK
        if kind in (b"L", b"x"):
            content = bytes(_content(tar, start, size, shard, name))
            if kind == b"L":
                longname = content.rstrip(b"\0").decode(errors="replace")
            else:
                extra = _pax_records(content, shard, name)
        else:
            name = extra.get("path", longname or name)
            _refuse_surprises(name, kind, extra, shard)
            if not extra.get("size", "0").isdecimal():
                raise ShardCorrupt(f"{shard}: the size of {name} is no number")
            size = int(extra.get("size", size))
            _content(tar, start, size, shard, name)
            yield Member(name, start, size)
            longname, extra = None, {}
        position = start + size + -size % BLOCK


def _parse(block: bytes, shard: str, position: int) -> tuple[str, bytes, int]:
    stored = block[148:156].strip(b" \0")
    if not stored or stored.strip(b"01234567") or int(stored, 8) != sum(block) - sum(block[148:156]) + 8 * 32:
        raise ShardCorrupt(f"{shard} has no valid tar header at byte {position:,}: it is damaged")
    # Bytes that are no UTF-8 become a character that no sample's name may have, and are refused with the name.
    name = block[:100].split(b"\0", 1)[0].decode(errors="replace")
    prefix = block[345:500].split(b"\0", 1)[0].decode(errors="replace") if block[257:263] == b"ustar\0" else ""
    try:
        size = int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise ShardCorrupt(f"{shard}: the size of {name} is no octal number") from None
    return (f"{prefix}/{name}" if prefix else name), block[156:157], size


def _content(tar: bytes | memoryview, start: int, size: int, shard: str, name: str) -> bytes | memoryview:
    if size > LARGEST_MEMBER:
        raise ShardCorrupt(f"{shard}: {name} claims {size:,} bytes; at most {LARGEST_MEMBER:,} are accepted")
    if start + size > len(tar):
        raise ShardCorrupt(f"{shard} ends inside {name}: it is cut off")
    return tar[start : start + size]


def _pax_records(content: bytes, shard: str, name: str) -> dict[str, str]:
    records = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(content):
            raise ShardCorrupt(f"{shard}: {name} has a damaged pax header")
        key, _, value = content[len(length) + 1 : int(length) - 1].decode(errors="replace").partition("=")
        records[key] = value
        content = content[int(length) :]
    return records


def _refuse_surprises(name: str, kind: bytes, extra: dict[str, str], shard: str) -> None:
    if kind in _LINKS_AND_DEVICES:
        raise ShardCorrupt(f"{shard}: {name} is {_LINKS_AND_DEVICES[kind]}; shards hold regular files only")
    if kind not in (b"0", b"\0", b"7"):
        raise ShardCorrupt(f"{shard}: {name} is of the unknown kind {kind!r}; shards hold regular files only")
    if any(key.startswith("GNU.sparse") for key in extra):
        raise ShardCorrupt(f"{shard}: {name} is a sparse file; shards hold regular files only")
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or any(c < " " for c in name):
        raise ShardCorrupt(f"{shard}: {name!r} is a path that leads elsewhere; shards hold plain names only")
