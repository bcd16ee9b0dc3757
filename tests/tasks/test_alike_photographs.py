"""Photographs that are the same picture in other bytes, and photographs of several people."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from models.images import read_image
from models.perceptual_hash import perceptual_hash
from storage.manifest import Manifest, StatusRow
from storage.reader import SampleReader
from storage.shards import write_shard
from storage.stores import Store, open_store
from tasks.aligner import Aligner
from tasks.near_duplicates import mark_near_duplicates, nearest_before
from tasks.rows import RowFailed
from tasks.shard import ShardConfig
from tasks.sources import embedded_portrait


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.open(embedded_portrait()).convert("RGB")


def stored(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hash_of(image: Image.Image, kind: str = "PNG", **options: int) -> int:
    return perceptual_hash(read_image(stored(image, kind, **options), "x"))


def test_copies_differ_in_few_bits_and_other_pictures_in_many(photograph: Image.Image) -> None:
    one = hash_of(photograph)
    half = photograph.resize((256, 256), Image.Resampling.LANCZOS)
    copies = {
        "recompressed": hash_of(photograph, "JPEG", quality=50),
        "half the size": hash_of(half),
        "brighter": hash_of(ImageEnhance.Brightness(photograph).enhance(1.1)),
        "with less colour": hash_of(ImageEnhance.Color(photograph).enhance(0.5)),
    }
    assert all((one ^ other).bit_count() <= 4 for other in copies.values()), copies
    others = [
        hash_of(photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        hash_of(photograph.crop((0, 0, 256, 256))),
        hash_of(photograph.rotate(90)),
    ]
    assert all((one ^ other).bit_count() > 12 for other in others)


def test_the_nearest_earlier_hash_is_found() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 1500, np.int64).astype(np.uint64)
    hashes[1200] = hashes[7] ^ np.uint64(0b101)  # in another block of the comparison
    hashes[3] = hashes[2]
    index, bits = nearest_before(hashes)
    assert (index[1200], bits[1200]) == (7, 2)
    assert (index[3], bits[3]) == (2, 0)
    assert bits[0] == 64
    expected = [min((int(hashes[i]) ^ int(hashes[j])).bit_count() for j in range(i)) for i in range(1, 60)]
    assert bits[1:60].tolist() == expected


def committed(root: Store, hashes: dict[str, int]) -> SampleReader:
    samples = [
        (key, {"meta.json": json.dumps({"perceptual_hash": f"{one:016x}"}).encode()}) for key, one in hashes.items()
    ]
    shards = (write_shard(root, "shard-000000.tar", samples, ("meta.json",)),)
    manifest = Manifest(
        stage="images", fields=("meta.json",), config_digest="", code_version="", inputs={}, shards=shards
    )
    return SampleReader(root, manifest, ["meta.json"])


def test_a_near_duplicate_says_of_what_and_stays_a_good_row(tmp_path: Path, photograph: Image.Image) -> None:
    one, copy = hash_of(photograph), hash_of(photograph, "JPEG", quality=50)
    hashes = {"a": one, "b": hash_of(photograph.rotate(90)), "c": copy}
    reader = committed(open_store(tmp_path), hashes)
    rows = [StatusRow(key=key, source=f"{key}.jpg", status="ok", stage="images") for key in hashes]
    rows.append(StatusRow(key="d", source="d.jpg", status="no_face", reason="no face found in d.jpg", stage="images"))
    marked = mark_near_duplicates(rows, reader, distance=4)
    bits = (one ^ copy).bit_count()
    assert [row.reason for row in marked] == ["", "", f"near-duplicate of a: {bits} of 64 bits differ", rows[3].reason]
    assert [row.status for row in marked] == ["ok", "ok", "ok", "no_face"]


def people(photograph: Image.Image, second: int) -> bytes:
    """The portrait's face, and beside it a copy `second` pixels high."""
    face = photograph.crop((75, 0, 375, 300))
    wall = Image.new("RGB", (1000, 520), (150, 150, 150))
    wall.paste(face.resize((480, 480), Image.Resampling.LANCZOS), (20, 20))
    wall.paste(face.resize((second, second), Image.Resampling.LANCZOS), (510, 20))
    return stored(wall)


def test_several_faces_are_refused_only_where_that_is_asked_for(photograph: Image.Image) -> None:
    alike, child = people(photograph, 470), people(photograph, 225)
    refusing, taking = Aligner(ShardConfig(several_faces="refuse")), Aligner(ShardConfig())
    with pytest.raises(RowFailed, match=r"two\.png shows 2 faces of similar size; crop it to one person") as caught:
        refusing.align(alike, "two.png")
    assert caught.value.status == "several_faces"
    # The largest is taken, and a face less than half as high is nobody's rival.
    for aligner, data in ((taking, alike), (refusing, child)):
        meta = json.loads(aligner.align(data, "two.png")["meta.json"])
        assert meta["faces_found"] == 2
        assert meta["box"][2] < 510
