"""Synthetic portraits with everything known about them, straight into files: no store, no Ray."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.images import encode_png
from models.portraits.people import person_of
from models.portraits.portrait import GENERATOR_DIGEST, Portrait, render_portrait
from models.portraits.scenes import scene_of
from tasks.pictures import contact_sheet
from tasks.progress import StageProgress

SHEET = 48
"""Portraits on the contact sheet."""
INDEX = "portraits.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class PortraitRow:
    """One portrait of the folder."""

    files: str
    """Stem of its files."""
    person: str
    """Shared by portraits of one person."""
    seed: int
    number: int
    picture: int


def plan_rows(count: int, people: int | None, pictures: int | None, seed: int) -> list[PortraitRow]:
    """Who is rendered how often: `count` portraits of different people, unless `people` or `pictures` of each say less.

    Raises:
        ValueError: no portrait, or numbers that do not add up to `count`.
    """
    for name, value in (("N", count), ("people", people), ("pictures", pictures)):
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value}: at least one is needed")
    if people is not None and pictures is not None and people * pictures < count:
        raise ValueError(
            f"{people} people with {pictures} pictures each are fewer than {count} portraits; raise either"
        )
    each = pictures or (1 if people is None else -(-count // people))
    rows = []
    for place in range(count):
        number, picture = divmod(place, each)
        rows.append(
            PortraitRow(
                files=f"{number:06d}-{picture:04d}",
                person=f"portrait-{seed}-{number}",
                seed=seed,
                number=number,
                picture=picture,
            )
        )
    return rows


def portrait_folder(
    out: Path, count: int, *, people: int | None = None, pictures: int | None = None, size: int = 256, seed: int = 0
) -> list[PortraitRow]:
    """Render portraits into `out`: picture, parameters, UV albedo, condition maps, masks of head and face, a contact sheet.

    Raises:
        ValueError: as `plan_rows`, or a size below 16.
    """
    rows = plan_rows(count, people, pictures, seed)
    out.mkdir(parents=True, exist_ok=True)
    shown: list[tuple[str, NDArray[np.uint8]]] = []
    with StageProgress("portraits", total=len(rows), unit="portraits") as progress:
        for done, row in enumerate(rows, start=1):
            scene = scene_of(row.seed, row.number, row.picture)
            portrait = render_portrait(person_of(row.seed, row.number), scene, size=size)
            _write(out, row.files, portrait)
            if len(shown) < SHEET:
                shown.append((f"{row.number}, picture {row.picture}", portrait.image))
            progress.step(done)
    (out / "sheet.png").write_bytes(contact_sheet(shown, columns=8, side=min(size, 192)))
    index = {"generator": GENERATOR_DIGEST, "size": size, "portraits": [asdict(row) for row in rows]}
    (out / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return rows


def _write(out: Path, stem: str, portrait: Portrait) -> None:
    albedo = portrait.parameters.albedo
    assert albedo is not None
    files = {
        "image.png": encode_png(portrait.image),
        "params.json": portrait.parameters.to_json().encode(),
        "texture.png": encode_png(albedo),
        "head.png": encode_png(portrait.head.astype(np.uint8) * np.uint8(255)),
        "face.png": encode_png(portrait.face.astype(np.uint8) * np.uint8(255)),
    } | portrait.maps().encode()
    for name, data in files.items():
        (out / f"{stem}.{name}").write_bytes(data)
