"""Pictures to train the frozen parts on: portraits, their condition maps, and photographs of an installed package."""

import importlib.util
import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.encoders.portrait_recogniser import recogniser_crop
from models.face3d.landmarks import five_points
from models.face3d.open_head import load_open_head
from models.face3d.render import geometry
from models.images import read_image
from models.portraits.people import person_of
from models.portraits.portrait import render_portrait
from models.portraits.scenes import scene_of
from models.rng import numpy_generator

Pixels = npt.NDArray[np.uint8]
Item = TypeVar("Item")
Made = TypeVar("Made")

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "brick.png",
    "grass.png",
)
"""Pictures of scikit-image that are in its wheel; absent ones are left out."""
KINDS = ("image", "albedo", "normal", "render")


def in_parallel(make: Callable[[Item], Made], items: Sequence[Item], processes: int) -> list[Made]:
    """`make` of every item, in order, in fresh processes."""
    if processes < 2:
        return [make(item) for item in items]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(make, items, chunksize=4)


def portrait_pictures(item: tuple[int, int, int], size: int = 256) -> Pixels:
    """(4, size, size, 3): a portrait and its three maps as the codec sees them, for (seed, person, picture)."""
    seed, person, picture = item
    portrait = render_portrait(person_of(seed, person), scene_of(seed, person, picture), size=size)
    maps = portrait.maps()
    floats: list[npt.NDArray[np.floating]] = [
        np.clip(maps.albedo, 0, 1),
        np.clip(maps.normal, -1, 1) / 2 + 0.5,
        np.clip(maps.render, 0, 1),
    ]
    return np.stack([portrait.image, *(np.rint(f * 255).astype(np.uint8) for f in floats)])


def portrait_batches(
    seed: int, people: int, pictures: int, *, size: int = 256, processes: int = 1
) -> dict[str, Tensor]:
    """Kind → uint8 (people·pictures, 3, size, size), of the portraits of a population."""
    items = [(seed, person, picture) for person in range(people) for picture in range(pictures)]
    stacked = np.stack(in_parallel(partial(portrait_pictures, size=size), items, processes))
    tensor = torch.from_numpy(stacked).permute(1, 0, 4, 2, 3)
    return {kind: tensor[i].contiguous() for i, kind in enumerate(KINDS)}


def photograph_crops(size: int = 256, *, seed: int = 0, each: int = 12) -> Tensor:
    """Random crops of scikit-image's photographs at random scales: uint8 (N, 3, size, size)."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ValueError("scikit-image is missing: pip install scikit-image")
    folder, crops = Path(spec.origin).parent / "data", []
    for name in PHOTOGRAPHS:
        path = folder / name
        if not path.is_file():
            continue
        picture, rng = read_image(path.read_bytes(), name), numpy_generator(seed, "photograph crops", name)
        for _ in range(each):
            side = int(rng.integers(size, min(picture.shape[:2]) + 1)) if min(picture.shape[:2]) > size else None
            crops.append(_crop(picture, size, side, rng))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def _crop(picture: Pixels, size: int, side: int | None, rng: np.random.Generator) -> Pixels:
    import cv2

    side = side or min(picture.shape[:2])
    top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
    cut = picture[top : top + side, left : left + side]
    return np.asarray(cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def recogniser_crops(item: tuple[int, int, int], *, jitter: float = 0.012, size: int = 160) -> Pixels:
    """The aligned crop (56, 56, 3) of a portrait, with landmarks off by `jitter` of the side as a detector's are."""
    seed, person, picture = item
    portrait = render_portrait(person_of(seed, person), scene_of(seed, person, picture), size=size)
    mesh = geometry(load_open_head().model, portrait.parameters, frame=(size, size)).landmarks["mesh468"]
    points = five_points(mesh) + numpy_generator(seed, person, picture, "jitter").normal(0, jitter * size, (5, 2))
    return recogniser_crop(portrait.image, points)
