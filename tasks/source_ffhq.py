"""FFHQ as it is published: where its pictures lie, which are aligned already, whose licence, which split.

Facts of the Flickr-Faces-HQ dataset (NVlabs/ffhq-dataset, README): `images1024x1024` and `thumbnails128x128` are aligned,
`in-the-wild-images` are not; each holds 00000.png to 69999.png, in folders of a thousand or flat; ffhq-dataset-v2.json
has a licence and 68 landmarks for each; the first 60,000 are for training, the last 10,000 for validation.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

METADATA = "ffhq-dataset-v2.json"
ALIGNED = ("images1024x1024", "thumbnails128x128")
IN_THE_WILD = "in-the-wild-images"
FIRST_OF_VALIDATION = 60_000
_NUMBERED = re.compile(r"(?:.*/)?(\d{5})(?:\.[A-Za-z]+)?")
_CATEGORIES = {"training": "train", "validation": "validation", "train": "train"}


def layout_of(name: str) -> str | None:
    """The part of FFHQ that a file belongs to by its path, None where it belongs to none."""
    return next((part for part in PurePosixPath(name).parts if part in (*ALIGNED, IN_THE_WILD)), None)


def preferred(layouts: Iterable[str]) -> str | None:
    """The part to use where several hold the same photographs: aligned before in the wild, large before small."""
    found = set(layouts)
    return next((part for part in (*ALIGNED, IN_THE_WILD) if part in found), None)


def number_of(name: str) -> int | None:
    """00000 to 69999, from the file's name."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match and int(match[1]) < 70_000 else None


def split_of_number(number: int) -> str:
    return "train" if number < FIRST_OF_VALIDATION else "validation"


def read_metadata(data: bytes, *, landmarks: bool) -> dict[str, dict[str, Any]]:
    """ffhq-dataset-v2.json → number as text → licence, split and, where they are asked for, the landmarks in the wild.

    Raises:
        ValueError: it is not that file.
    """
    try:
        return {number: _facts(entry, landmarks) for number, entry in json.loads(data).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{METADATA} is not the file that FFHQ publishes ({type(error).__name__}: {error})") from error


def _facts(entry: Mapping[str, Any], landmarks: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if licence := entry["metadata"].get("license"):
        facts["licence"] = str(licence)
    if entry.get("category") in _CATEGORIES:
        facts["split"] = _CATEGORIES[entry["category"]]
    if landmarks:
        points = entry["in_the_wild"]["face_landmarks"]
        if len(points) != 68:
            raise ValueError(f"{len(points)} landmarks instead of 68")
        facts["landmarks"] = " ".join(f"{float(x):g},{float(y):g}" for x, y in points)
    return facts
