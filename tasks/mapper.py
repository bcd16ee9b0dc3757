"""Aligned image → condition maps: what the processes of the stage extract do, with the 3D models that it takes."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.face3d.deca_estimator import DecaEstimator
from models.face3d.estimator import FaceEstimator, NoFace, load_estimator
from models.face3d.landmarks import FaceLandmarker
from models.face3d.maps import ConditionMaps
from models.face3d.mesh_topology import MIRROR
from models.face3d.mirroring import mirror
from models.face3d.parameters import FRAME, FaceParameters
from models.face3d.render import geometry
from models.images import decode_png, encode_png
from storage.canonical import digest_of, sha256_of
from tasks.array_bytes import from_npy, npy_bytes
from tasks.earlier_rows import IN_ORDER, EarlierRows
from tasks.extract import FIELDS, MIRRORED, VERSION, ExtractConfig, ShardUnit, deca_assets
from tasks.generation import Generation
from tasks.rows import Row, RowFailed
from tasks.truth import truth_parameters


def load_face_estimator(name: str, device: str = "cpu") -> FaceEstimator:
    """The estimator of a configuration.

    Raises:
        AssetMissing, MissingAsset: files of the estimator are not there.
    """
    if name == "open":
        return load_estimator("open")
    return DecaEstimator(deca_assets(), FaceLandmarker(), device)


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
