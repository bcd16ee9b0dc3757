"""The frozen networks that features are made with, by the names configurations give them."""

from pathlib import Path

from models.encoders.codec import LatentCodec, load_kl_codec
from models.encoders.face_recognition import ArcFaceEncoder, DlibEncoder, FaceEncoder, dlib_weights
from models.encoders.latent_grid import LatentGridEncoder
from models.encoders.patch_codec import PatchCosineCodec
from models.encoders.portrait_recogniser import PortraitRecogniser
from models.encoders.semantic import EfficientNetEncoder, SemanticEncoder, efficientnet_weights, load_clip_encoder
from models.encoders.trained_codec import load_trained_codec
from models.tiny.shipped import shipped_file
from storage.canonical import digest_of
from tasks.assets import asset, weights_digest

CODECS = ("kl", "patch-trained", "patch-cosine")
SEMANTICS = ("clip", "latent-grid", "efficientnet-lite0")
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


def load_codec(name: str) -> LatentCodec:
    """Raises: as `codec_weights`."""
    place = codec_weights(name)
    if place is None:
        return PatchCosineCodec()
    return load_trained_codec(place) if name == "patch-trained" else load_kl_codec(place)


def load_semantic(name: str) -> SemanticEncoder:
    """Raises: as `codec_weights`."""
    place = semantic_weights(name)
    if name == "latent-grid":
        return LatentGridEncoder(load_trained_codec(place))
    return EfficientNetEncoder(place) if name == "efficientnet-lite0" else load_clip_encoder(place)


def load_face(name: str) -> FaceEncoder:
    """Raises: as `codec_weights`."""
    place = face_weights(name)
    if name == "portrait-recogniser":
        return PortraitRecogniser(place)
    return DlibEncoder(place) if name == "dlib" else ArcFaceEncoder(place)


def frozen_digest(codec: str, semantic: str, face: str) -> str:
    """Digest of every frozen weight that features depend on, without loading a model."""
    place = codec_weights(codec)
    of_codec = PatchCosineCodec().digest if place is None else weights_digest(place)
    return digest_of([of_codec, weights_digest(semantic_weights(semantic), face_weights(face))])
