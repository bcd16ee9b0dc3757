"""encode: images and maps → VAE moments, map latents, face-recognition and semantic embeddings.

Everything frozen is computed here, once; training reads its results and never loads an encoder. The posterior's moments
are stored, not one draw of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import task

from models.diffusion.config import MAPS
from models.diffusion.fusion import as_batch, fuse
from models.encoders.codec import LatentCodec, load_kl_codec
from models.encoders.face_recognition import ArcFaceEncoder, DlibEncoder, FaceEncoder, dlib_weights
from models.encoders.patch_codec import PatchCosineCodec
from models.encoders.semantic import EfficientNetEncoder, SemanticEncoder, efficientnet_weights, load_clip_encoder
from models.face3d.landmarks import five_points
from models.face3d.maps import ConditionMaps
from models.images import decode_png
from storage.canonical import canonical_json, digest_of, sha256_of
from storage.shards import stream_shard
from storage.stores import Store, open_store
from storage.units import Unit
from tasks.array_bytes import from_npy, npy_bytes
from tasks.assets import asset, weights_digest
from tasks.extract import ShardUnit
from tasks.generation import EarlierRows, Generation, Plan, Row, build_generation, write_unit

FIELDS = ("moments.npy", "conditions.npy", "face.npy", "semantic.npy", "meta.json")
_READ = ("albedo.png", "normal.png", "render.png", "mask.png", "landmarks.npy")
# Raise it whenever the features of an unchanged image would change for a reason that no digest shows.
VERSION = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    codec: str = "kl"
    """`kl` (the autoencoder of Stable Diffusion, from the user's files) or `patch-cosine` (a fixed linear codec, no weights)."""
    semantic: str = "clip"
    """`clip` (ViT-L/14 from the user's files) or `efficientnet-lite0` (embedded; generic features, not CLIP)."""
    face: str = "dlib"
    """`dlib` (embedded, public domain) or `arcface` (insightface, from the user's files, non-commercial)."""
    bad_share_limit: float = 0.02
    """Share of images that may fail before the stage stops and commits nothing."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("codec", self.codec, ("kl", "patch-cosine")),
            ("semantic", self.semantic, ("clip", "efficientnet-lite0")),
            ("face", self.face, ("dlib", "arcface")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(allowed)}")


def codec_weights() -> Path:
    return asset("sd-vae-ft-mse", "the autoencoder sd-vae-ft-mse")


def semantic_weights(name: str) -> Path:
    embedded = name == "efficientnet-lite0"
    return efficientnet_weights() if embedded else asset("clip-vit-large-patch14", "CLIP ViT-L/14")


def face_weights(name: str) -> Path:
    embedded = name == "dlib"
    return dlib_weights() if embedded else asset("arcface/w600k_r50.onnx", "insightface's ArcFace model w600k_r50.onnx")


def load_codec(name: str) -> LatentCodec:
    return PatchCosineCodec() if name == "patch-cosine" else load_kl_codec(codec_weights())


def load_semantic(name: str) -> SemanticEncoder:
    place = semantic_weights(name)
    return EfficientNetEncoder(place) if name == "efficientnet-lite0" else load_clip_encoder(place)


def load_face(name: str) -> FaceEncoder:
    place = face_weights(name)
    return DlibEncoder(place) if name == "dlib" else ArcFaceEncoder(place)


def encoders_digest(config: EncodeConfig) -> str:
    """Digest of every frozen weight that the features depend on, without loading a model."""
    codec = PatchCosineCodec().digest if config.codec == "patch-cosine" else weights_digest(codec_weights())
    return digest_of([codec, weights_digest(semantic_weights(config.semantic), face_weights(config.face))])


class Featurizer:
    """Image and maps → features of one sample. Holds the frozen encoders."""

    def __init__(self, config: EncodeConfig) -> None:
        self.codec = load_codec(config.codec)
        self.semantic = load_semantic(config.semantic)
        self.face = load_face(config.face)
        self.digest = digest_of([VERSION, self.codec.digest, self.semantic.digest, self.face.digest])

    def features(self, image: NDArray[np.uint8], maps: ConditionMaps, mesh: NDArray[np.float32]) -> dict[str, bytes]:
        """Features of an aligned image, uint8 (S, S, 3), its condition maps and its mesh landmarks (468, 2) in pixels.

        Returns float16 npy: moments (2C, h, w), conditions (3C, h, w), semantic (L, D); float32 npy: face (F,).
        """
        picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        moments = self.codec.moments(picture)[0]
        return {
            "moments.npy": npy_bytes(moments.numpy().astype(np.float16)),
            "conditions.npy": npy_bytes(map_latents(self.codec, [maps])[0].numpy().astype(np.float16)),
            "face.npy": npy_bytes(self.face.embed(image, five_points(mesh)).astype(np.float32)),
            "semantic.npy": npy_bytes(self.semantic.encode([image])[0].numpy().astype(np.float16)),
        }


def map_latents(codec: LatentCodec, maps: Sequence[ConditionMaps]) -> torch.Tensor:
    """3D Fusion Controller: each map through the frozen codec, concatenated on channels → (B, 3C, h, w)."""
    return fuse(codec, {name: as_batch([getattr(m, name) for m in maps]) for name in MAPS})


class EncodeWorker:
    """Ray actor of the stage: one map shard and its images → one feature shard."""

    def __init__(
        self, config: EncodeConfig, images: Generation, maps: Generation, home: str, earlier: tuple[str, ...]
    ) -> None:
        torch.set_num_threads(1)  # one actor a core; also keeps sums in one order
        self.featurizer = Featurizer(config)
        self.images = images.reader(["image.png", "meta.json"])
        self.maps = maps.store()
        self.home = open_store(home)
        self.config_digest = digest_of([VERSION, config, self.featurizer.digest])
        self.earlier = EarlierRows(earlier, FIELDS)

    def process(self, unit: ShardUnit) -> Unit:
        samples = dict(stream_shard(self.maps, unit.entry, list(_READ)))
        rows = [
            Row(
                key=key,
                source=f"{self.maps.uri}/{unit.entry.name}#{key}",
                content_key=digest_of(
                    [self.config_digest, sha256_of(self._image(key)), *(sha256_of(sample[f]) for f in _READ)]
                ),
            )
            for key, sample in samples.items()
        ]
        return write_unit(
            self.home,
            "features",
            unit.index,
            rows,
            FIELDS,
            lambda row: self._features(row.key, samples[row.key]),
            self.earlier,
            lambda row, sample: {**sample, "meta.json": self._meta(row.key)},
        )

    def _meta(self, key: str) -> bytes:
        """Who is to be seen and what the row is for: all that training asks of a photograph's facts."""
        facts = json.loads(self.images.by_key(key)[1]["meta.json"])
        return canonical_json({"person": facts["person"], "split": facts["split"]})

    def _image(self, key: str) -> bytes:
        data: bytes = self.images.by_key(key)[1]["image.png"]
        return data

    def _features(self, key: str, sample: dict[str, bytes]) -> dict[str, bytes]:
        image = decode_png(self._image(key))
        return self.featurizer.features(image, ConditionMaps.decode(sample), from_npy(sample["landmarks.npy"]))


def encode(config: EncodeConfig, images: Generation, maps: Generation, root: Store, *, workers: int) -> Generation:
    """Features for every map of a generation, below `<root>/features/`.

    Raises:
        AssetMissing: an encoder's weights are not there.
        TooManyBadRows: too many rows failed; nothing is committed.
    """
    units = [ShardUnit(index=i, entry=entry) for i, entry in enumerate(maps.manifest.shards)]
    plan = Plan(
        stage="features",
        fields=FIELDS,
        config_digest=digest_of([VERSION, config, encoders_digest(config)]),
        inputs={"images": images.manifest.digest, "maps": maps.manifest.digest},
        bad_share_limit=config.bad_share_limit,
        total=sum(entry.samples for entry in maps.manifest.shards),
    )
    return build_generation(root, plan, units, partial(_worker, config, images, maps), workers=workers)


def _worker(config: EncodeConfig, images: Generation, maps: Generation, home: str, earlier: tuple[str, ...]) -> Any:
    return partial(EncodeWorker, config, images, maps, home, earlier)


@task(name="encode", persist_result=False)
def encode_task(config: EncodeConfig, images: Generation, maps: Generation, root: str, workers: int) -> Generation:
    """Images and maps → latents and embeddings."""
    return encode(config, images, maps, open_store(root), workers=workers)
