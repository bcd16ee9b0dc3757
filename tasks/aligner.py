"""Photograph → aligned image: what the processes of the stage shard do, with the face models that it takes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.face3d.align import align_ffhq
from models.face3d.landmarks import Face, FaceLandmarker, landmarks68
from models.images import encode_png, read_image
from models.perceptual_hash import perceptual_hash
from models.rng import seed_of
from storage.canonical import canonical_json, digest_of
from tasks.array_bytes import npy_bytes
from tasks.earlier_rows import EarlierRows
from tasks.rows import Row, RowFailed
from tasks.shard import FACTS, FIELDS, VERSION, PhotoUnit, ShardConfig
from tasks.sources import Photo, read_photo

# A second face counts as one of several from this share of the first one's height on.
_SECOND_FACE = 0.5
_FOUND = ("faces_found", "box", "confidence", "yaw_degrees", "quad")


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
    names = ("source", *(name for name in FACTS if name != "landmarks"))
    facts = {name: getattr(photo, name) for name in names} | {"split": split_of(photo, config)}
    return {**sample, "meta.json": canonical_json({**json.loads(sample["meta.json"]), **facts})}


def split_of(photo: Photo, config: ShardConfig) -> str:
    """train, validation or test: the source's own word, else a stable hash of the person or of the photograph."""
    if photo.split is not None:
        return photo.split
    draw = seed_of("split", photo.person or photo.key) / 2**63
    if draw < config.test_share:
        return "test"
    return "validation" if draw < config.test_share + config.validation_share else "train"


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, dtype=np.float64), 3).tolist()
