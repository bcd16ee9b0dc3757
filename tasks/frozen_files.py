"""Where the frozen networks' weights lie, and what they hash to: known without importing a network."""

from pathlib import Path

from models.encoders.weight_files import dlib_weights, efficientnet_weights
from models.tiny.shipped import shipped_file
from storage.canonical import digest_of
from tasks.assets import asset, weights_digest

CODECS = ("kl", "patch-trained", "patch-cosine")
SEMANTICS = ("clip", "latent-grid", "efficientnet-lite0")
INVERTIBLE = ("latent-grid",)
"""Semantic encoders whose tokens hold the picture itself: with the codec it can be decoded from them."""
FACES = ("dlib", "portrait-recogniser", "arcface")
TRAINED_CODEC = "codec.safetensors"
RECOGNISER = "recogniser.safetensors"


def codec_weights(name: str) -> Path | None:
    """None where the codec has no weights.

    Raises:
        AssetMissing, DamagedWeights: the weights are not there, or not what was shipped.
    """
    if name == "patch-cosine":
        return None
    if name == "patch-trained":
        return shipped_file(TRAINED_CODEC)
    return asset("sd-vae-ft-mse", "the autoencoder sd-vae-ft-mse")


def semantic_weights(name: str) -> Path:
    """Raises: as `codec_weights`."""
    if name == "latent-grid":
        return shipped_file(TRAINED_CODEC)
    if name == "efficientnet-lite0":
        return efficientnet_weights()
    return asset("clip-vit-large-patch14", "CLIP ViT-L/14")


def face_weights(name: str) -> Path:
    """Raises: as `codec_weights`."""
    if name == "portrait-recogniser":
        return shipped_file(RECOGNISER)
    if name == "dlib":
        return dlib_weights()
    return asset("arcface/w600k_r50.onnx", "insightface's ArcFace model w600k_r50.onnx")


def frozen_digest(codec: str, semantic: str, face: str) -> str:
    """Digest of every frozen weight that features depend on, without loading a model."""
    place = codec_weights(codec)
    of_codec = _digest_without_weights() if place is None else weights_digest(place)
    return digest_of([of_codec, weights_digest(semantic_weights(semantic), face_weights(face))])


def _digest_without_weights() -> str:
    """The fixed codec is its own weights, so its digest takes computing them."""
    from models.encoders.patch_codec import PatchCosineCodec

    return PatchCosineCodec().digest
