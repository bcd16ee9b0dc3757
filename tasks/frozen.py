"""The frozen networks that features are made with, by the names configurations give them."""

from models.encoders.codec import LatentCodec, load_kl_codec
from models.encoders.face_recognition import ArcFaceEncoder, DlibEncoder, FaceEncoder
from models.encoders.latent_grid import LatentGridEncoder
from models.encoders.patch_codec import PatchCosineCodec
from models.encoders.portrait_recogniser import PortraitRecogniser
from models.encoders.semantic import EfficientNetEncoder, SemanticEncoder, load_clip_encoder
from models.encoders.trained_codec import load_trained_codec
from tasks.frozen_files import codec_weights, face_weights, semantic_weights


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
