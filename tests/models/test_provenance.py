"""Provenance: pixels stay, other programs still read the file, a changed picture is told from an unchanged one."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from models.images import decode_png, encode_png, read_image
from models.provenance import COMPOSITE_TYPE, SOURCE_TYPE, BadProvenance, Provenance, read_stamp, stamp

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
WHO = Provenance(software="InstaFace 0.1", model="0123abcd", identity="feed", edit='{"yaw": -25, "name": "<&> ü"}')


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _gif(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.roll(pixels, n, axis=1)) for n in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)
    return buffer.getvalue()


@pytest.mark.parametrize("encode", [encode_png, _jpeg])
def test_stamp_keeps_the_pixels_and_reads_back(encode) -> None:  # type: ignore[no-untyped-def]
    plain = encode(PICTURE)
    stamped = stamp(plain, WHO)
    found = read_stamp(stamped)
    assert found is not None
    assert found.provenance == WHO
    assert found.intact
    assert stamp(plain, WHO) == stamped
    assert read_stamp(plain) is None
    np.testing.assert_array_equal(read_image(stamped, "stamped"), read_image(plain, "plain"))


def test_a_film_keeps_its_frames() -> None:
    plain = _gif(PICTURE)
    stamped = stamp(plain, WHO)
    found = read_stamp(stamped)
    assert found is not None
    assert found.intact
    assert found.provenance == WHO
    assert read_stamp(plain) is None
    with Image.open(io.BytesIO(stamped)) as one, Image.open(io.BytesIO(plain)) as other:
        assert (one.n_frames, other.n_frames) == (3, 3)  # type: ignore[attr-defined]
        for frame in range(3):
            one.seek(frame)
            other.seek(frame)
            np.testing.assert_array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))


def test_a_film_with_another_ending_is_not_the_one_that_was_stamped() -> None:
    def screen_end(gif: bytes) -> int:
        return 13 + (3 * 2 ** ((gif[10] & 7) + 1) if gif[10] & 0x80 else 0)

    one, other = _gif(PICTURE), io.BytesIO()
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(other, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)
    stamped, forged = stamp(one, WHO), other.getvalue()
    packet = stamped[screen_end(one) : len(stamped) - len(one) + screen_end(one)]
    found = read_stamp(forged[: screen_end(forged)] + packet + forged[screen_end(forged) :])
    assert found is not None
    assert not found.intact


def test_other_programs_find_the_source_type() -> None:
    composite = Provenance(software="x", model="m", identity="", edit="", composite=True)
    for data, expected in (
        (stamp(encode_png(PICTURE), WHO), SOURCE_TYPE),
        (stamp(_jpeg(PICTURE), WHO), SOURCE_TYPE),
        (stamp(encode_png(PICTURE), composite), COMPOSITE_TYPE),
    ):
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            packet = image.info["xmp"]
        tree = ElementTree.fromstring(packet)
        name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
        assert [element.text for element in tree.iter(name)] == [expected]


def test_png_stays_a_png_of_our_own_reader() -> None:
    np.testing.assert_array_equal(decode_png(stamp(encode_png(PICTURE), WHO)), PICTURE)


def test_a_changed_picture_is_not_intact() -> None:
    stamped = stamp(encode_png(PICTURE), WHO)
    changed = PICTURE.copy()
    changed[0, 0] ^= 1
    header = 8 + 25
    other = encode_png(changed)
    chunk = stamped[header : header + len(stamped) - len(encode_png(PICTURE))]
    found = read_stamp(other[:header] + chunk + other[header:])
    assert found is not None
    assert not found.intact
    assert found.provenance == WHO


def test_what_cannot_carry_provenance_says_so() -> None:
    stamped = stamp(encode_png(PICTURE), WHO)
    with pytest.raises(BadProvenance, match="already carries"):
        stamp(stamped, WHO)
    with pytest.raises(BadProvenance, match="none of them"):
        stamp(b"BM......", WHO)
    with pytest.raises(BadProvenance, match="damaged"):
        read_stamp(stamped.replace(b'"model"', b'"nodel"'))
    with pytest.raises(BadProvenance, match="decoded"):
        stamp(encode_png(PICTURE)[:60], WHO)
    with pytest.raises(BadProvenance, match="use PNG"):
        stamp(_jpeg(PICTURE), Provenance(software="x", model="m", identity="", edit="e" * 70_000))
