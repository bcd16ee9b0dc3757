"""Which photographs a job may read, and what it says of the others."""

import re
from pathlib import Path

import pytest

from tasks.image_uri import (
    BUCKETS_VARIABLE,
    FOLDERS_VARIABLE,
    MOST_DRIVERS,
    PATTERN,
    BadImageUri,
    absolute_uri,
    check_image_uri,
    read_drivers,
    read_image_uri,
)

BAD = [
    "",
    "s3://",
    "s3://bucket",
    "s3://bucket/",
    "s3://bucket/" + "a" * 1025 + ".jpg",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/face.jpg",
    "https://example.invalid/face.jpg",
    "s3://bucket/../../x.jpg",
    "s3://bucket/%2e%2e%2fx.jpg",
    "s3://bucket/a\x00.jpg",
    "s3://bucket/a\n.jpg",
    "s3://bucket/a\u202egpj.jpg",
    "s3://bucket/x.svg",
    "s3://bucket/x.gif",
    "12",
    '{"a": 1}',
    "no-such-file.jpg",
]


@pytest.mark.parametrize("uri", BAD)
def test_a_bad_address_is_refused_with_its_value(uri: str) -> None:
    with pytest.raises(BadImageUri, match="image_uri="):
        check_image_uri(uri)


@pytest.mark.parametrize(
    "uri", ["s3://my-bucket/people/a.jpg", "s3://my-bucket/a b.PNG", "embedded:portrait", "/data/a.webp", "a.jpeg"]
)
def test_the_schema_pattern_accepts_what_can_be_right(uri: str) -> None:
    assert re.search(PATTERN, uri)


@pytest.mark.parametrize(
    "uri", ["", "s3://", "s3://bucket/", "http://host/a.jpg", "s3://bucket/x.svg", "s3://bucket/a\n.jpg"]
)
def test_the_schema_pattern_refuses_what_never_is(uri: str) -> None:
    assert not re.search(PATTERN, uri)


def test_buckets_can_be_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BUCKETS_VARIABLE, "uploads, archive")
    assert check_image_uri("s3://uploads/a/b.jpg") == ("s3://uploads/a", "b.jpg")
    with pytest.raises(BadImageUri, match="other"):
        check_image_uri("s3://other/a.jpg")


def test_folders_can_be_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "allowed" / "a.jpg", tmp_path / "b.jpg"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(b"x")
    (inside.parent / "link.jpg").symlink_to(outside)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(inside.parent))
    assert check_image_uri(str(inside)) == (str(inside.parent), "a.jpg")
    for uri in (str(outside), f"{inside.parent}/../b.jpg", f"{inside.parent}/link.jpg"):
        with pytest.raises(BadImageUri, match="outside"):
            check_image_uri(uri)


def test_a_photograph_is_named_alike_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "below").mkdir()
    there = str((tmp_path / "photo.jpg").resolve())
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("photo.jpg") == absolute_uri(f"file://{tmp_path}/photo.jpg") == there
    monkeypatch.chdir(tmp_path / "below")
    assert absolute_uri("../photo.jpg") == there
    assert absolute_uri("s3://my-bucket/a.jpg") == "s3://my-bucket/a.jpg"
    assert absolute_uri("embedded:portrait") == "embedded:portrait"


def test_frames_lie_in_the_folder_itself_and_are_counted_before_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("b.jpg", "a.png", "below/c.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    assert [data for _, data in read_drivers(str(tmp_path))] == [b"a.png", b"b.jpg"]
    for number in range(MOST_DRIVERS):
        (tmp_path / f"{number:03d}.jpg").touch()
    with pytest.raises(BadImageUri, match=r"holds more than 240 pictures: split the folder"):
        read_drivers(f"{tmp_path}/")


def test_size_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    with big.open("wb") as file:
        file.truncate(26 * 2**20)
    with pytest.raises(BadImageUri, match=r"26\.0 MiB"):
        read_image_uri(str(big))


def test_the_embedded_portrait_is_a_photograph() -> None:
    assert read_image_uri("embedded:portrait").startswith(b"\x89PNG")
