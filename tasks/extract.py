"""extract: aligned images → 3D condition maps (albedo, normal, Lambertian render, mask) and their parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prefect import task

from models.face3d.deca_estimator import DecaEstimator
from models.face3d.estimator import FaceEstimator, NoFace, load_estimator
from models.face3d.face_networks import MEDIAPIPE_VERSION
from models.face3d.landmarks import FaceLandmarker
from models.face3d.maps import ConditionMaps
from models.face3d.mesh_topology import MIRROR
from models.face3d.mirroring import mirror
from models.face3d.open_head import DATA_FILE
from models.face3d.parameters import FRAME, FaceParameters
from models.face3d.render import geometry
from models.images import decode_png, encode_png
from storage.canonical import digest_of, sha256_of
from storage.shards import ShardEntry
from storage.stores import Store, open_store
from tasks.array_bytes import from_npy, npy_bytes
from tasks.assets import asset, weights_digest
from tasks.earlier_rows import IN_ORDER, EarlierRows
from tasks.generation import Generation, Plan, build_generation
from tasks.ray_pool import PoolConfig
from tasks.rows import Row, RowFailed
from tasks.truth import truth_parameters

FIELDS = ("albedo.png", "normal.png", "render.png", "mask.png", "params.npy", "texture.png", "landmarks.npy")
MIRRORED = "-mirrored"
"""What the key of a mirror image's row ends in."""
# Raise it whenever the maps of an unchanged image would change for a reason that no digest shows.
VERSION = "2"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    estimator: str = "open"
    """`open` (landmark fit on the freely licensed head) or `deca` (needs the user's DECA and FLAME files)."""
    truth: bool = True
    """Take the face parameters of a photograph whose source knows them exactly, instead of estimating them."""
    estimated_share: float = 0.0
    """Share of these photographs, chosen by key, that are estimated all the same: so training sees estimates too."""
    flip: bool = False
    """Store the maps of every image's mirror image too, as rows of their own (key `…-mirrored`)."""
    bad_share_limit: float = 0.02
    """Share of images that may fail before the stage stops and commits nothing."""

    def __post_init__(self) -> None:
        if self.estimator not in ("open", "deca"):
            raise ValueError(f"estimator={self.estimator!r}: choose 'open' or 'deca'")
        if not 0 <= self.estimated_share <= 1:
            raise ValueError(f"estimated_share={self.estimated_share}: a share lies between 0 and 1")

    def takes_truth(self, key: str) -> bool:
        """Are exact parameters taken for the photograph of this key, where there are some?"""
        return self.truth and int(sha256_of(key.encode())[:8], 16) >= self.estimated_share * 2**32


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardUnit:
    index: int
    entry: ShardEntry

    def __str__(self) -> str:
        return f"shard {self.index:06d} ({self.entry.samples} images)"


def load_face_estimator(name: str, device: str = "cpu") -> FaceEstimator:
    """The estimator of a configuration.

    Raises:
        AssetMissing, MissingAsset: files of the estimator are not there.
    """
    if name == "open":
        return load_estimator("open")
    return DecaEstimator(_deca_assets(), FaceLandmarker(), device)


def estimator_digest(name: str) -> str:
    """Digest of the files that an estimator's results depend on, without loading it."""
    if name == "open":
        return digest_of([weights_digest(DATA_FILE), MEDIAPIPE_VERSION])
    return weights_digest(_deca_assets())


def _deca_assets() -> Path:
    return asset("face3d", "the converted DECA and FLAME files")


class Mapper:
    """Aligned image → sample of the maps stage. Holds the 3D estimator."""

    def __init__(self, config: ExtractConfig, device: str = "cpu") -> None:
        """`device` is for DECA's networks; the open estimator works on the CPU."""
        self.config = config
        self.estimator = load_face_estimator(config.estimator, device)

    def maps(
        self, image: NDArray[np.uint8], name: str, truth: str | None = None, mesh: NDArray[np.float32] | None = None
    ) -> dict[str, bytes]:
        """The face of an aligned image, uint8 (S, S, 3), and its condition maps at that size.

        `truth` is the text of parameters that are known exactly; they are taken where the configuration says so.
        `mesh` are landmarks (468, 2) of the face in the image's pixels, where they are known: no other face is taken.

        Raises:
            RowFailed: the estimator finds no usable face.
        """
        parameters, maps, points = self.face(image, name, truth, mesh)
        return _sample(parameters, maps, points)

    def face(
        self, image: NDArray[np.uint8], name: str, truth: str | None = None, mesh: NDArray[np.float32] | None = None
    ) -> tuple[FaceParameters, ConditionMaps, NDArray[np.float32]]:
        """What `maps` stores: parameters, maps, and the mesh (468, 2) in the image's pixels. Raises as it does."""
        if truth is not None and self.config.takes_truth(name):
            parameters = truth_parameters(truth)
            points = geometry(self.estimator.model, parameters).landmarks["mesh468"]
        else:
            parameters, points = self._estimate(image, name, mesh)
        size = image.shape[0]
        return parameters, self.estimator.maps(parameters, size), (points * (size / FRAME[0])).astype(np.float32)

    def mirrored(self, parameters: FaceParameters, maps: ConditionMaps, mesh: NDArray[np.float32]) -> dict[str, bytes]:
        """The sample of the mirror image: light, pose, expression and normals turned over, not only columns."""
        turned = mirror(self.estimator.model, parameters)
        return _sample(turned, maps.mirrored(), mirrored_mesh(mesh, maps.mask.shape[1]))

    def _estimate(
        self, image: NDArray[np.uint8], name: str, mesh: NDArray[np.float32] | None
    ) -> tuple[FaceParameters, NDArray[np.float32]]:
        hint = None if mesh is None or not len(mesh) else mesh * np.float32(FRAME[0] / image.shape[0])
        if image.shape[:2] != FRAME:
            image = np.asarray(Image.fromarray(image).resize(FRAME, Image.Resampling.LANCZOS))
        try:
            estimate = self.estimator.estimate(image, hint)
        except NoFace as error:
            raise RowFailed(error.reason, f"{name}: {error}") from error
        if estimate.reason is not None:
            raise RowFailed(estimate.reason, f"{name}: {estimate.sentence}")
        return estimate.parameters, estimate.detected


def _sample(parameters: FaceParameters, maps: ConditionMaps, mesh: NDArray[np.float32]) -> dict[str, bytes]:
    albedo = parameters.albedo if parameters.albedo is not None else np.zeros((1, 1, 3), np.uint8)
    return {
        **maps.encode(),
        "params.npy": parameters.to_npy(),
        "texture.png": encode_png(albedo),
        "landmarks.npy": npy_bytes(mesh.astype(np.float32)),
    }


def mirrored_mesh(mesh: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Mesh points (468, 2) of the mirror image of a picture so wide: left and right change places."""
    return (mesh[list(MIRROR)] * np.array([-1, 1], np.float32) + np.array([width, 0], np.float32)).astype(np.float32)


class ExtractWorker:
    """Process of the stage: aligned images → maps."""

    def __init__(self, config: ExtractConfig, images: Generation, device: str, earlier: tuple[str, ...]) -> None:
        self.config = config
        self.mapper = Mapper(config, device)
        self.images = images.reader(["image.png", "meta.json", "mesh.npy"], open_shards=IN_ORDER)
        self.uri = images.uri
        self.row_digest = digest_of([VERSION, config.estimator, config.truth, self.mapper.estimator.digest])
        self.earlier = EarlierRows(earlier, FIELDS)
        self._last: tuple[str, Any] = ("", None)

    def rows(self, unit: ShardUnit) -> list[Row]:
        rows = []
        for key in self.images.keys_of_shard(unit.index):
            _, sample = self.images.by_key(key)
            truth = json.loads(sample["meta.json"])["truth"] if self.config.takes_truth(key) else None
            content = [sha256_of(sample["image.png"]), truth, sha256_of(sample["mesh.npy"]), self.row_digest]
            source = f"{self.uri}/{unit.entry.name}#{key}"
            rows.append(Row(key=key, source=source, content_key=digest_of(content)))
            if self.config.flip:
                rows.append(Row(key=key + MIRRORED, source=source, content_key=digest_of([*content, MIRRORED])))
        return rows

    def make(self, row: Row) -> dict[str, bytes]:
        face = self._face(row.key.removesuffix(MIRRORED))
        return self.mapper.mirrored(*face) if row.key.endswith(MIRRORED) else _sample(*face)

    def _face(self, key: str) -> tuple[FaceParameters, ConditionMaps, NDArray[np.float32]]:
        """An image and its mirror image follow each other: one estimate serves both."""
        if self._last[0] != key:
            _, sample = self.images.by_key(key)
            truth, mesh = json.loads(sample["meta.json"])["truth"], from_npy(sample["mesh.npy"])
            self._last = key, self.mapper.face(decode_png(sample["image.png"]), key, truth, mesh)
        found: tuple[FaceParameters, ConditionMaps, NDArray[np.float32]] = self._last[1]
        return found

    def complete(self, row: Row, sample: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return sample


def extract(
    config: ExtractConfig, images: Generation, root: Store, pool: PoolConfig, *, redrive: Sequence[str] = ()
) -> Generation:
    """Condition maps for every image of a generation, below `<root>/maps/`.

    Raises:
        TooManyBadRows: too many images without a usable 3D fit; nothing is committed.
        MissingAsset: the estimator's files are not there.
    """
    units = [ShardUnit(index=i, entry=entry) for i, entry in enumerate(images.manifest.shards)]
    plan = Plan(
        stage="maps",
        fields=FIELDS,
        config_digest=digest_of([VERSION, config, estimator_digest(config.estimator)]),
        inputs={"images": images.manifest.digest},
        bad_share_limit=config.bad_share_limit,
        total=images.manifest.samples * (2 if config.flip else 1),
    )
    make_worker = partial(_worker, config, images, "cuda" if pool.gpus else "cpu")
    return build_generation(root, plan, units, make_worker, pool, redrive=redrive)


def _worker(config: ExtractConfig, images: Generation, device: str, home: str, earlier: tuple[str, ...]) -> Any:
    return partial(ExtractWorker, config, images, device, earlier)


@task(name="extract", persist_result=False)
def extract_task(
    config: ExtractConfig, images: Generation, root: str, pool: PoolConfig, redrive: Sequence[str] = ()
) -> Generation:
    """Aligned images → 3D condition maps."""
    return extract(config, images, open_store(root), pool, redrive=redrive)
