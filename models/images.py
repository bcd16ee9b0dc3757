"""Photographs in, uint8 arrays out: a reader that answers every odd file, and byte-deterministic PNG.

What the reader does with each kind of file:

* JPEG (MPO too: its first picture), PNG and WebP are read; anything else is refused by its first bytes,
  whatever its name says.
* Size is judged from the header, before a pixel is decoded: bombs cost nothing.
* EXIF orientation 1-8 is applied; all other metadata (GPS, ICC, text, trailing bytes) is dropped with the
  container.
* Palette, gray, gray-alpha and CMYK become RGB; 16-bit samples keep their high byte; transparency is
  composited over white. ICC profiles are not applied.
* Animations and truncated files are refused.
"""

import io
import struct
import warnings
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["MAX_BYTES", "MAX_PIXELS", "MAX_SIDE", "BadImage", "decode_png", "encode_png", "read_image"]

MAX_BYTES: Final = 25 * 2**20
MAX_PIXELS: Final = 40_000_000
MAX_SIDE: Final = 8192

_ORIENTATION_TAG: Final = 0x0112
_TRANSPOSES: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Everything Pillow's three decoders are known to raise on damaged input.
_DECODER_ERRORS: Final = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, MemoryError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

UInt8Array = npt.NDArray[np.uint8]


class BadImage(ValueError):
    """A file that is not a still JPEG, PNG or WebP picture within the limits; the message says which and
    why."""


def read_image(data: bytes, name: str) -> UInt8Array:
    """Decode a photograph to RGB.

    Args:
        data: the file's bytes, at most 25 MiB.
        name: what to call the file in error messages.

    Returns:
        uint8 (H, W, 3) RGB in 0…255, upright (EXIF orientation applied).

    Raises:
        BadImage: not JPEG/PNG/WebP, too large (40 megapixels, 8192 pixels a side), animated or damaged.
    """
    if not data:
        raise BadImage(f"{name}: the file is empty")
    if len(data) > MAX_BYTES:
        raise BadImage(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read; save it smaller")
    kind = _kind_of(data)
    if kind is None:
        raise BadImage(f"{name}: not a JPEG, PNG or WebP file (starts with {data[:8]!r})")
    try:
        # Pillow only warns between its own limit and twice that; the limits here are lower and judged below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=[kind])
            width, height = image.size
            _check_size(name, width, height)
            frames = getattr(image, "n_frames", 1)
            if kind != "JPEG" and frames > 1:
                raise BadImage(f"{name}: an animation of {frames} frames; save one frame as a still picture")
            image.load()
            orientation = _orientation(image)
            pixels = _to_rgb(image, orientation)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"{name}: {error}; at most {MAX_PIXELS} pixels are read; scale it down") from error
    except _DECODER_ERRORS as error:
        why = f"{type(error).__name__}: {error}"
        raise BadImage(f"{name}: damaged or truncated {kind} file ({why})") from error
    return pixels


def _kind_of(data: bytes) -> str | None:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def _check_size(name: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"{name}: {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"{name}: {width} x {height} pixels, at most {MAX_SIDE} a side; scale it down")
    if width * height > MAX_PIXELS:
        raise BadImage(f"{name}: {width} x {height} pixels, at most {MAX_PIXELS} in all; scale it down")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1…8; 1 where EXIF is absent or unreadable: a picture is not refused for its
    metadata."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, orientation: int) -> UInt8Array:
    if image.mode.startswith("I") or image.mode == "F":
        samples = np.asarray(image).astype(np.float64)
        gray = np.clip(samples / 256.0, 0, 255).astype(np.uint8)
        image = Image.fromarray(gray)
    elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    upright = image.convert("RGB")
    if orientation in _TRANSPOSES:
        upright = upright.transpose(_TRANSPOSES[orientation])
    return np.array(upright, dtype=np.uint8)


def encode_png(array: UInt8Array) -> bytes:
    """PNG bytes of uint8 (H, W), (H, W, 3) or (H, W, 4); equal arrays give equal bytes.

    Rows use the PNG filter "up" and zlib level 1 with its "filtered" strategy: small and fast for faces
    and maps.
    No time stamp, text or colour chunk is written.
    """
    known_layout = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not known_layout:
        given = f"{array.dtype} {array.shape}"
        raise ValueError(f"encode_png takes uint8 (H, W), (H, W, 3) or (H, W, 4), not {given}")
    height, width = array.shape[:2]
    if height == 0 or width == 0:
        raise ValueError(f"encode_png takes at least one pixel, not {array.shape}")
    colour_type = {2: 0, 3: 2, 4: 6}[array.ndim if array.ndim == 2 else array.shape[2]]
    rows = np.ascontiguousarray(array).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), dtype=np.uint8)
    filtered[0, 0] = 0
    filtered[0, 1:] = rows[0]
    filtered[1:, 0] = 2
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    body = packer.compress(filtered.tobytes()) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", body), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def decode_png(data: bytes) -> UInt8Array:
    """The array `encode_png` was given: uint8 (H, W) for gray, (H, W, 3) for RGB, (H, W, 4) for RGBA.

    Raises:
        BadImage: not a PNG of 8-bit gray, RGB or RGBA, over the limits of `read_image`, or damaged.
    """
    if _kind_of(data) != "PNG":
        raise BadImage(f"not a PNG file (starts with {data[:8]!r})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            _check_size("PNG", *image.size)
            if image.mode not in ("L", "RGB", "RGBA"):
                raise BadImage(f"PNG of mode {image.mode}, not 8-bit gray, RGB or RGBA")
            image.load()
    except BadImage:
        raise
    except _DECODER_ERRORS as error:
        raise BadImage(f"damaged or truncated PNG ({type(error).__name__}: {error})") from error
    return np.array(image, dtype=np.uint8)
