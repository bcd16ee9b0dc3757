"""extract: aligned images → 3D condition maps (albedo, normal, Lambertian render, mask) and their parameters."""

import json
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
from models.face3d.open_head import DATA_FILE
from models.face3d.parameters import FRAME, FaceParameters
from models.face3d.render import geometry
from models.images import decode_png, encode_png
from storage.canonical import digest_of, sha256_of
from storage.shards import ShardEntry, stream_shard
from storage.stores import Store, open_store
from storage.units import Unit
from tasks.array_bytes import npy_bytes
from tasks.assets import asset, weights_digest
from tasks.generation import (
    EarlierRows,
    Generation,
    Plan,
    Row,
    RowFailed,
    build_generation,
    write_unit,
)
from tasks.truth import truth_parameters

FIELDS = ("albedo.png", "normal.png", "render.png", "mask.png", "params.npy", "texture.png", "landmarks.npy")
# Raise it whenever the maps of an unchanged image would change for a reason that no digest shows.
VERSION = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    estimator: str = "open"
    """`open` (landmark fit on the freely licensed head) or `deca` (needs the user's DECA and FLAME files)."""
    truth: bool = True
    """Take the face parameters of a photograph whose source knows them exactly, instead of estimating them."""
    bad_share_limit: float = 0.02
    """Share of images that may fail before the stage stops and commits nothing."""

    def __post_init__(self) -> None:
        if self.estimator not in ("open", "deca"):
            raise ValueError(f"estimator={self.estimator!r}: choose 'open' or 'deca'")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardUnit:
    index: int
    entry: ShardEntry

    def __str__(self) -> str:
        return f"shard {self.index:06d} ({self.entry.samples} images)"


def load_face_estimator(name: str) -> FaceEstimator:
    """The estimator of a configuration.

    Raises:
        AssetMissing, MissingAsset: files of the estimator are not there.
    """
    if name == "open":
        return load_estimator("open")
    return DecaEstimator(_deca_assets(), FaceLandmarker())


def estimator_digest(name: str) -> str:
    """Digest of the files that an estimator's results depend on, without loading it."""
    if name == "open":
        return digest_of([weights_digest(DATA_FILE), MEDIAPIPE_VERSION])
    return weights_digest(_deca_assets())


def _deca_assets() -> Path:
    return asset("face3d", "the converted DECA and FLAME files")


class Mapper:
    """Aligned image → sample of the maps stage. Holds the 3D estimator."""

    def __init__(self, config: ExtractConfig) -> None:
        self.config = config
        self.estimator = load_face_estimator(config.estimator)

    def maps(self, image: NDArray[np.uint8], name: str, truth: str | None = None) -> dict[str, bytes]:
        """The face of an aligned image, uint8 (S, S, 3), and its condition maps at that size.

        `truth` is the text of parameters that are known exactly; they are taken where the configuration says so.

        Raises:
            RowFailed: the estimator finds no usable face.
        """
        if truth is not None and self.config.truth:
            parameters = truth_parameters(truth)
            mesh = geometry(self.estimator.model, parameters).landmarks["mesh468"]
        else:
            parameters, mesh = self._estimate(image, name)
        maps = self.estimator.maps(parameters, image.shape[0])
        albedo = parameters.albedo if parameters.albedo is not None else np.zeros((1, 1, 3), np.uint8)
        return {
            **maps.encode(),
            "params.npy": parameters.to_npy(),
            "texture.png": encode_png(albedo),
            "landmarks.npy": npy_bytes((mesh * (image.shape[0] / FRAME[0])).astype(np.float32)),
        }

    def _estimate(self, image: NDArray[np.uint8], name: str) -> tuple[FaceParameters, NDArray[np.float32]]:
        if image.shape[:2] != FRAME:
            image = np.asarray(Image.fromarray(image).resize(FRAME, Image.Resampling.LANCZOS))
        try:
            estimate = self.estimator.estimate(image)
        except NoFace as error:
            raise RowFailed(error.reason, f"{name}: {error}") from error
        if estimate.reason is not None:
            raise RowFailed(estimate.reason, f"{name}: {estimate.sentence}")
        return estimate.parameters, estimate.detected


class ExtractWorker:
    """Ray actor of the stage: one image shard → one map shard."""

    def __init__(self, config: ExtractConfig, images: str, home: str, earlier: tuple[str, ...]) -> None:
        self.mapper = Mapper(config)
        self.images = open_store(images)
        self.home = open_store(home)
        self.row_digest = digest_of([VERSION, config.estimator, config.truth, self.mapper.estimator.digest])
        self.earlier = EarlierRows(earlier, FIELDS)

    def process(self, unit: ShardUnit) -> Unit:
        samples = dict(stream_shard(self.images, unit.entry, ["image.png", "meta.json"]))
        truths = {key: json.loads(sample["meta.json"]).get("truth") for key, sample in samples.items()}
        rows = [
            Row(
                key=key,
                source=f"{self.images.uri}/{unit.entry.name}#{key}",
                content_key=digest_of([sha256_of(sample["image.png"]), truths[key], self.row_digest]),
            )
            for key, sample in samples.items()
        ]
        return write_unit(
            self.home, "maps", unit.index, rows, FIELDS,
            lambda row: self.mapper.maps(decode_png(samples[row.key]["image.png"]), row.key, truths[row.key]),
            self.earlier,
        )  # fmt: skip


def extract(config: ExtractConfig, images: Generation, root: Store, *, workers: int) -> Generation:
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
        total=sum(entry.samples for entry in images.manifest.shards),
    )
    return build_generation(root, plan, units, partial(_worker, config, images.uri), workers=workers)


def _worker(config: ExtractConfig, images: str, home: str, earlier: tuple[str, ...]) -> Any:
    return partial(ExtractWorker, config, images, home, earlier)


@task(name="extract", persist_result=False)
def extract_task(config: ExtractConfig, images: Generation, root: str, workers: int) -> Generation:
    """Aligned images → 3D condition maps."""
    return extract(config, images, open_store(root), workers=workers)
