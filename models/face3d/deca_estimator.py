"""DecaEstimator: aligned photographs → FLAME parameters and condition maps by DECA, around somebody's landmarks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.face3d.camera import ndc_to_pixels
from models.face3d.deca import NETWORKS, Deca
from models.face3d.deca_crop import crop, crop_transform, landmark_box
from models.face3d.estimator import FaceEstimate
from models.face3d.flame import TEXTURE, flame_landmarks, load_flame
from models.face3d.landmarks import Face, NoFace, landmarks68
from models.face3d.maps import ConditionMaps
from models.face3d.morphable import MorphableModel, lbs
from models.face3d.package_files import MissingAsset
from models.face3d.parameters import FRAME, FaceParameters
from models.face3d.render import picture_ndc, render_maps
from models.face3d.rotations import axis_angle_matrix
from models.face3d.weight_files import sha256_of_file

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_VERSION: Final = 1
"""Rises when results change, so that digests of stages change with it."""
_INNER: Final = slice(17, 68)  # the contour slides: only eyes, brows, nose and mouth can be compared point by point
_EYE_CORNERS: Final = (36, 45)
_GOOD, _POOR = 0.03, 0.06  # residuals at which confidence is untouched and zero, as in the open estimator


class Landmarker(Protocol):
    """What finds the faces that DECA is cropped around; models/face3d/landmarks.py has one."""

    def detect(self, image: Pixels) -> list[Face]:
        """All faces of a picture, the largest first."""

    def refine(self, image: Pixels, mesh: NDArray[np.float64]) -> Face | None:
        """The face near known points."""


class DecaEstimator:
    """DECA as a FaceEstimator (models/face3d/estimator.py). Raises ``MissingAsset`` for files that are not there."""

    name: Final = "deca"

    def __init__(self, folder: Path, landmarker: Landmarker, device: torch.device | str = "cpu") -> None:
        """``folder`` holds converted assets: flame/ and deca/."""
        if not (folder / TEXTURE).is_file():
            raise MissingAsset(
                f"{folder / TEXTURE} is not there: DECA's albedo maps need one of FLAME's texture spaces"
            )
        self._model = load_flame(folder)
        self._tensors = self._model.tensors()
        self._deca = Deca.load(folder, device)
        self._landmarker = landmarker
        text = f"{_VERSION} {self._model.digest} {sha256_of_file(folder / NETWORKS)}"
        self.digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def model(self) -> MorphableModel:
        """FLAME."""
        return self._model

    def estimate(self, image: Pixels, hint: Floats | None = None) -> FaceEstimate:
        """The face of an aligned uint8 (256, 256, 3) photograph, cropped around its 68 landmarks.

        ``fitted`` are FLAME's 68 landmarks, whose counterparts are ``landmarks68(detected)``; the residual
        leaves out the contour, which slides. Raises ``NoFace``, or ``ValueError`` for another size or type.
        """
        if image.shape != (*FRAME, 3) or image.dtype != np.uint8:
            raise ValueError(f"an aligned uint8 {(*FRAME, 3)} picture is needed, not {image.dtype} {image.shape}")
        face = self._face(image, hint)
        detected = landmarks68(face.mesh.astype(np.float64))
        tform = crop_transform(landmark_box(detected - 0.5))  # DECA counts pixels from their centres
        (parameters,) = self._deca.encode([crop(image, tform)], [tform])
        fitted = self._landmarks(parameters)
        scale = float(np.linalg.norm(detected[_EYE_CORNERS[0]] - detected[_EYE_CORNERS[1]]))
        residual = float(np.linalg.norm(fitted[_INNER] - detected[_INNER], axis=1).mean()) / scale
        forward = axis_angle_matrix(parameters.pose[:3])[:, 2]
        return FaceEstimate(
            parameters=parameters,
            detected=np.ascontiguousarray(face.mesh[:, :2], np.float32),
            fitted=fitted,
            residual=residual,
            confidence=face.confidence * float(np.clip((_POOR - residual) / (_POOR - _GOOD), 0.0, 1.0)),
            yaw_degrees=float(np.degrees(np.arctan2(forward[0], forward[2]))),
            reason=face.reason,
            sentence=face.sentence,
        )

    def maps(self, parameters: FaceParameters, size: int = 256) -> ConditionMaps:
        """Albedo, normals, render and mask of parameters, in the frame of the 256-pixel picture."""
        return render_maps(self._model, parameters, size)

    def _face(self, image: Pixels, hint: Floats | None) -> Face:
        face = None if hint is None else self._landmarker.refine(image, np.asarray(hint, np.float64))
        if face is not None:
            return face
        faces = self._landmarker.detect(image)
        if not faces:
            raise NoFace("no_face", "no face was found in the picture")
        return faces[0]

    def _landmarks(self, parameters: FaceParameters) -> Floats:
        """(68, 2) pixels of the picture: sliding contour and static points."""
        shape, expression, pose = (
            torch.from_numpy(getattr(parameters, name).copy())[None] for name in ("shape", "expression", "pose")
        )
        posed = lbs(self._tensors, shape, expression, self._model.joint_rotations(pose, expression))
        points = flame_landmarks(self._model, posed)[0][0].numpy() + parameters.shift
        ndc = torch.from_numpy(picture_ndc(self._model, parameters, points)[:, :2])
        return np.asarray(ndc_to_pixels(ndc, FRAME).numpy(), np.float32)
