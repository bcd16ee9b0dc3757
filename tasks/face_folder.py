"""Condition maps of a folder of photographs or of the frames of a video, straight into files: no store, no Ray."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.face3d.align import align_ffhq
from models.face3d.contact_sheet import contact_sheet
from models.face3d.estimator import FaceEstimate, FaceEstimator, NoFace
from models.face3d.landmarks import FaceLandmarker, landmarks68
from models.face3d.parameters import FaceParameters
from models.face3d.temporal import SmoothingSettings, smooth_frames
from models.images import BadImage, encode_png, read_image
from tasks.generation import OK, RowFailed
from tasks.mapper import load_face_estimator
from tasks.progress import StageProgress
from tasks.sources import Photo, list_photos, read_photo

SHEET_ROWS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceRow:
    """How one photograph went."""

    source: str
    status: str
    reason: str = ""
    files: str = ""
    """Stem of its files in the output folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    row: FaceRow
    image: NDArray[np.uint8]
    estimate: FaceEstimate


def face_folder(source: str, out: Path, *, frames_per_second: float | None = None) -> list[FaceRow]:
    """Maps, parameters and a contact sheet of every photograph of `source`, in the order of names, below `out`.

    With `frames_per_second` the photographs are frames of one person: all share the crop of the first usable one, and
    parameters are smoothed over time (One-Euro filter). `faces.json` has a row for every photograph.

    Raises:
        NoPhotos: there is none. ValueError: a frame rate that is not positive.
    """
    settings = None if frames_per_second is None else SmoothingSettings(frames_per_second=frames_per_second)
    photos = list_photos(source)
    estimator = load_face_estimator("open")
    out.mkdir(parents=True, exist_ok=True)
    rows: list[FaceRow] = []
    found: list[Found] = []
    with StageProgress("faces", total=len(photos), unit="photographs") as progress:
        for one in _estimates(photos, estimator, share_crop=settings is not None):
            rows.append(one.row if isinstance(one, Found) else one)
            if isinstance(one, Found):
                found.append(one)
            progress.step(len(rows), rows[-1].status if rows[-1].status != OK else "")
        parameters = [one.estimate.parameters for one in found]
        for one, final in zip(found, smooth_frames(parameters, settings) if settings else parameters, strict=True):
            _write(out / one.row.files, one.image, final, estimator)
    if found:
        faces = [(one.image, one.estimate) for one in found[:SHEET_ROWS]]
        (out / "sheet.png").write_bytes(encode_png(contact_sheet(estimator, faces, size=192)))
    (out / "faces.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return rows


def _estimates(photos: list[Photo], estimator: FaceEstimator, *, share_crop: bool) -> Iterator[Found | FaceRow]:
    landmarker = FaceLandmarker()
    crop: NDArray[np.float64] | None = None
    for number, photo in enumerate(photos):
        try:
            picture = read_image(read_photo(photo), photo.source)
            faces = landmarker.detect(picture)
            if not faces or faces[0].reason is not None:
                reason = (
                    (faces[0].reason or "no_face", faces[0].sentence) if faces else ("no_face", "no face was found")
                )
                raise RowFailed(*reason)
            points = landmarks68(faces[0].mesh)
            crop = points if crop is None or not share_crop else crop
            image = align_ffhq(picture, crop).image
            estimate = estimator.estimate(image)
            if estimate.reason is not None:
                raise RowFailed(estimate.reason, estimate.sentence)
        except (BadImage, NoFace, RowFailed) as error:
            status = getattr(error, "status", getattr(error, "reason", "corrupt"))
            yield FaceRow(source=photo.source, status=str(status), reason=str(error))
            continue
        stem = f"{number:06d}-{Path(photo.name).stem}"
        yield Found(row=FaceRow(source=photo.source, status=OK, files=stem), image=image, estimate=estimate)


def _write(stem: Path, image: NDArray[np.uint8], parameters: FaceParameters, estimator: FaceEstimator) -> None:
    files = {"image.png": encode_png(image), "params.npy": parameters.to_npy()}
    files |= estimator.maps(parameters, image.shape[0]).encode()
    if parameters.albedo is not None:
        files["texture.png"] = encode_png(parameters.albedo)
    for name, data in files.items():
        stem.with_name(f"{stem.name}.{name}").write_bytes(data)
