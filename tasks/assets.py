"""Where weights lie that this project may not ship: one folder, INSTAFACE_ASSETS, `assets` by default.

assets/stable-diffusion-v1-5/        diffusers folder (unet/), or one .safetensors file
assets/sd-vae-ft-mse/                diffusers folder
assets/clip-vit-large-patch14/       transformers folder
assets/arcface/w600k_r50.onnx        insightface, non-commercial
assets/face3d/                       converted DECA and FLAME files, non-commercial
"""

import hashlib
import os
from pathlib import Path

VARIABLE = "INSTAFACE_ASSETS"
_CHUNK = 1 << 22


class AssetMissing(ValueError):
    """A weight file that a preset needs is not there."""


def asset(name: str, what: str) -> Path:
    """Path of an asset.

    Raises:
        AssetMissing: with the path looked at and what belongs there.
    """
    path = Path(os.environ.get(VARIABLE, "assets")) / name
    if not path.exists():
        raise AssetMissing(
            f"{what} is needed at {path} and is not there. Put it there (README, 'Bring your own weights'), point "
            f"{VARIABLE} at the folder that holds it, or use preset=tiny, which needs none"
        )
    return path


def weights_digest(*places: Path) -> str:
    """Digest of weight files (folders: every file in them, by relative name), without loading a model.

    It enters the digest of a stage, so that exchanged weights are noticed even where their place stays the same.
    """
    digest = hashlib.blake2b(digest_size=8)
    for place in places:
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        for path in files:
            digest.update(str(path.relative_to(place.parent)).encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()
