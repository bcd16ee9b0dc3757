"""Digests of a source's pictures, remembered: every byte is read once to know it, and never again while it is unchanged.

A picture is unchanged while its container's name, size and stamp (modification time in nanoseconds, ETag) are.
"""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from storage.canonical import digest_of, sha256_of
from storage.stores import Store

Known = dict[tuple[str, str, str], str]
"""(name, member, "size stamp") → sha256."""
_SCHEMA = pa.schema([(name, pa.string()) for name in ("name", "member", "stamp", "sha256")])


class Ledger:
    """Of one source, below `<root>/sources/`; without a root nothing is remembered."""

    def __init__(self, root: Store | None, source: str) -> None:
        self.home = root.child(f"sources/{digest_of(source)}") if root is not None else None
        self.known: Known = {}
        self._stored: list[str] = []
        self._size = 0
        if self.home is not None:
            for info in self.home.list("digests-"):
                self._stored.append(info.key)
                rows = pq.read_table(io.BytesIO(self.home.read(info.key))).to_pydict()
                keys = zip(rows["name"], rows["member"], rows["stamp"], strict=True)
                self.known.update(zip(keys, rows["sha256"], strict=True))
            self._size = len(self.known)

    def save(self) -> None:
        """Keep what was learned; the ledgers it replaces go."""
        if self.home is None or len(self.known) == self._size:
            return
        ordered = sorted((*key, digest) for key, digest in self.known.items())
        table = pa.table([list(column) for column in zip(*ordered, strict=True)], schema=_SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", store_schema=False)
        data = buffer.getvalue()
        name = f"digests-{sha256_of(data)[:16]}.parquet"
        self.home.create(name, data)
        for old in self._stored:
            if old != name:
                self.home.delete(old)
        self._stored, self._size = [name], len(self.known)

    def recall(self, name: str) -> bytes | None:
        """Something worked out from the source before."""
        return self.home.read(name) if self.home is not None and self.home.stat(name) is not None else None

    def remember(self, name: str, data: bytes) -> None:
        if self.home is not None:
            self.home.create(name, data)


def stamp_of(size: int, stamp: str) -> str:
    return f"{size} {stamp}"
