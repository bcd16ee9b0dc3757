"""How near edited pictures come to the truth: by region, perceptually, in who it is and in what was asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.encoders.face_recognition import DlibEncoder
from models.face3d.estimator import FaceEstimator, NoFace
from models.face3d.landmarks import FaceLandmarker, five_points
from models.face3d.mesh_topology import outer_eye_distance
from models.metrics.perceptual import PerceptualDistance
from models.metrics.similarity import psnr
from tasks.pictures import stack
from tasks.portrait_trial import Subject

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Row = dict[str, Any]

CHOICES = ("turn left", "turn right", "mouth open", "smile", "light left")
"""Among these five (and the unedited picture) an edit must be nearest to its own truth."""
PERCEPTUAL_SIDE = 128
"""Pictures are compared perceptually at this size: a quarter of the time of 256."""


class Judge:
    """The models that judge; none of them conditions anything. Make one a process."""

    def __init__(self, perceptual: PerceptualDistance | None, estimator: FaceEstimator | None = None) -> None:
        """`estimator` re-estimates light; None leaves that out. `perceptual` None leaves perceptual distances out."""
        self.landmarker = FaceLandmarker()
        self.dlib = DlibEncoder()
        self.perceptual = perceptual
        self.estimator = estimator
        self._truths: dict[tuple[int, str], tuple[Any, Any]] = {}

    def wanted(self, subject: Subject, name: str) -> tuple[NDArray[np.float32] | None, NDArray[np.float64] | None]:
        """Mesh points and direction of light found in the truth of an edit; looked for once."""
        key = (subject.number, name)
        if key not in self._truths:
            image = subject.truths[name].image
            self._truths[key] = self.seen(image)[0], self.light(image) if name.startswith("light") else None
        return self._truths[key]

    def seen(self, image: Pixels) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Mesh points (468, 2) and dlib's embedding (128,) of the largest face; None where there is none."""
        faces = self.landmarker.detect(image)
        if not faces:
            return None, None
        mesh = faces[0].mesh
        return np.asarray(mesh[:, :2], np.float32), self.dlib.embed(image, five_points(mesh))

    @torch.no_grad()
    def perceived(self, one: Sequence[Pixels], other: Sequence[Pixels]) -> list[float | None]:
        """Perceptual distance of pairs of pictures."""
        if self.perceptual is None:
            return [None] * len(one)
        pairs = (_small(one), _small(other))
        distance: torch.Tensor = self.perceptual(*pairs)
        return [round(float(value), 5) for value in distance]

    def light(self, image: Pixels) -> NDArray[np.float64] | None:
        """Direction the estimator finds the light to come from, (3,)."""
        if self.estimator is None:
            return None
        try:
            found = self.estimator.estimate(image)
        except NoFace:
            return None
        return np.asarray(found.parameters.light[1:4].mean(axis=1), np.float64)


def scored(judge: Judge, subject: Subject, method: str, pictures: Mapping[str, Pixels]) -> list[Row]:
    """One row a picture: PSNR in head, face and background, perceptual distances, landmarks, light, choice, embedding."""
    names = [name for name in pictures if name in subject.truths]
    truths = [subject.truths[name] for name in names]
    whole = judge.perceived([pictures[name] for name in names], [truth.image for truth in truths])
    inside = [
        np.where(truth.head[..., None], pictures[name], truth.image) for name, truth in zip(names, truths, strict=True)
    ]
    of_head = judge.perceived(inside, [truth.image for truth in truths])
    rows = []
    for number, (name, truth) in enumerate(zip(names, truths, strict=True)):
        picture = pictures[name]
        outside = ~(truth.head | subject.source.head)
        mesh, embedding = judge.seen(picture)
        rows.append(
            {
                "person": subject.number,
                "method": method,
                "edit": name,
                "head": region_psnr(picture, truth.image, truth.head),
                "face": region_psnr(picture, truth.image, truth.face),
                "background": region_psnr(picture, truth.image, outside),
                "all": region_psnr(picture, truth.image, None),
                "perceptual": whole[number],
                "perceptual_head": of_head[number],
                "chosen": chosen(subject, picture) if name in CHOICES else None,
                "picked": chosen(subject, picture, source=False) if name in CHOICES else None,
                "points": None if mesh is None else _points_error(judge, subject, name, mesh),
                "light": _light_error(judge, subject, name, picture) if name.startswith("light") else None,
                "dlib": None if embedding is None else [round(float(value), 5) for value in embedding],
            }
        )
    return rows


def region_psnr(picture: Pixels, truth: Pixels, mask: Mask | None) -> float | None:
    """PSNR in dB inside a mask (H, W), or everywhere; None for an empty mask, 99 for equal pixels."""
    if mask is not None and not mask.any():
        return None
    weight = None if mask is None else torch.from_numpy(mask.copy())[None]
    value = float(psnr(stack([picture]), stack([truth]), weight)[0])
    return round(min(value, 99.0), 3)


def chosen(subject: Subject, picture: Pixels, *, source: bool = True) -> str:
    """Which of the truths of CHOICES, or the source, the picture is nearest to, by squared error in any of their heads."""
    candidates = {"source": subject.source} if source else {}
    candidates |= {name: subject.truths[name] for name in CHOICES}
    region = np.any([one.head for one in candidates.values()], axis=0)
    errors = {
        name: float(((one.image[region].astype(np.float32) - picture[region]) ** 2).mean())
        for name, one in candidates.items()
    }
    return min(errors, key=lambda name: errors[name])


def _points_error(judge: Judge, subject: Subject, name: str, mesh: NDArray[np.float32]) -> float | None:
    """Mean distance of the mesh points from those found in the truth, over the outer-eye distance."""
    wanted, _ = judge.wanted(subject, name)
    if wanted is None:
        return None
    return round(float(np.linalg.norm(mesh - wanted, axis=1).mean() / outer_eye_distance(wanted)), 5)


def _light_error(judge: Judge, subject: Subject, name: str, picture: Pixels) -> float | None:
    """Degrees between the light found in the picture and the light found in the truth."""
    found, (_, wanted) = judge.light(picture), judge.wanted(subject, name)
    if found is None or wanted is None:
        return None
    cosine = float(found @ wanted / max(float(np.linalg.norm(found) * np.linalg.norm(wanted)), 1e-9))
    return round(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), 3)


def _small(images: Sequence[Pixels]) -> torch.Tensor:
    side = PERCEPTUAL_SIDE
    small = [np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for image in images]
    return stack(small) * 2 - 1
