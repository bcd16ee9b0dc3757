"""Shards as tars: other programs read ours, we read theirs, and nothing that is no plain sample gets in."""

import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import BadKey, ShardCorrupt
from storage.shard_index import ABSENT, index_tar
from storage.shards import describe_shard, stream_shard, write_shard
from storage.stores import open_store
from storage.tar import END, LARGEST_MEMBER, Member, header, members, padding


@given(st.from_regex(r"[A-Za-z0-9_-]{1,40}\.[a-z]{1,10}", fullmatch=True), st.binary(max_size=2000))
def test_a_written_member_is_what_tarfile_writes(name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    assert header(name, len(content)) == info.tobuf(tarfile.USTAR_FORMAT)
    ours = header(name, len(content)) + content + padding(len(content)) + END
    assert list(members(ours, "s")) == [Member(name, 512, len(content))]


def test_bounds_of_a_member() -> None:
    with pytest.raises(BadKey, match="at most 100"):
        header("x" * 101, 1)
    with pytest.raises(ValueError, match="at most"):
        header("x", LARGEST_MEMBER + 1)


def _tar(*infos: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return buffer.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for attribute, value in more.items():
        setattr(info, attribute, value)
    return info


HOSTILE = {
    "parent": (_tar(_member("../x.png")), r"\.\./x\.png"),
    "absolute": (_tar(_member("/etc/passwd.png")), "/etc/passwd"),
    "deep parent": (_tar(_member("a/../../x.png")), "leads elsewhere"),
    "folder in name": (_tar(_member("a/b.png")), "no KEY.FIELD"),
    "symlink": (_tar(_member("a.png", tarfile.SYMTYPE, linkname="/etc/passwd")), "a.png is a symbolic link"),
    "hard link": (_tar(_member("a.png", tarfile.LNKTYPE, linkname="b.png")), "a.png is a hard link"),
    "device": (_tar(_member("a.png", tarfile.CHRTYPE)), "a.png is a device"),
    "pipe": (_tar(_member("a.png", tarfile.FIFOTYPE)), "a.png is a pipe"),
    "folder": (_tar(_member("a", tarfile.DIRTYPE)), "a folder"),
    "twice": (_tar(_member("a.png"), _member("a.png")), "a.png is there twice"),
    "scattered": (_tar(_member("a.png"), _member("b.png"), _member("a.json")), "a.json belongs to a sample that ended"),
    "no field": (_tar(_member("README")), "README"),
    "no key": (_tar(_member(".png")), "no KEY.FIELD"),
    "dotted ends": (_tar(_member("a.png.")), "no KEY.FIELD"),
    "control character": (_tar(_member("a\n.png")), "leads elsewhere"),
    "long parent": (_tar(_member("../" * 60 + "x.png")), "leads elsewhere"),
    "pax parent": (_tar(_member("../" + "ä" * 60 + ".png"), format=tarfile.PAX_FORMAT), "leads elsewhere"),
    "sparse": (
        _tar(_member("a.png", pax_headers={"GNU.sparse.major": "1"}), format=tarfile.PAX_FORMAT),
        "a.png is a sparse file",
    ),
    "claims too much": (header("a.png", 1 << 20) + bytes(512), "ends inside a.png"),
    "empty": (b"", "cut off"),
    "not a tar": (b"<html>" * 200, "tar header at byte 0"),
    "no end": (header("a.png", 0), "cut off"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_surprises_are_refused_with_their_name(tmp_path: Path, name: str) -> None:
    tar, message = HOSTILE[name]
    (tmp_path / "shard-000000.tar").write_bytes(tar)
    with pytest.raises(ShardCorrupt, match=message):
        describe_shard(open_store(tmp_path), "shard-000000.tar")


def test_a_member_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    block = bytearray(header("a.png", 0))
    block[124:136] = b"%011o\0" % (LARGEST_MEMBER + 1)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "s.tar").write_bytes(bytes(block))
    with pytest.raises(ShardCorrupt, match=r"a\.png claims"):
        describe_shard(open_store(tmp_path), "s.tar")


@settings(deadline=None)
@given(st.data(), st.binary(min_size=1, max_size=8))
def test_no_damage_surprises_the_parser(data: st.DataObject, noise: bytes) -> None:
    """Without any checksum: whatever the bytes, the answer is an index or ShardCorrupt."""
    tar = bytearray(
        _tar(
            _member("a" * 120 + ".png", size=700),
            _member("b.json", size=3),
            format=data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])),
        )
        if data.draw(st.booleans())
        else _tar(_member("a.png", size=700), _member("b.json", size=3, mtime=1.5), format=tarfile.PAX_FORMAT)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tar) - 1))
        tar[at : at + len(noise)] = noise
    if data.draw(st.booleans()):
        # With a checksum that fits, so that the damage gets past it.
        for start in range(0, len(tar) - 511, 512):
            tar[start + 148 : start + 156] = b" " * 8
            tar[start + 148 : start + 156] = b"%06o\0 " % sum(tar[start : start + 512])
    try:
        index = index_tar(bytes(tar), "s", "0" * 64)
    except ShardCorrupt:
        return
    assert all(0 <= n <= len(tar) for n in index.spans if n != ABSENT)


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    samples = [(f"k{n:03d}", {"image.png": bytes([n]) * n, "meta.json": b'{"n":%d}' % n}) for n in range(20)]
    write_shard(open_store(tmp_path), "shard-000000.tar", samples, ("image.png", "meta.json"))
    dataset = webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False)
    theirs = [(sample["__key__"], {name: sample[name] for name in ("image.png", "meta.json")}) for sample in dataset]
    dataset.close()
    assert theirs == samples
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        assert {info.mtime for info in tar} == {0}


def test_we_read_the_shards_of_webdataset(tmp_path: Path) -> None:
    long = "k" * 120
    with webdataset.ShardWriter(str(tmp_path / "shard-%06d.tar"), maxcount=100, verbose=0) as writer:
        for key in ("a", "b", long):
            writer.write({"__key__": key, "image.png": key.encode() * 400, "meta.json": {"key": key}})
    store = open_store(tmp_path)
    entry, index = describe_shard(store, "shard-000000.tar")
    assert index.keys == ("a", "b", long)
    found = dict(stream_shard(store, entry, ["image.png"]))
    assert found == {key: {"image.png": key.encode() * 400} for key in ("a", "b", long)}
