"""What a produced picture says about itself: that it is synthetic, and which model and identity made it.

Written into the file without touching a pixel: an XMP packet with IPTC's digital source type, which viewers and platforms
read, and inside it one JSON object of ours. PNG carries it in an iTXt chunk, JPEG in an APP1 segment (XMP specification,
part 3). The JSON holds a digest of the pixels, so a picture that was changed afterwards is told from one that was not.

Metadata can be stripped by anyone; its absence proves nothing.
"""

import hashlib
import io
import json
import re
import struct
import zlib
from dataclasses import asdict, dataclass, fields
from typing import Final
from xml.sax.saxutils import escape, unescape

from PIL import Image, ImageSequence

SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC: created algorithmically by a trained model."""
COMPOSITE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC: a photograph into which something made by a trained model was composed."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_GIF: Final = b"GIF89a"
_XMP_KEYWORD: Final = b"XML:com.adobe.xmp"
_XMP_HEADER: Final = b"http://ns.adobe.com/xap/1.0/\x00"
_GIF_EXTENSION: Final = b"\x21\xff\x0bXMP DataXMP"
_GIF_TRAILER: Final = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
"""Makes a reader that skips sub-blocks land behind the packet, wherever it is."""
_NEITHER: Final = "provenance is kept in PNG, JPEG and GIF files, and this is none of them: convert it first"
_OURS: Final = re.compile(r"<instaface:provenance>(.*?)</instaface:provenance>", re.DOTALL)


class BadProvenance(ValueError):
    """A file that can carry no provenance, or whose provenance is damaged; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Lineage of one picture. Digests only: nothing in it names a person."""

    software: str
    """Name and version of the program."""
    model: str
    """Digest of the stage-1 model."""
    identity: str
    """Digest of the identity checkpoint; empty where none is involved."""
    edit: str
    """What was asked for, in words or JSON."""
    composite: bool = False
    """Whether part of the picture is a photograph (pasted back)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What `read_stamp` found."""

    provenance: Provenance
    intact: bool
    """Whether the pixels are those that were stamped."""


def stamp(picture: bytes, provenance: Provenance) -> bytes:
    """The same PNG, JPEG or GIF with its provenance; compressed pixels are copied, and equal input gives equal bytes.

    Raises:
        BadProvenance: another format, or already stamped.
    """
    if read_stamp(picture) is not None:
        raise BadProvenance("the picture already carries provenance: stamp the picture it was made from")
    packet = _packet(provenance, _pixel_digest(picture)).encode()
    if picture.startswith(_PNG):
        body = _XMP_KEYWORD + b"\x00\x00\x00\x00\x00" + packet
        end = _header_end(picture)
        return picture[:end] + _chunk(b"iTXt", body) + picture[end:]
    if picture.startswith(_GIF):
        end = _screen_end(picture)
        return picture[:end] + _GIF_EXTENSION + packet + _GIF_TRAILER + picture[end:]
    segment = _XMP_HEADER + packet
    if len(segment) > 65_533:
        raise BadProvenance(f"the edit takes {len(segment)} bytes and a JPEG segment holds 65,533: use PNG")
    place = _after_app0(picture)
    return picture[:place] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + picture[place:]


def read_stamp(picture: bytes) -> Stamp | None:
    """The provenance in a PNG, JPEG or GIF, or None where it has none of ours.

    Raises:
        BadProvenance: another format, or a damaged entry.
    """
    packet = _find_packet(picture)
    found = _OURS.search(packet) if packet is not None else None
    if found is None:
        return None
    try:
        values = json.loads(unescape(found.group(1)))
        pixels = values.pop("pixels")
        provenance = Provenance(**{field.name: values[field.name] for field in fields(Provenance)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadProvenance(f"the provenance entry is damaged ({type(error).__name__}: {error})") from error
    return Stamp(provenance=provenance, intact=pixels == _pixel_digest(picture))


def _packet(provenance: Provenance, pixels: str) -> str:
    ours = json.dumps(asdict(provenance) | {"pixels": pixels}, sort_keys=True, ensure_ascii=False)
    source = COMPOSITE_TYPE if provenance.composite else SOURCE_TYPE
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:instaface="urn:instaface:provenance:1">'
        f"<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>"
        f"<xmp:CreatorTool>{escape(provenance.software)}</xmp:CreatorTool>"
        f"<instaface:provenance>{escape(ours)}</instaface:provenance>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def _pixel_digest(picture: bytes) -> str:
    """blake2b of mode, size and decoded pixels, of every frame of a film."""
    if not picture.startswith((_PNG, _JPEG, _GIF)):
        raise BadProvenance(_NEITHER)
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG", "GIF")) as image:
            digest = hashlib.blake2b(digest_size=16)
            for frame in ImageSequence.Iterator(image):
                digest.update(f"{frame.mode}|{frame.size}|".encode())
                digest.update(frame.tobytes())
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise BadProvenance(f"the picture cannot be decoded ({error})") from error
    return digest.hexdigest()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _header_end(png: bytes) -> int:
    (length,) = struct.unpack(">I", png[8:12])
    return 8 + 12 + int(length)  # signature and IHDR


def _screen_end(gif: bytes) -> int:
    """Behind the logical screen descriptor and its colour table."""
    table = gif[10]
    return 13 + (3 * 2 ** ((table & 7) + 1) if table & 0x80 else 0)


def _find_packet(picture: bytes) -> str | None:
    if picture.startswith(_PNG):
        return _png_packet(picture)
    if picture.startswith(_JPEG):
        return _jpeg_packet(picture)
    if not picture.startswith(_GIF):
        raise BadProvenance(_NEITHER)
    start = picture.find(_GIF_EXTENSION)
    end = picture.find(_GIF_TRAILER[:8], start)
    if start < 0 or end < 0:
        return None
    return picture[start + len(_GIF_EXTENSION) : end].decode("utf-8", errors="replace")


def _png_packet(png: bytes) -> str | None:
    place = 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        if kind == b"iTXt" and body.startswith(_XMP_KEYWORD + b"\x00\x00\x00\x00\x00"):
            return body[len(_XMP_KEYWORD) + 5 :].decode("utf-8", errors="replace")
        place += 12 + length
    return None


def _after_app0(jpeg: bytes) -> int:
    """Where an APP1 segment belongs: after JFIF's APP0, which must stay first."""
    if jpeg[2:4] == b"\xff\xe0":
        (length,) = struct.unpack(">H", jpeg[4:6])
        return 4 + int(length)
    return 2


def _jpeg_packet(jpeg: bytes) -> str | None:
    place = 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF and jpeg[place + 1] not in (0xDA, 0xD9):
        (length,) = struct.unpack(">H", jpeg[place + 2 : place + 4])
        body = jpeg[place + 4 : place + 2 + length]
        if jpeg[place + 1] == 0xE1 and body.startswith(_XMP_HEADER):
            return body[len(_XMP_HEADER) :].decode("utf-8", errors="replace")
        place += 2 + int(length)
    return None
