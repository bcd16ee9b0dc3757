"""The pictures in docs/open-head.md: python benchmarks/open_head_pictures.py PHOTOS docs [FILE …]

Without file names only the public-domain photographs photo_00 … photo_03 are used; with names (to look at for oneself,
not to publish) those.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from models.face3d.align import align_ffhq
from models.face3d.contact_sheet import contact_sheet
from models.face3d.editing import FaceEdit, apply_edit, transfer
from models.face3d.estimator import FaceEstimate, FaceEstimator, load_estimator
from models.face3d.landmarks import FaceLandmarker, landmarks68
from models.face3d.parameters import FaceParameters
from models.images import read_image

PUBLIC_DOMAIN = ("photo_00.png", "photo_01.jpg", "photo_02.jpg", "photo_03.png")


def faces_of(folder: Path, names: list[str], estimator: FaceEstimator) -> list[tuple[np.ndarray, FaceEstimate]]:
    landmarker, found = FaceLandmarker(), []
    for name in names:
        image = read_image((folder / name).read_bytes(), name)
        for face in landmarker.detect(image):
            if face.reason is None:
                square = align_ffhq(image, landmarks68(face.mesh), 256)
                hint = face.mesh[:, :2] @ square.to_aligned[:2, :2].T + square.to_aligned[:2, 2]
                found.append((square.image, estimator.estimate(square.image, hint.astype(np.float32))))
            else:
                print(f"{name}: {face.sentence}")
    return found


def edits(estimator: FaceEstimator, parameters: FaceParameters, driver: FaceParameters) -> list[np.ndarray]:
    """Renders of one face turned, relit, with other expressions and with a driver's."""
    wanted = [
        FaceEdit(yaw=-30), FaceEdit(yaw=30), FaceEdit(pitch=15), FaceEdit(expressions={"smile": 0.9}),
        FaceEdit(expressions={"surprise": 0.8}), FaceEdit(expressions={"blink": 1.0}),
        FaceEdit(light="left"), FaceEdit(yaw=20, light="above"),
    ]  # fmt: skip
    changed = [parameters, *(apply_edit(estimator.model, parameters, edit) for edit in wanted)]
    changed.append(transfer(estimator.model, parameters, driver, take={"pose", "expression", "light"}))
    return [(np.clip(estimator.maps(one).render, 0, 1) * 255 + 0.5).astype(np.uint8) for one in changed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    estimator = load_estimator("open")
    faces = faces_of(arguments.photos, arguments.names or list(PUBLIC_DOMAIN), estimator)
    sheet = contact_sheet(estimator, faces, size=208)
    Image.fromarray(sheet).save(arguments.out / "open-head.jpg", quality=88)
    rows = []
    for number, (image, estimate) in enumerate(faces[:3]):
        driver = faces[(number + 2) % len(faces)][1].parameters
        rows.append(np.hstack([image, *edits(estimator, estimate.parameters, driver)]))
    edited = Image.fromarray(np.vstack(rows))
    edited.resize((edited.width * 7 // 10, edited.height * 7 // 10), Image.Resampling.LANCZOS).save(
        arguments.out / "open-head-edits.jpg", quality=88
    )


if __name__ == "__main__":
    main()
