"""evaluate: what the edits of an identity are worth, measured on the pictures themselves.

A first version of the paper's measures: structural similarity to the photograph (SSIM, Wang et al. 2004), Re-ID with
dlib's recogniser, and the pose that the 3D estimator re-infers from the edit against the pose that was asked for. A
picture in which no face is found is counted, never dropped.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task

from models.encoders.face_recognition import DlibEncoder
from models.face3d.landmarks import FaceLandmarker, five_points
from models.face3d.parameters import FaceParameters
from models.images import decode_png
from models.metrics.reinference import rotation_degrees
from models.metrics.similarity import ssim
from storage.canonical import digest_of
from storage.records import Record, commit_record, committed, read_record
from storage.stores import Store, open_store
from tasks.edit_config import EvaluateConfig
from tasks.edit_identity import find_edits, find_identity
from tasks.generation import RowFailed
from tasks.mapper import Mapper
from tasks.pictures import stack
from tasks.preset import Preset
from tasks.progress import StageProgress
from tasks.ray_pool import run_remote

VERSION = "2"
MEANINGS = {
    "edits": "images evaluated",
    "face_found": "share of edits in which the detector finds a face; the others count as failures below",
    "same_person": "share of all edits within dlib distance 0.6 of the photograph (Re-ID match rate)",
    "mean_dlib_distance": "mean dlib distance to the photograph, over edits with a face",
    "mean_ssim": "structural similarity of the luminance to the photograph (Wang 2004); large edits lower it by design",
    "median_pose_error_degrees": "angle between the pose asked for and the pose re-inferred, over edits that could be fitted",
    "maps_pose_error_degrees": "the same for the condition render itself: what the estimator's own error contributes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    uri: str
    summary: Mapping[str, float | None]
    """Figures by name (MEANINGS); None where nothing could be measured."""
    rows: tuple[Mapping[str, Any], ...]
    reused: bool
    seconds: float = 0.0


def evaluate(preset: Preset, edits_uri: str, root: Store) -> Evaluation:
    """Measure one set of edits, or find it measured; below `<root>/evaluations/<digest>/`."""
    home = root.child(f"evaluations/{digest_of([VERSION, preset.evaluate, preset.extract, edits_uri])}")
    edits = committed(edits_uri)
    total = len(edits.facts["images"])
    with StageProgress("evaluate", total=total, unit="images") as progress:
        record = read_record(home)
        if record is not None:
            progress.reused({})
            return evaluation_of(record, reused=True, seconds=progress.seconds)
        rows = run_remote(measure, preset, edits)
        progress.step(total)
    facts = {
        "edits": edits_uri,
        "summary": summarise(rows, preset.evaluate),
        "rows": rows,
        "config": asdict(preset.evaluate),
    }
    return evaluation_of(commit_record(home, {}, facts), reused=False, seconds=progress.seconds)


def measure(preset: Preset, edits: Record) -> list[dict[str, Any]]:
    """One row an edit: ssim, face_found, dlib_distance and pose errors (None where not measurable)."""
    identity = committed(str(edits.facts["identity"]))
    photograph = decode_png(identity.read("image.png"))
    landmarker, recogniser, mapper = FaceLandmarker(), DlibEncoder(), Mapper(preset.extract)
    original = _embedding(photograph, landmarker, recogniser)
    rows = []
    for item in edits.facts["images"]:
        image, render = decode_png(edits.read(item["image"])), decode_png(edits.read(item["render"]))
        asked = FaceParameters.from_npy(edits.read(item["params"]))
        found = _embedding(image, landmarker, recogniser)
        both = original is not None and found is not None
        rows.append(
            {
                "name": item["name"],
                "ssim": _round(ssim(stack([photograph]), stack([image]))[0]),
                "face_found": found is not None,
                "dlib_distance": float(np.linalg.norm(original - found)) if both else None,  # type: ignore[operator]
                "pose_error_degrees": _pose_error(mapper, image, asked),
                "maps_pose_error_degrees": _pose_error(mapper, render, asked),
            }
        )
    return rows


def summarise(rows: list[dict[str, Any]], config: EvaluateConfig) -> dict[str, float | None]:
    """Figures of MEANINGS from the rows of `measure`."""

    def values(name: str) -> list[float]:
        return [float(row[name]) for row in rows if row[name] is not None]

    distances = values("dlib_distance")
    return {
        "edits": float(len(rows)),
        "face_found": sum(row["face_found"] for row in rows) / len(rows),
        "same_person": sum(d <= config.same_person for d in distances) / len(rows),
        "mean_dlib_distance": _round(np.mean(distances)) if distances else None,
        "mean_ssim": _round(np.mean(values("ssim"))),
        "median_pose_error_degrees": _median(values("pose_error_degrees")),
        "maps_pose_error_degrees": _median(values("maps_pose_error_degrees")),
    }


def _embedding(
    image: NDArray[np.uint8], landmarker: FaceLandmarker, recogniser: DlibEncoder
) -> NDArray[np.float32] | None:
    faces = [face for face in landmarker.detect(image) if face.reason is None]
    return recogniser.embed(image, five_points(faces[0].mesh)) if faces else None


def _pose_error(mapper: Mapper, image: NDArray[np.uint8], asked: FaceParameters) -> float | None:
    try:
        found = FaceParameters.from_npy(mapper.maps(image, "an edit")["params.npy"])
    except RowFailed:
        return None  # no face to re-infer: counted by face_found
    return _round(rotation_degrees(asked.pose[:3], found.pose[:3]))


def _median(values: list[float]) -> float | None:
    return _round(np.median(values)) if values else None


def _round(value: Any) -> float:
    return round(float(value), 4)


def evaluation_of(record: Record, *, reused: bool, seconds: float = 0.0) -> Evaluation:
    """A finished evaluation from its record."""
    facts = record.facts
    return Evaluation(
        uri=record.uri, summary=facts["summary"], rows=tuple(facts["rows"]), reused=reused, seconds=seconds
    )


@task(name="evaluate", persist_result=False)
def evaluate_task(preset: Preset, identity_id: str | None, edits_uri: str | None, root: str) -> Evaluation:
    """Edits of an identity → figures."""
    store = open_store(root)
    if edits_uri is None:
        edits_uri = find_edits(find_identity(store, identity_id))
    return evaluate(preset, edits_uri, store)
