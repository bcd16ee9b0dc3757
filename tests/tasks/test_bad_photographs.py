"""Every odd photograph that a user may submit is answered by one sentence with its name, and no run is wasted on it."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.images import BadImage
from tasks.aligner import Aligner
from tasks.generation import RowFailed
from tasks.image_uri import BadImageUri, read_image_uri
from tasks.shard import ShardConfig
from tasks.sources import embedded_portrait
from tasks.user_errors import sentence


def _encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _portrait() -> np.ndarray:
    return np.asarray(Image.open(embedded_portrait()).convert("RGB"))


def _bomb(side: int) -> bytes:
    """A PNG whose header promises side × side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


def _animation() -> bytes:
    frames = [Image.fromarray(_noise()), Image.fromarray(_noise()[::-1])]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _small_face() -> bytes:
    wall = np.full((512, 512, 3), 180, np.uint8)
    wall[200:240, 200:240] = np.asarray(Image.fromarray(_portrait()[0:300, 75:375]).resize((40, 40)))
    return _encoded(wall, "PNG")


def _truncated(share: float) -> Callable[[], bytes]:
    def cut() -> bytes:
        whole = _encoded(_portrait(), "JPEG")
        return whole[: int(len(whole) * share)]

    return cut


REFUSED: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "one-byte.jpg": lambda: b"\xff",
    "page.jpg": lambda: b"<html><body>404</body></html>",
    "tenth.jpg": _truncated(0.1),
    "half.jpg": _truncated(0.5),
    "almost.jpg": _truncated(0.99),
    "bomb-13000.png": lambda: _bomb(13_000),
    "bomb-20000.png": lambda: _bomb(20_000),
    "pixel.png": lambda: _encoded(np.zeros((1, 1, 3), np.uint8), "PNG"),
    "line.png": lambda: _encoded(np.zeros((1, 40_000, 3), np.uint8), "PNG"),
    "animated.webp": _animation,
    "film.png": lambda: _encoded(_noise(), "GIF"),
    "black.png": lambda: _encoded(np.zeros((256, 256, 3), np.uint8), "PNG"),
    "white.png": lambda: _encoded(np.full((256, 256, 3), 255, np.uint8), "PNG"),
    "noise.png": lambda: _encoded(_noise(), "PNG"),
    "small-face.png": _small_face,
}


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner(ShardConfig(min_face=64))


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_photograph_is_answered_by_a_sentence(name: str, aligner: Aligner, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(REFUSED[name]())
    with pytest.raises((BadImage, RowFailed)) as caught:
        aligner.align(read_image_uri(str(file)), name)
    text = sentence(caught.value)
    assert text is not None
    assert name in text
    assert len(text.split()) >= 5
    assert "Traceback" not in text


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "gray.png": lambda: _encoded(_portrait().mean(axis=2).astype(np.uint8), "PNG"),
    "cmyk.jpg": lambda: _converted("CMYK", "JPEG"),
    "palette.png": lambda: _converted("P", "PNG"),
    "transparent.png": lambda: _converted("RGBA", "PNG"),
    "trailing-zip.png": lambda: _encoded(_portrait(), "PNG") + b"PK\x03\x04" + b"\0" * 100,
    "turned.jpg": lambda: _turned(),
}


def _converted(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_portrait()).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def _turned() -> bytes:
    """Stored lying on its side, upright by its EXIF orientation, with GPS that must not survive."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    return _encoded(np.rot90(_portrait()).copy(), "JPEG", exif=exif)


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_unusual_photograph_is_read_and_its_metadata_is_gone(name: str, aligner: Aligner) -> None:
    aligned = aligner.align(ACCEPTED[name](), name)
    with Image.open(io.BytesIO(aligned["image.png"])) as image:
        assert image.size == (256, 256)
        assert image.mode == "RGB"
        assert not image.getexif()
        assert set(image.info) <= {"srgb"}


def test_a_photograph_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as stream:
        stream.truncate(26 * 2**20)
    with pytest.raises(BadImageUri, match=r"26\.0 MiB"):
        read_image_uri(str(file))
