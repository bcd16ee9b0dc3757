"""Every odd file gets a defined answer; PNG round trips are exact and byte-deterministic."""

import contextlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.images import MAX_BYTES, BadImage, decode_png, encode_png, read_image


def picture(height: int = 24, width: int = 36) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 3 % 256], axis=-1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_bomb(side: int) -> bytes:
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    body = zlib.compress(b"\0" * ((side // 8 + 1) * 1000))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_plain_files_keep_their_pixels() -> None:
    source = picture()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert np.array_equal(read_image(saved(Image.fromarray(source), kind, **options), "a"), source)
    jpeg = read_image(saved(Image.fromarray(source), "JPEG", quality=95), "a")
    assert jpeg.shape == source.shape
    assert jpeg.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\xff", "not a JPEG"),
        (b"<html><body>no</body></html>", "not a JPEG"),
        (b"GIF89a\x01\x00\x01\x00", "not a JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"RIFF\x00\x00\x00\x00WEBP", "damaged"),
        (b"\xff\xd8\xff" + b"\0" * MAX_BYTES, "at most"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_name(data: bytes, why: str) -> None:
    with pytest.raises(BadImage, match=why) as caught:
        read_image(data, "holiday.jpg")
    assert "holiday.jpg" in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    rng = np.random.default_rng(0)
    data = saved(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    with pytest.raises(BadImage):
        read_image(data[: int(len(data) * share)], "cut")


@pytest.mark.parametrize("side", [13_000, 20_000, 60_000])
def test_bombs_are_judged_by_their_header(side: int) -> None:
    with pytest.raises(BadImage, match="at most"):
        read_image(png_bomb(side), "bomb.png")


def test_long_and_small_pictures() -> None:
    with pytest.raises(BadImage, match="at most 8192 a side"):
        read_image(saved(Image.new("L", (40_000, 1)), "PNG"), "ribbon")
    assert read_image(saved(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), "dot").tolist() == [[[9, 8, 7]]]


def test_gray_palette_cmyk_and_16_bit_become_rgb() -> None:
    gray = picture()[..., 0]
    expected = np.repeat(gray[..., None], 3, axis=2)
    assert np.array_equal(read_image(saved(Image.fromarray(gray), "PNG"), "L"), expected)
    deep = Image.fromarray(gray.astype(np.uint16) * 256 + 17)
    assert np.array_equal(read_image(saved(deep, "PNG"), "16"), expected)
    palette = Image.fromarray(expected).quantize(64)
    assert np.abs(read_image(saved(palette, "PNG"), "P").astype(int) - expected).max() <= 8
    cmyk = Image.fromarray(picture()).convert("CMYK")
    assert np.abs(read_image(saved(cmyk, "JPEG", quality=100), "CMYK").astype(int) - picture()).mean() < 3


def test_transparency_is_composited_over_white() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[1, 1] = (0, 0, 0, 128)
    read = read_image(saved(Image.fromarray(rgba), "PNG"), "alpha")
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[0, 1].tolist() == [255, 255, 255]
    assert abs(int(read[1, 1, 0]) - 127) <= 1
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([200, 100, 50] + [0] * 765)
    assert read_image(saved(palette, "PNG", transparency=0), "tRNS").tolist() == [[[255] * 3] * 2] * 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_exif_dropped(orientation: int) -> None:
    source = Image.fromarray(picture())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = source.transpose(Image.Transpose(undo[orientation])) if orientation in undo else source
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[1] = "N"
    assert np.array_equal(read_image(saved(stored, "PNG", exif=exif), "turned"), picture())


def test_nonsense_exif_does_not_refuse_a_picture() -> None:
    data = saved(Image.fromarray(picture()), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff junk")
    assert read_image(data, "junk").shape == picture().shape


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    first = Image.fromarray(picture())
    data = saved(first, kind, save_all=True, append_images=[first.rotate(180)], duration=50, lossless=True)
    with pytest.raises(BadImage, match="animation of 2 frames"):
        read_image(data, "moving")


def test_mpo_gives_its_first_picture_and_trailing_bytes_are_ignored() -> None:
    first, second = Image.fromarray(picture()), Image.new("RGB", (36, 24), (255, 0, 0))
    mpo = saved(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(read_image(mpo, "stereo").astype(int) - picture()).mean() < 6
    assert np.array_equal(read_image(saved(first, "PNG") + b"PK\x03\x04 and a zip", "polyglot"), picture())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 10**6))
def test_damage_gives_a_picture_or_bad_image_never_another_error(noise: bytes, kind: str, where: int) -> None:
    data = bytearray(saved(Image.fromarray(picture()), kind))
    start = where % len(data)
    data[start : start + len(noise)] = noise
    with contextlib.suppress(BadImage):
        assert read_image(bytes(data), "damaged").ndim == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 3, 4]), st.integers(0, 2**32 - 1))
def test_png_round_trip_is_exact(height: int, width: int, channels: int, seed: int) -> None:
    shape = (height, width, channels) if channels else (height, width)
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(array)
    assert data == encode_png(np.asfortranarray(array))
    assert np.array_equal(decode_png(data), array)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), array)


def test_png_refuses_other_arrays_and_other_files() -> None:
    for bad in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="encode_png takes"):
            encode_png(bad)
    for data in (b"", b"\x89PNG\r\n\x1a\n", saved(Image.fromarray(picture()), "JPEG")):
        with pytest.raises(BadImage):
            decode_png(data)
    with pytest.raises(BadImage, match="mode P"):
        decode_png(saved(Image.new("P", (2, 2)), "PNG"))


def test_every_photograph_reads_at_its_size(photos: Path) -> None:
    for row in json.loads((photos / "index.json").read_text()):
        pixels = read_image((photos / row["file"]).read_bytes(), row["file"])
        assert sorted(pixels.shape[:2]) == sorted((row["height"], row["width"]))
