"""Which photographs the demo fine-tunes on and drives with, chosen by what preprocessing found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from prefect import task

from models.images import encode_png, read_image
from storage.canonical import sha256_of
from storage.stores import Store, open_store
from tasks.generation import OK, Generation, find_generation
from tasks.image_uri import read_image_uri
from tasks.portraits import portrait_scene
from tasks.sources import PORTRAITS

_READ = ("image.png", "meta.json")


@dataclass(frozen=True, slots=True)
class Choice:
    subject: str
    """Image URI of the person to edit: the most frontal, most certain face."""
    driver: str
    """Image URI of another photograph, whose pose, expression and light are taken: the least like the subject's pose."""


def choose_photographs(images: Generation, root: Store) -> Choice:
    """Subject and driver among the usable photographs; where there is only one, its mirror image drives. Synthetic
    portraits, which lie nowhere, are written below `portraits/`."""
    sources = {row.key: row.source for row in images.status() if row.status == OK}
    rows = {key: (json.loads(sample["meta.json"]), sample["image.png"]) for key, sample in images.reader(_READ)}
    metas = {key: meta | {"yaw_degrees": _yaw(meta)} for key, (meta, _) in rows.items()}
    for key in metas:
        if sources[key].startswith(PORTRAITS):
            sources[key] = _written(rows[key][1], f"portraits/{key}.png", root)
    subject = min(
        metas, key=lambda key: (abs(metas[key]["yaw_degrees"] or 0) - 20 * (metas[key]["confidence"] or 0), key)
    )
    others = [key for key in metas if key != subject]
    if not others:
        return Choice(sources[subject], _mirrored(sources[subject], root))
    yaw = metas[subject]["yaw_degrees"] or 0
    driver = max(others, key=lambda key: (abs((metas[key]["yaw_degrees"] or 0) - yaw), key))
    return Choice(sources[subject], sources[driver])


def _mirrored(source: str, root: Store) -> str:
    picture = read_image(read_image_uri(source), source)
    data = encode_png(np.ascontiguousarray(picture[:, ::-1]))
    return _written(data, f"drivers/mirrored-{sha256_of(data)[:16]}.png", root)


def _yaw(meta: Mapping[str, Any]) -> float | None:
    """Of the face that was detected, or of the synthetic portrait."""
    truth = json.loads(meta["truth"] or "{}")
    if "portrait" in truth:
        return portrait_scene(truth["portrait"]).yaw
    found: float | None = meta["yaw_degrees"]
    return found


def _written(data: bytes, name: str, root: Store) -> str:
    root.create(name, data)
    return f"{root.uri}/{name}"


@task(name="choose-photographs", persist_result=False)
def choose_task(images: str, root: str) -> Choice:
    """Subject and driver of the demo."""
    store = open_store(root)
    return choose_photographs(find_generation(store, "images", images), store)
