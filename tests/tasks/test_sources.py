"""Sources: every container gives the same photographs; identity, FFHQ's facts, damage, what is never read."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.images import BadImage, encode_png
from storage.stores import LocalStore, Store, open_store
from tasks import sources
from tasks.aligner import Aligner
from tasks.shard import ShardConfig
from tasks.source_archives import ArchiveDamaged
from tasks.sources import NoPhotos, Photo, SourceConfig, list_photos, read_photo


def picture(number: int) -> bytes:
    return encode_png(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8))


PICTURES = {f"{name}.png": picture(number) for number, name in enumerate(("a", "b", "sub/c"))}


def folder(path: Path) -> Path:
    for name, data in PICTURES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "notes.txt").write_text("no picture")
    (path / ".hidden.png").write_bytes(picture(9))
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in PICTURES.items():
            archive.writestr(name, data)
        archive.writestr("__MACOSX/.a.png", b"no picture")
    return path / "faces.zip"


def tarred(path: Path, suffix: str = ".tar") -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in PICTURES.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    data = buffer.getvalue() if suffix == ".tar" else gzip.compress(buffer.getvalue())
    (path / f"faces{suffix}").write_bytes(data)
    return path / f"faces{suffix}"


def parquet(path: Path, *, struct: bool = True) -> Path:
    images = [{"bytes": data, "path": name} for name, data in PICTURES.items()] if struct else list(PICTURES.values())
    table = pa.table({"label": [1, 2, 3], "image": images, "license": ["CC0", "CC BY", "CC0"]})
    pq.write_table(table, path / "faces.parquet", row_group_size=2)
    return path / "faces.parquet"


CONTAINERS: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "zip": zipped,
    "tar": tarred,
    "tar.gz": lambda path: tarred(path, ".tar.gz"),
    "tgz": lambda path: tarred(path, ".tgz"),
    "parquet": parquet,
    "parquet of bytes": lambda path: parquet(path, struct=False),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_same_photographs(kind: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    place = CONTAINERS[kind](tmp_path / "photos")
    found = list_photos(str(place))
    assert {photo.sha256 for photo in found} == {hashlib.sha256(data).hexdigest() for data in PICTURES.values()}
    assert [read_photo(photo) for photo in found] == list(PICTURES.values())
    # Out of order, and once more: members are found again without reading what lies between.
    assert [read_photo(photo) for photo in reversed(found)] == list(reversed(PICTURES.values()))
    assert len({photo.source for photo in found}) == 3
    if kind != "folder":  # an archive in a folder is found like one that is named
        assert [photo.key for photo in list_photos(str(tmp_path / "photos"))] == [photo.key for photo in found]
    if kind.startswith("parquet"):
        assert [photo.licence for photo in found] == ["CC0", "CC BY", "CC0"]


def test_shards_of_webdatasets_bring_their_facts(tmp_path: Path) -> None:
    own = Aligner(ShardConfig(size=64)).align(encode_png(np.zeros((64, 64, 3), np.uint8)), "x", aligned=True)
    with tarfile.open(tmp_path / "shard-000000.tar", "w") as archive:
        for name, data in {
            "0001.image.png": own["image.png"],
            "0001.meta.json": own["meta.json"].replace(b"{", b'{"person":"p1","split":"test",', 1),
            "0002.json": b'{"license": "CC0", "identity": 7, "split": "holdout"}',
            "0002.jpg": picture(2),
            "0003.png": picture(3),
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    first, second, third = list_photos(str(tmp_path))
    assert (first.person, first.split, first.aligned) == ("p1", "test", True)
    assert (second.person, second.split, second.licence, second.aligned) == ("7", None, "CC0", False)
    assert (third.person, third.split, third.licence, third.aligned) == (None, None, None, False)


def ffhq(root: Path, numbers: tuple[int, ...], *, nested: bool = True) -> Path:
    for part, side in (("images1024x1024", 16), ("thumbnails128x128", 8), ("in-the-wild-images", 32)):
        for number in numbers:
            home = root / part / f"{number // 1000 * 1000:05d}" if nested else root / part
            home.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
            (home / f"{number:05d}.png").write_bytes(encode_png(pixels))
    metadata = {
        str(number): {
            "category": "training" if number < 60_000 else "validation",
            "metadata": {"license": "Attribution License", "author": "somebody"},
            "image": {"file_path": f"images1024x1024/{number:05d}.png"},
            "in_the_wild": {"face_landmarks": [[float(i), i + 0.5] for i in range(68)]},
        }
        for number in numbers
    }
    (root / "ffhq-dataset-v2.json").write_text(json.dumps(metadata))
    return root


@pytest.mark.parametrize("nested", [True, False])
def test_ffhq_is_known_by_its_folders(nested: bool, tmp_path: Path) -> None:
    place, root = ffhq(tmp_path / "ffhq", (0, 59_999, 60_000), nested=nested), open_store(tmp_path / "root")
    for _ in range(2):  # the second time from what was remembered of its metadata
        found = list_photos(str(place), root)
        assert [Path(photo.name).parts[0] for photo in found] == ["images1024x1024"] * 3  # not the thumbnails again
        assert [(photo.split, photo.licence, photo.aligned) for photo in found] == [
            ("train", "Attribution License", True), ("train", "Attribution License", True),
            ("validation", "Attribution License", True),
        ]  # fmt: skip
    assert all(not photo.aligned and photo.split is None for photo in list_photos(SourceConfig(
        source=str(place / "images1024x1024"), layout="plain")))  # fmt: skip
    (wild,) = [photo for photo in list_photos(str(place / "in-the-wild-images")) if "60000" in photo.name]
    assert (wild.aligned, wild.split, wild.landmarks) == (False, "validation", None)  # the metadata lies elsewhere
    (tmp_path / "only").mkdir()
    for name in ("in-the-wild-images", "ffhq-dataset-v2.json"):
        (tmp_path / "only" / name).symlink_to(place / name)
    wild = next(photo for photo in list_photos(str(tmp_path / "only")) if "60000" in photo.name)
    assert (wild.aligned, wild.split) == (False, "validation")
    assert wild.landmarks is not None
    assert wild.landmarks.split()[:2] == ["0,0.5", "1,1.5"]


def test_a_mirror_without_names_is_ffhq_when_it_is_said_so(tmp_path: Path) -> None:
    found = list_photos(SourceConfig(source=str(parquet(tmp_path)), layout="ffhq"))
    assert [(photo.split, photo.aligned) for photo in found] == [("train", True)] * 3
    assert all(photo.aligned for photo in list_photos(SourceConfig(source=str(tmp_path), layout="aligned")))


def test_published_landmarks_say_which_face_is_meant() -> None:
    points = np.random.default_rng(0).uniform(20, 44, (68, 2))
    points[36:42], points[42:48], points[48], points[54] = (26, 28), (38, 28), (28, 40), (36, 40)
    text = " ".join(f"{x:g},{y:g}" for x, y in points)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    sample = Aligner(ShardConfig(size=64)).align(encode_png(noise), "wild", landmarks=text)
    quad = np.array(json.loads(sample["meta.json"])["quad"])
    assert quad.mean(axis=0) == pytest.approx([32, 29.2], abs=0.1)  # the recipe's centre: eyes + 0.1 of eyes to mouth


class Reads:
    """Counts what is read of local files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        plain, ranged = LocalStore.read, LocalStore.read_range

        def read(store: LocalStore, key: str) -> bytes:
            self.names.append(key)
            return plain(store, key)

        def read_range(store: LocalStore, key: str, start: int, length: int) -> bytes:
            self.names.append(key)
            return ranged(store, key, start, length)

        monkeypatch.setattr(LocalStore, "read", read)
        monkeypatch.setattr(LocalStore, "read_range", read_range)

    def pictures(self) -> list[str]:
        names, self.names = [name for name in self.names if name.endswith(".png")], []
        return sorted(names)


def test_bytes_are_read_once_to_know_them_and_not_at_all_by_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, root, reads = folder(tmp_path / "photos"), open_store(tmp_path / "root"), Reads(monkeypatch)
    first = list_photos(str(place), root)
    assert reads.pictures() == sorted(PICTURES)
    assert list_photos(str(place), root) == first
    assert reads.pictures() == []
    (place / "a.png").write_bytes(picture(7))
    os.utime(place / "a.png", ns=(1, 1))
    changed = list_photos(str(place), root)
    assert reads.pictures() == ["a.png"]
    assert [one == other for one, other in zip(first, changed, strict=True)] == [False, True, True]
    stamped = list_photos(SourceConfig(source=str(place), identity="stamp"))
    assert reads.pictures() == []
    assert len({photo.key for photo in stamped}) == 3
    os.utime(place / "a.png", ns=(2, 2))
    again = list_photos(SourceConfig(source=str(place), identity="stamp"))
    assert [one.key == other.key for one, other in zip(stamped, again, strict=True)] == [False, True, True]
    assert len([*root.list("sources/")]) == 1  # a newer ledger takes the older one's place


def test_prefixes_and_archives_on_s3(s3_store: Store, tmp_path: Path) -> None:
    for name, data in PICTURES.items():
        s3_store.create(f"faces/{name}", data)
    s3_store.create("faces/zipped/faces.zip", zipped(tmp_path).read_bytes())
    found = list_photos(f"{s3_store.uri}/faces")
    assert [read_photo(photo) for photo in found] == list(PICTURES.values()) * 2
    assert len({photo.key for photo in found}) == 6  # known by ETag there and by content here
    assert list_photos(f"{s3_store.uri}/faces") == found
    assert [photo.sha256 for photo in list_photos(f"{s3_store.uri}/faces/zipped/faces.zip")] == [
        hashlib.sha256(data).hexdigest() for data in PICTURES.values()
    ]
    assert len(list_photos(f"{s3_store.uri}/faces/a.png")) == 1


def test_what_cannot_be_read_becomes_a_row_and_not_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(30 << 20))
        archive.writestr("good.png", picture(1))
    bomb, good = list_photos(str(tmp_path))
    with pytest.raises(BadImage, match=r"bomb\.png has 31,457,280 bytes"):
        read_photo(bomb)
    assert read_photo(good) == picture(1)
    pq.write_table(pa.table({"image": [None, picture(1)]}), tmp_path / "holes.parquet")
    hole, whole = list_photos(str(tmp_path / "holes.parquet"))
    with pytest.raises(BadImage, match="no image bytes"):
        read_photo(hole)
    assert read_photo(whole) == picture(1)
    monkeypatch.setattr(sources, "MAX_BYTES", 64)
    (tmp_path / "large.png").write_bytes(bytes(1000))
    large = next(photo for photo in list_photos(str(tmp_path)) if photo.name == "large.png")
    assert len(read_photo(large)) == 65  # enough to be refused for its size


def test_sources_without_photographs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(NoPhotos, match="holds no photograph"):
        list_photos(str(tmp_path))
    with pytest.raises(NoPhotos, match="neither a file nor a folder"):
        list_photos(str(tmp_path / "missing"))
    whole = tarred(tmp_path).read_bytes()
    (tmp_path / "faces.tar").write_bytes(whole[:700])
    with pytest.raises(ArchiveDamaged, match=r"faces\.tar cannot be read"):
        list_photos(str(tmp_path))
    (tmp_path / "faces.tar").write_bytes(b"not a tar at all")
    with pytest.raises(ArchiveDamaged, match="fetch it again"):
        list_photos(str(tmp_path))
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "words.parquet")
    with pytest.raises(ArchiveDamaged, match="no column of image bytes among words"):
        list_photos(str(tmp_path / "words.parquet"))
    for wrong in ({"layout": "celeba"}, {"identity": "name"}):
        with pytest.raises(ValueError, match="choose"):
            SourceConfig(source="x", **wrong)
    assert (
        Photo(store_uri="s3://b", name="a.zip", sha256="", member="1:2", title="x.png").source == "s3://b/a.zip!x.png"
    )
