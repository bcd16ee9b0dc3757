"""The golden FLAME files, converted once for all parity tests, as a user's own files would be."""

from pathlib import Path

import numpy as np
import pytest

from models.face3d import asset_conversion as conversion
from models.face3d import detail, flame
from models.face3d.morphable import MorphableModel
from models.face3d.parameters import FaceParameters


@pytest.fixture(scope="session")
def flame_folder(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of converted assets, with the FLAME texture space."""
    folder, source = tmp_path_factory.mktemp("assets"), golden / "flame"
    conversion.convert_flame_pickle(source / "generic_model.pkl", folder / flame.MODEL)
    conversion.convert_landmark_embedding(source / "landmark_embedding.npy", folder / flame.LANDMARKS)
    conversion.convert_head_template(source / "head_template.obj", folder / flame.TEMPLATE)
    conversion.convert_texture(source / "FLAME_texture.npz", folder / flame.TEXTURE)
    conversion.convert_mask(source / "uv_face_eye_mask.png", folder / detail.MASK)
    conversion.convert_displacement(source / "fixed_displacement_256.npy", folder / detail.FIXED)
    return folder


@pytest.fixture(scope="session")
def golden_flame(flame_folder: Path) -> MorphableModel:
    return flame.load_flame(flame_folder)


@pytest.fixture(scope="session")
def golden_faces():
    """Turns the code arrays of a golden render file into face parameters."""

    def faces(arrays, pose="pose") -> list[FaceParameters]:
        tforms = arrays["tform"] if "tform" in arrays else np.tile(np.eye(3), (len(arrays["shape"]), 1, 1))
        return [
            FaceParameters(
                model="flame",
                shape=arrays["shape"][row],
                texture=arrays["tex"][row],
                expression=arrays["exp"][row],
                pose=arrays[pose][row],
                camera=arrays["cam"][row],
                light=arrays["light"][row],
                shift=np.zeros(3),
                tform=tforms[row],
            )
            for row in range(len(arrays["shape"]))
        ]

    return faces
