"""encode: images and maps → VAE moments, map latents, face-recognition and semantic embeddings.

Everything frozen is computed here, once; training reads its results and never loads an encoder. The posterior's moments
are stored, not one draw of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect import task

from storage.canonical import digest_of
from storage.stores import Store, open_store
from tasks.extract import MIRRORED, ShardUnit
from tasks.frozen_files import CODECS, FACES, SEMANTICS, frozen_digest
from tasks.generation import Generation, Plan, build_generation
from tasks.ray_pool import Pool
from tasks.rows import RowWorker

FIELDS = ("moments.npy", "conditions.npy", "face.npy", "semantic.npy", "meta.json")
# Raise it whenever the features of an unchanged image would change for a reason that no digest shows.
VERSION = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    codec: str = "kl"
    """`kl` (the autoencoder of Stable Diffusion, from the user's files) or `patch-cosine` (a fixed linear codec, no weights)
    or `patch-trained` (the small one that ships)."""
    semantic: str = "clip"
    """`clip` (ViT-L/14 from the user's files) `efficientnet-lite0` (embedded; generic features, not CLIP) or
    `latent-grid` (the codec's own latents)."""
    face: str = "dlib"
    """`dlib` (embedded, public domain) `portrait-recogniser` (ships; trained on synthetic portraits) or `arcface`
    (insightface, from the user's files, non-commercial)."""
    flip: bool = False
    """Features of every mirror image too (key `…-mirrored`), made from the maps as they are read: no mirrored maps are
    stored. Where the maps stage stored them, these are taken."""
    bad_share_limit: float = 0.02
    """Share of images that may fail before the stage stops and commits nothing."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("codec", self.codec, CODECS),
            ("semantic", self.semantic, SEMANTICS),
            ("face", self.face, FACES),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(allowed)}")


def encoders_digest(config: EncodeConfig) -> str:
    """Digest of every frozen weight that the features depend on, without loading a model."""
    return frozen_digest(config.codec, config.semantic, config.face)


def encode(
    config: EncodeConfig,
    images: Generation,
    maps: Generation,
    root: Store,
    pool: Pool,
    *,
    redrive: Sequence[str] = (),
) -> Generation:
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
        total=_rows_of(config, maps),
    )
    make_worker = partial(_worker, config, images, maps, "cuda" if pool.gpus else "cpu")
    return build_generation(root, plan, units, make_worker, pool, redrive=redrive)


def _rows_of(config: EncodeConfig, maps: Generation) -> int:
    if not config.flip:
        return maps.manifest.samples
    reader = maps.reader(["landmarks.npy"])
    return maps.manifest.samples + sum(
        not key.endswith(MIRRORED) and key + MIRRORED not in reader for key in reader.keys
    )


def _worker(
    config: EncodeConfig, images: Generation, maps: Generation, device: str, home: str, earlier: tuple[str, ...]
) -> Any:
    return partial(_build, config, images, maps, device, earlier)


def _build(
    config: EncodeConfig, images: Generation, maps: Generation, device: str, earlier: tuple[str, ...]
) -> RowWorker:
    """In the process that makes rows: only there the frozen networks are imported."""
    from tasks.featurizer import EncodeWorker

    return EncodeWorker(config, images, maps, device, earlier)


@task(name="encode", persist_result=False)
def encode_task(
    config: EncodeConfig,
    images: Generation,
    maps: Generation,
    root: str,
    pool: Pool,
    redrive: Sequence[str] = (),
) -> Generation:
    """Images and maps → latents and embeddings."""
    return encode(config, images, maps, open_store(root), pool, redrive=redrive)
