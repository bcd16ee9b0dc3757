"""What one picture is worth, measured against the photograph and, where it exists, against the true picture of the edit.

A picture without a face has no identity and no re-inferred parameters: these figures are None and the picture is counted,
never dropped. A measure whose weights are not here is not in the rows at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.encoders.face_recognition import ArcFaceEncoder, DlibEncoder, FaceEncoder, arcface_crop
from models.encoders.portrait_recogniser import PortraitRecogniser
from models.encoders.semantic import EfficientNetEncoder
from models.encoders.weight_files import dlib_weights, efficientnet_weights
from models.face3d.estimator import FaceEstimator, NoFace
from models.face3d.landmarks import FaceLandmarker, five_points
from models.face3d.parameters import FRAME, FaceParameters
from models.metrics.inception import load_inception
from models.metrics.perceptual import PerceptualDistance, lpips_alex, shift_tolerant, shift_tolerant_weights
from models.metrics.reid import DLIB_MATCH, confidence, reading
from models.metrics.reinference import parameter_error
from models.metrics.similarity import psnr, ssim
from models.tiny.shipped import shipped_file
from storage.canonical import digest_of
from tasks.assets import AssetMissing, asset, weights_digest
from tasks.evaluation_people import Subject
from tasks.frozen_files import RECOGNISER
from tasks.pictures import stack

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Row = dict[str, Any]
# Raise it whenever the scores of an unchanged picture would change for a reason that no digest shows.
VERSION = "1"
MOST_PSNR = 99.0
PERCEPTUAL_BATCH = 4
_ALEXNET, _HEADS = "lpips/alexnet-owt-7be5be79.pth", "lpips/alex.pth"
_ARCFACE = "arcface/w600k_r50.onnx"
_INCEPTION = "inception/pt_inception-2015-12-05-6726825d.pth"


class Embedder(Protocol):
    """Who a face is, or what it looks like, as one vector."""

    def embed(self, image: Pixels, five_points: Floats) -> Floats: ...


class CropFeatures:
    """Generic features (EfficientNet-Lite0) of the aligned face crop: no recogniser, so nothing was conditioned on it."""

    def __init__(self, network: EfficientNetEncoder) -> None:
        self.network = network

    def embed(self, image: Pixels, five_points: Floats) -> Floats:
        return np.asarray(self.network.encode([arcface_crop(image, five_points)])[0, 0].numpy(), np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruments:
    """Which measures can be taken here."""

    lpips: tuple[Path, Path] | None
    """AlexNet and LPIPS' heads, where the user has them."""
    arcface: Path | None
    inception: Path | None
    """FID's network, where the user has it."""
    st_lpips: bool
    missing: Mapping[str, str]
    """Measure → why it is not available."""
    digest: str
    """Changes with every weight that decides a score."""


def instruments() -> Instruments:
    """Look which weights are here, without loading any."""
    missing: dict[str, str] = {}
    digests = [weights_digest(dlib_weights(), shipped_file(RECOGNISER), efficientnet_weights())]
    try:
        digests.append(weights_digest(shift_tolerant_weights()))
    except RuntimeError as error:
        missing["st_lpips"] = str(error)
    lpips, arcface, inception = None, None, None
    try:
        lpips = (asset(_ALEXNET, "LPIPS' AlexNet (torchvision's file)"), asset(_HEADS, "LPIPS' linear heads"))
        digests.append(weights_digest(*lpips))
    except AssetMissing as error:
        missing["lpips"] = _why(error)
    try:
        arcface = asset(_ARCFACE, "insightface's ArcFace model w600k_r50.onnx")
        digests.append(weights_digest(arcface))
    except AssetMissing as error:
        missing["arcface"] = _why(error)
    try:
        inception = asset(_INCEPTION, "FID's Inception network")
        digests.append(weights_digest(inception))
    except AssetMissing as error:
        missing |= {"fid": _why(error), "kid": _why(error)}
    return Instruments(
        lpips=lpips, arcface=arcface, inception=inception, st_lpips="st_lpips" not in missing, missing=missing,
        digest=digest_of([VERSION, digests]),
    )  # fmt: skip


def _why(error: AssetMissing) -> str:
    return f"{str(error).split(' and is not there')[0]}, and is not there"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Seen:
    """What the models see in one picture, whatever it is compared with."""

    layers: Mapping[str, list[torch.Tensor]]
    mesh: Floats | None
    embeddings: Mapping[str, Floats]
    features: Floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class References:
    """What the models see in a person's photograph and in the true pictures; made once, used for all methods."""

    source: _Seen
    truths: tuple[_Seen, ...]

    @property
    def source_features(self) -> Floats:
        return self.source.features

    @property
    def truth_features(self) -> NDArray[np.float32]:
        return np.stack([seen.features for seen in self.truths]) if self.truths else np.zeros((0, 0), np.float32)


class Examiner:
    """Holds the models that judge. One a process."""

    def __init__(self, tools: Instruments, estimator: FaceEstimator, device: str = "cpu") -> None:
        self.estimator = estimator
        self.device = torch.device(device)
        self.landmarker = FaceLandmarker()
        self.network = EfficientNetEncoder()
        self.network.network.to(self.device)
        self.embedders: dict[str, Embedder | FaceEncoder] = {
            "dlib": DlibEncoder(),
            "portrait": PortraitRecogniser(shipped_file(RECOGNISER)),
            "crop": CropFeatures(self.network),
        }
        if tools.arcface is not None:
            self.embedders["arcface"] = ArcFaceEncoder(tools.arcface)
        self.inception = None if tools.inception is None else load_inception(tools.inception).to(self.device)
        self.perceptual: dict[str, PerceptualDistance] = {}
        if tools.st_lpips:
            self.perceptual["st_lpips"] = shift_tolerant().to(self.device)
        if tools.lpips is not None:
            self.perceptual["lpips"] = lpips_alex(*tools.lpips).to(self.device)

    def references(self, subject: Subject) -> References:
        source, *truths = self._see([subject.image, *(portrait.image for portrait in subject.truths)])
        return References(source=source, truths=tuple(truths))

    def rows(
        self, subject: Subject, pictures: Mapping[str, Pixels], seen: References, missing: Mapping[str, str]
    ) -> tuple[list[Row], NDArray[np.float32]]:
        """One row an entry, in the order of the manifest, and the features (N, D) of the pictures there are.

        An entry without a picture has `status` missing and its reason.
        """
        there = [entry.name for entry in subject.entries if entry.name in pictures]
        found = dict(zip(there, self._see([pictures[name] for name in there]), strict=True))
        rows = []
        for place, entry in enumerate(subject.entries):
            row: Row = {"person": entry.person, "entry": entry.name, "mode": entry.mode, "status": "ok"}
            if entry.name not in found:
                rows.append(row | {"status": "missing", "reason": missing.get(entry.name, "no picture")})
                continue
            rows.append(row | self._row(subject, place, pictures[entry.name], found[entry.name], seen))
        features = [found[name].features for name in there]
        return rows, np.stack(features) if features else np.zeros((0, 0), np.float32)

    def _row(self, subject: Subject, place: int, picture: Pixels, found: _Seen, seen: References) -> Row:
        row: Row = {"face_found": found.mesh is not None}
        row |= _pixel_scores(picture, subject.image, "source")
        row |= self._seen_scores(found, seen.source, "source")
        if subject.truths:
            truth = subject.truths[place]
            row |= _pixel_scores(picture, truth.image, "truth") | self._seen_scores(found, seen.truths[place], "truth")
            outside = ~(truth.head | subject.head) if subject.head is not None else ~truth.head
            for name, mask in (("head", truth.head), ("face", truth.face), ("background", outside)):
                row[f"psnr_{name}"] = region_psnr(picture, truth.image, mask)
        return row | self._parameter_scores(picture, found, subject.asked[place])

    def _seen_scores(self, found: _Seen, wanted: _Seen, against: str) -> Row:
        row: Row = {
            f"{name}_{against}": round(float(metric.between(found.layers[name], wanted.layers[name])[0]), 6)
            for name, metric in self.perceptual.items()
        }
        for name in self.embedders:
            both = name in found.embeddings and name in wanted.embeddings
            one = reading(found.embeddings[name], wanted.embeddings[name]) if both else None
            row[f"{name}_cosine_{against}"] = None if one is None else round(one.cosine, 6)
            if name == "dlib":
                row[f"dlib_distance_{against}"] = None if one is None else round(one.distance, 6)
                row[f"dlib_confidence_{against}"] = None if one is None else round(confidence(one.distance), 6)
                row[f"dlib_same_{against}"] = one is not None and one.distance <= DLIB_MATCH
        return row

    def _parameter_scores(self, picture: Pixels, found: _Seen, asked: FaceParameters) -> Row:
        names = ("pose_mm", "expression_mm", "pose_vertices_mm", "expression_vertices_mm", "pose_degrees", "light",
                 "light_degrees")  # fmt: skip
        nothing: Row = dict.fromkeys(names)
        if found.mesh is None:
            return nothing
        scale = FRAME[0] / picture.shape[0]
        framed = (
            picture if scale == 1 else np.asarray(cv2.resize(picture, FRAME, interpolation=cv2.INTER_CUBIC), np.uint8)
        )
        try:
            estimate = self.estimator.estimate(framed, found.mesh * np.float32(scale))
        except NoFace:
            return nothing  # counted: the row's parameters are None
        error = parameter_error(self.estimator.model, asked, estimate.parameters)
        return {name: round(getattr(error, name), 5) for name in names}

    @torch.no_grad()
    def _see(self, images: Sequence[Pixels]) -> list[_Seen]:
        if not images:
            return []
        layers: list[dict[str, list[torch.Tensor]]] = [{} for _ in images]
        for start in range(0, len(images), PERCEPTUAL_BATCH):
            some = stack(images[start : start + PERCEPTUAL_BATCH]).to(self.device) * 2 - 1
            for name, metric in self.perceptual.items():
                found = metric.features(some)
                for place in range(len(some)):
                    layers[start + place][name] = [layer[place : place + 1] for layer in found]
        features = self._set_features(images)
        seen = []
        for place, image in enumerate(images):
            faces = self.landmarker.detect(image)
            mesh = np.asarray(faces[0].mesh[:, :2], np.float32) if faces else None
            embeddings = {}
            if mesh is not None:
                embeddings = {name: one.embed(image, five_points(mesh)) for name, one in self.embedders.items()}
            seen.append(_Seen(layers=layers[place], mesh=mesh, embeddings=embeddings, features=features[place]))
        return seen

    def _set_features(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """What distances of sets are taken over: EfficientNet's 320 numbers a picture, then Inception's 2048 if it is here."""
        parts = [self.network.encode(list(images))[:, 0].numpy()]
        if self.inception is not None:
            parts.append(self.inception(stack(images).to(self.device)).cpu().numpy())
        return np.concatenate(parts, axis=1).astype(np.float32)


def _pixel_scores(picture: Pixels, reference: Pixels, against: str) -> Row:
    one, other = stack([picture]), stack([reference])
    return {
        f"ssim_{against}": round(float(ssim(one, other)[0]), 6),
        f"psnr_{against}": region_psnr(picture, reference, None),
    }


def region_psnr(picture: Pixels, reference: Pixels, mask: NDArray[np.bool_] | None) -> float | None:
    """PSNR in dB inside a mask (H, W), or everywhere; None for an empty mask, 99 at most."""
    if mask is not None and not mask.any():
        return None
    weight = None if mask is None else torch.from_numpy(mask.copy())[None]
    return round(min(float(psnr(stack([picture]), stack([reference]), weight)[0]), MOST_PSNR), 4)
