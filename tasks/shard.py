"""shard: photographs → FFHQ-aligned images in WebDataset shards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prefect import task

from models.face3d.align import align_ffhq
from models.face3d.landmarks import Face, FaceLandmarker, landmarks68
from models.images import encode_png, read_image
from models.rng import seed_of
from storage.canonical import canonical_json, digest_of
from storage.stores import Store, open_store
from storage.units import Unit
from tasks.generation import (
    EarlierRows,
    Generation,
    Plan,
    Row,
    RowFailed,
    build_generation,
    write_unit,
)
from tasks.sources import Photo, list_photos, read_photo

FIELDS = ("image.png", "meta.json")
_FACTS = ("person", "split", "licence", "aligned", "truth")
_FOUND = ("faces_found", "box", "confidence", "yaw_degrees", "quad")
# Raise it whenever an aligned image of an unchanged photograph would change.
VERSION = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    size: int = 256
    """Side of the aligned image in pixels."""
    min_face: int = 48
    """Faces whose box is smaller than this (pixels of the photograph) are refused: upsampling invents them."""
    samples_per_shard: int = 1000
    """Photographs a shard, the unit of work and of repair."""
    bad_share_limit: float = 0.02
    """Share of photographs that may fail before the stage stops and commits nothing."""
    validation_share: float = 0.05
    """Share of people (photographs, where the source names no people) kept for validation by a stable hash."""
    test_share: float = 0.05
    """The same for the final test; a split that the source itself has is kept as it is."""

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 8:
            raise ValueError(
                f"size={self.size}: aligned images need a multiple of 8 of at least 64 pixels, for example 256"
            )
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard={self.samples_per_shard}: a shard needs at least one sample")
        for name in ("bad_share_limit", "validation_share", "test_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share lies between 0 and 1")
        if self.validation_share + self.test_share > 1:
            raise ValueError(
                "validation_share and test_share together are more than 1: nothing would be left to train on"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoUnit:
    index: int
    photos: tuple[Photo, ...]

    def __str__(self) -> str:
        return f"shard {self.index:06d} ({len(self.photos)} photographs)"


class Aligner:
    """Photograph bytes → sample of the images stage. Holds the face models."""

    def __init__(self, config: ShardConfig) -> None:
        self.config = config
        self.landmarker: FaceLandmarker | None = None  # sources of aligned photographs need none

    def align(self, data: bytes, source: str, *, aligned: bool = False) -> dict[str, bytes]:
        """Align the largest usable face; a photograph that is `aligned` already is only brought to size.

        Returns the fields of FIELDS; meta.json records the original's size, how many faces were found, the face box,
        the yaw and the FFHQ quad; all of these are null where nothing was looked for.

        Raises:
            BadImage: not a photograph that can be read safely.
            RowFailed: no_face, too_small, or the landmarker's reason for an unusable face.
        """
        image = read_image(data, source)
        found: dict[str, Any] = dict.fromkeys(_FOUND)
        if aligned:
            pixels = self._resized(image, source)
        else:
            pixels, found = self._aligned(image, source)
        meta = {"source": source, "height": image.shape[0], "width": image.shape[1], **found}
        return {"image.png": encode_png(pixels), "meta.json": canonical_json(meta)}

    def _resized(self, image: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        if height != width:
            raise RowFailed("not_square", f"{source} is {width}×{height} pixels; an aligned photograph is square")
        size = self.config.size
        if height == size:
            return image
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))

    def _aligned(self, image: NDArray[np.uint8], source: str) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        self.landmarker = self.landmarker or FaceLandmarker()
        faces = self.landmarker.detect(image)
        face = self._choose(faces, source)
        aligned = align_ffhq(image, landmarks68(face.mesh), self.config.size)
        return aligned.image, {
            "faces_found": len(faces),
            "box": _rounded(face.box),
            "confidence": round(float(face.confidence), 4),
            "yaw_degrees": round(float(face.yaw_degrees), 2),
            "quad": _rounded(aligned.quad),
        }

    def _choose(self, faces: Sequence[Face], source: str) -> Face:
        if not faces:
            raise RowFailed("no_face", f"no face found in {source}; give a photograph in which a face is visible")
        usable = [face for face in faces if face.reason is None]
        if not usable:
            raise RowFailed(str(faces[0].reason), f"{source}: {faces[0].sentence}")
        face = usable[0]
        x0, y0, x1, y1 = (float(v) for v in face.box)
        if min(x1 - x0, y1 - y0) < self.config.min_face:
            raise RowFailed(
                "too_small",
                f"the largest face in {source} is {x1 - x0:.0f}×{y1 - y0:.0f} pixels; at least {self.config.min_face} are needed",
            )
        return face


class ShardWorker:
    """Ray actor of the stage: one unit of photographs → one image shard."""

    def __init__(self, config: ShardConfig, home: str, earlier: tuple[str, ...]) -> None:
        self.aligner = Aligner(config)
        self.config = config
        self.home = open_store(home)
        self.row_digest = digest_of([VERSION, config.size, config.min_face])  # the rest changes no row
        self.earlier = EarlierRows(earlier, FIELDS)

    def process(self, unit: PhotoUnit) -> Unit:
        photos = {photo.key: photo for photo in unit.photos}
        rows = [
            Row(key=p.key, source=p.source, content_key=digest_of([p.sha256, p.aligned, self.row_digest]))
            for p in unit.photos
        ]
        return write_unit(
            self.home, "images", unit.index, rows, FIELDS,
            lambda row: self._aligned(photos[row.key]), self.earlier,
            lambda row, sample: with_facts(sample, photos[row.key], self.config),
        )  # fmt: skip

    def _aligned(self, photo: Photo) -> dict[str, bytes]:
        return self.aligner.align(read_photo(photo), photo.source, aligned=photo.aligned)


def with_facts(sample: Mapping[str, bytes], photo: Photo, config: ShardConfig) -> dict[str, bytes]:
    """The sample with what its source says today: the facts of a photograph can change while its bytes do not."""
    facts = {name: getattr(photo, name) for name in ("source", *_FACTS)} | {"split": split_of(photo, config)}
    return {**sample, "meta.json": canonical_json({**json.loads(sample["meta.json"]), **facts})}


def shard(config: ShardConfig, photos: Sequence[Photo], root: Store, *, workers: int) -> Generation:
    """Align all photographs into image shards below `<root>/images/`.

    Photographs with equal bytes are one row: the key is the content.

    Raises:
        TooManyBadRows: too many photographs without a usable face; nothing is committed.
    """
    unique = list({photo.key: photo for photo in photos}.values())
    step = config.samples_per_shard
    units = [PhotoUnit(index=i // step, photos=tuple(unique[i : i + step])) for i in range(0, len(unique), step)]
    plan = Plan(
        stage="images",
        fields=FIELDS,
        config_digest=digest_of([VERSION, config]),
        inputs={"photos": digest_of([_identity(photo) for photo in unique])},
        bad_share_limit=config.bad_share_limit,
        total=len(unique),
    )
    return build_generation(root, plan, units, partial(_worker, config), workers=workers)


def _worker(config: ShardConfig, home: str, earlier: tuple[str, ...]) -> Any:
    return partial(ShardWorker, config, home, earlier)


def split_of(photo: Photo, config: ShardConfig) -> str:
    """train, validation or test: the source's own word, else a stable hash of the person or of the photograph."""
    if photo.split is not None:
        return photo.split
    draw = seed_of("split", photo.person or photo.key) / 2**63
    if draw < config.test_share:
        return "test"
    return "validation" if draw < config.test_share + config.validation_share else "train"


def _identity(photo: Photo) -> str:
    """Everything of a photograph that its row depends on; where it lies is not part of it."""
    facts = {name: getattr(photo, name) for name in _FACTS if getattr(photo, name)}
    return f"{photo.sha256} {digest_of(facts)}" if facts else photo.sha256


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, dtype=np.float64), 3).tolist()


@task(name="shard", persist_result=False)
def shard_task(config: ShardConfig, source: str, root: str, workers: int) -> Generation:
    """Photographs → aligned image shards."""
    return shard(config, list_photos(source), open_store(root), workers=workers)
