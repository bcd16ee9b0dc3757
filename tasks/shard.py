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
from models.perceptual_hash import perceptual_hash
from models.rng import seed_of
from storage.canonical import canonical_json, digest_of
from storage.manifest import StatusRow
from storage.stores import Store, open_store
from tasks.array_bytes import npy_bytes
from tasks.earlier_rows import EarlierRows
from tasks.generation import Generation, Plan, build_generation
from tasks.near_duplicates import mark_near_duplicates
from tasks.ray_pool import PoolConfig
from tasks.rows import Row, RowFailed
from tasks.sources import Photo, SourceConfig, list_photos, read_photo

FIELDS = ("image.png", "meta.json", "mesh.npy")
_FACTS = ("person", "split", "licence", "aligned", "landmarks", "truth")
# A second face counts as one of several from this share of the first one's height on.
_SECOND_FACE = 0.5
_FOUND = ("faces_found", "box", "confidence", "yaw_degrees", "quad")
# Raise it whenever an aligned image of an unchanged photograph would change.
VERSION = "2"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    size: int = 256
    """Side of the aligned image in pixels."""
    min_face: int = 48
    """Faces whose box is smaller than this (pixels of the photograph) are refused: upsampling invents them."""
    several_faces: str = "largest"
    """`largest` takes the largest usable face; `refuse` refuses photographs with a second one at least half as high."""
    near_duplicates: int = 0
    """Photographs whose 64-bit perceptual hash differs in at most this many bits from an earlier one's are marked in the
    status table (4 finds recompressed and scaled copies); 0 looks for equal bytes only."""
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
        if self.several_faces not in ("largest", "refuse"):
            raise ValueError(f"several_faces={self.several_faces!r}: choose 'largest' or 'refuse'")
        if not 0 <= self.near_duplicates <= 32:
            raise ValueError(
                f"near_duplicates={self.near_duplicates}: 0 to 32 of 64 bits; unrelated pictures differ in 32"
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

    def align(
        self, data: bytes, source: str, *, aligned: bool = False, landmarks: str | None = None
    ) -> dict[str, bytes]:
        """Align the largest usable face, or the one that published `landmarks` ("x,y x,y …") mean; a photograph that is
        `aligned` already is only brought to size.

        Returns the fields of FIELDS. meta.json records the original's size and perceptual hash, how many faces were
        found, the face box, the yaw and the FFHQ quad; mesh.npy the 468 landmarks in aligned pixels. Where nothing was
        looked for these are null and empty.

        Raises:
            BadImage: not a photograph that can be read safely.
            RowFailed: no_face, too_small, or the landmarker's reason for an unusable face.
        """
        image = read_image(data, source)
        found: dict[str, Any] = dict.fromkeys(_FOUND)
        mesh = np.zeros((0, 2), np.float32)
        if aligned:
            pixels = self._resized(image, source)
        elif landmarks is not None:
            by_points = align_ffhq(image, np.array([p.split(",") for p in landmarks.split()], float), self.config.size)
            pixels, found["quad"] = by_points.image, _rounded(by_points.quad)
        else:
            pixels, mesh, found = self._aligned(image, source)
        meta = {"source": source, "height": image.shape[0], "width": image.shape[1], **found}
        meta["perceptual_hash"] = f"{perceptual_hash(image):016x}"
        return {"image.png": encode_png(pixels), "meta.json": canonical_json(meta), "mesh.npy": npy_bytes(mesh)}

    def _resized(self, image: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        if height != width:
            raise RowFailed("not_square", f"{source} is {width}×{height} pixels; an aligned photograph is square")
        size = self.config.size
        if height == size:
            return image
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))

    def _aligned(
        self, image: NDArray[np.uint8], source: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], dict[str, Any]]:
        self.landmarker = self.landmarker or FaceLandmarker()
        faces = self.landmarker.detect(image)
        face = self._choose(faces, source)
        aligned = align_ffhq(image, landmarks68(face.mesh), self.config.size)
        mesh = face.mesh[:, :2] @ aligned.to_aligned[:2, :2].T + aligned.to_aligned[:2, 2]
        return aligned.image, mesh.astype(np.float32), {
            "faces_found": len(faces),
            "box": _rounded(face.box),
            "confidence": round(float(face.confidence), 4),
            "yaw_degrees": round(float(face.yaw_degrees), 2),
            "quad": _rounded(aligned.quad),
        }  # fmt: skip

    def _choose(self, faces: Sequence[Face], source: str) -> Face:
        if not faces:
            raise RowFailed("no_face", f"no face found in {source}; give a photograph in which a face is visible")
        usable = [face for face in faces if face.reason is None]
        if not usable:
            raise RowFailed(str(faces[0].reason), f"{source}: {faces[0].sentence}")
        large = [face for face in usable if _height(face) >= _SECOND_FACE * _height(usable[0])]
        if self.config.several_faces == "refuse" and len(large) > 1:
            raise RowFailed(
                "several_faces", f"{source} shows {len(large)} faces of similar size; crop it to one person"
            )
        x0, y0, x1, y1 = (float(v) for v in usable[0].box)
        if min(x1 - x0, y1 - y0) < self.config.min_face:
            raise RowFailed(
                "too_small",
                f"the largest face in {source} is {x1 - x0:.0f}×{y1 - y0:.0f} pixels; at least "
                f"{self.config.min_face} are needed",
            )
        return usable[0]


def _height(face: Face) -> float:
    return face.box[3] - face.box[1]


class ShardWorker:
    """Process of the stage: photographs → aligned images."""

    def __init__(self, config: ShardConfig, earlier: tuple[str, ...]) -> None:
        self.aligner = Aligner(config)
        self.config = config
        self.earlier = EarlierRows(earlier, FIELDS)
        # The rest of the configuration changes no row.
        self.row_digest = digest_of([VERSION, config.size, config.min_face, config.several_faces])
        self.photos: dict[str, Photo] = {}

    def rows(self, unit: PhotoUnit) -> list[Row]:
        self.photos = {photo.key: photo for photo in unit.photos}
        return [
            Row(key=p.key, source=p.source, content_key=digest_of([p.sha256, p.aligned, p.landmarks, self.row_digest]))
            for p in unit.photos
        ]

    def make(self, row: Row) -> dict[str, bytes]:
        photo = self.photos[row.key]
        return self.aligner.align(read_photo(photo), photo.source, aligned=photo.aligned, landmarks=photo.landmarks)

    def complete(self, row: Row, sample: Mapping[str, bytes]) -> dict[str, bytes]:
        return with_facts(sample, self.photos[row.key], self.config)


def with_facts(sample: Mapping[str, bytes], photo: Photo, config: ShardConfig) -> dict[str, bytes]:
    """The sample with what its source says today: the facts of a photograph can change while its bytes do not."""
    names = ("source", *(name for name in _FACTS if name != "landmarks"))
    facts = {name: getattr(photo, name) for name in names} | {"split": split_of(photo, config)}
    return {**sample, "meta.json": canonical_json({**json.loads(sample["meta.json"]), **facts})}


def shard(
    config: ShardConfig, photos: Sequence[Photo], root: Store, pool: PoolConfig, *, redrive: Sequence[str] = ()
) -> Generation:
    """Align all photographs into image shards below `<root>/images/`.

    Of photographs with equal bytes the first is used; the others become rows of status `duplicate`.

    Raises:
        TooManyBadRows: too many photographs without a usable face; nothing is committed.
    """
    unique: dict[str, Photo] = {}
    again = []
    for photo in photos:
        if unique.setdefault(photo.key, photo) is not photo:
            again.append(photo)
    kept = list(unique.values())
    step = config.samples_per_shard
    units = [PhotoUnit(index=i // step, photos=tuple(kept[i : i + step])) for i in range(0, len(kept), step)]
    plan = Plan(
        stage="images",
        fields=FIELDS,
        config_digest=digest_of([VERSION, config]),
        inputs={"photos": digest_of([_identity(photo) for photo in photos])},
        bad_share_limit=config.bad_share_limit,
        total=len(photos),
        known=tuple(_duplicate(photo, unique[photo.key]) for photo in again),
    )
    mark = partial(mark_near_duplicates, distance=config.near_duplicates) if config.near_duplicates else None
    return build_generation(root, plan, units, partial(_worker, config), pool, redrive=redrive, mark=mark)


def _worker(config: ShardConfig, home: str, earlier: tuple[str, ...]) -> Any:
    return partial(ShardWorker, config, earlier)


def _duplicate(photo: Photo, first: Photo) -> StatusRow:
    return StatusRow(
        key=photo.key,
        source=photo.source,
        status="duplicate",
        reason=f"the same bytes as {first.source}",
        stage="images",
    )


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
def shard_task(
    config: ShardConfig, source: SourceConfig, root: str, pool: PoolConfig, redrive: Sequence[str] = ()
) -> Generation:
    """Photographs → aligned image shards."""
    store = open_store(root)
    return shard(config, list_photos(source, store), store, pool, redrive=redrive)
