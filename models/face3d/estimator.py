"""From an aligned photograph to FaceParameters and condition maps: the interface, and the `open`
estimator."""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from models.face3d.albedo import AlbedoBaker
from models.face3d.face_networks import PersonNet
from models.face3d.fitting import FRAME_SIZE, FitSettings, LandmarkFit, LandmarkFitter
from models.face3d.landmarks import Face, FaceLandmarker, NoFace
from models.face3d.light_fit import SkinLight, fit_light
from models.face3d.maps import ConditionMaps
from models.face3d.morphable import MorphableModel, pose_vertices
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.rasterize import rasterize
from models.face3d.render import picture_ndc, render_maps
from models.face3d.rotations import axis_angle_matrix
from models.face3d.skinning import vertex_normals

__all__ = ["FaceEstimate", "FaceEstimator", "NoFace", "OpenEstimator", "load_estimator"]

Floats = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

_VERSION: Final = 1
"""Rises when results change, so that digests of stages change with it."""
_PROFILE_YAW: Final = 60.0
_SECOND_LOOK_YAW: Final = 30.0
"""Degrees beyond which the mesh is run again around the mesh itself: where the detector puts the crop of a turned head
moves the points by more than 1 % of the face's width (benchmarks/open_head.md, mirror test)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FaceEstimate:
    """One face in 3D; pixels are those of the given picture, pixel corners at integers."""

    parameters: FaceParameters
    detected: Floats
    """(468, 2) mesh points found in the picture."""
    fitted: Floats
    """(468, 2) the same points of the fitted head."""
    residual: float
    """Mean distance between the two over the outer-eye distance."""
    confidence: float
    """In [0, 1]."""
    yaw_degrees: float
    """Positive where the face is turned to the image's right."""
    reason: str | None
    """None where the estimate can be used; else profile, cut or too_small."""
    sentence: str = ""
    """The reason in words."""


class FaceEstimator(Protocol):
    """What every 3D estimator offers, so that nothing downstream knows which one made the maps."""

    @property
    def name(self) -> str:
        """Short name, such as "open" or "deca"."""

    @property
    def digest(self) -> str:
        """Changes whenever results may change."""

    @property
    def model(self) -> MorphableModel:
        """The head the parameters speak of."""

    def estimate(self, image: UInt8Array, hint: Floats | None = None) -> FaceEstimate:
        """The face of an aligned photograph; raises NoFace."""

    def maps(self, parameters: FaceParameters, size: int = 256) -> ConditionMaps:
        """Condition maps of parameters."""


class OpenEstimator:
    """MediaPipe landmarks fitted with the open head. Holds interpreters: make one a process, not
    thread-safe."""

    name: Final = "open"

    def __init__(self, settings: FitSettings | None = None) -> None:
        self._head = load_open_head()
        self._landmarker = FaceLandmarker()
        self._fitter = LandmarkFitter(self._head, settings)
        self._baker = AlbedoBaker(self._head)
        self._person = PersonNet()
        text = f"{_VERSION} {self._head.model.digest} {self._fitter.settings!r}"
        self.digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def model(self) -> MorphableModel:
        """The open head."""
        return self._head.model

    def estimate(self, image: UInt8Array, hint: Floats | None = None) -> FaceEstimate:
        """Fit the head to the face of an aligned photograph.

        Args:
            image: uint8 (256, 256, 3) RGB, FFHQ-aligned.
            hint: (468, ≥2) mesh points near the face in this picture's pixels; without it the detector
                looks for
                the largest face.

        Raises:
            NoFace: there is no face in the picture.
            ValueError: the picture has another size or type.
        """
        if image.shape != (FRAME_SIZE, FRAME_SIZE, 3) or image.dtype != np.uint8:
            raise ValueError(f"an aligned uint8 (256, 256, 3) picture is needed, not {image.dtype} {image.shape}")
        face = self._face(image, hint)
        fit = self._fitter.fit(face.mesh, face.iris)
        parameters = self._dress(image, fit)
        yaw = float(np.degrees(np.arctan2(*_forward(fit.rotation)[[0, 2]])))
        reason, sentence = face.reason, face.sentence
        if reason is None and abs(yaw) > _PROFILE_YAW:
            reason, sentence = "profile", f"the face is seen from the side ({abs(yaw):.0f} degrees)"
        quality = float(np.clip((0.06 - fit.residual) / 0.03, 0.0, 1.0))
        return FaceEstimate(
            parameters=parameters,
            detected=np.ascontiguousarray(face.mesh[:, :2]),
            fitted=fit.fitted,
            residual=fit.residual,
            confidence=face.confidence * quality,
            yaw_degrees=yaw,
            reason=reason,
            sentence=sentence,
        )

    def maps(self, parameters: FaceParameters, size: int = 256) -> ConditionMaps:
        """Albedo, normals, render and mask of parameters."""
        return render_maps(self.model, parameters, size)

    def _face(self, image: UInt8Array, hint: Floats | None) -> Face:
        face = self._landmarker.refine(image, hint) if hint is not None else None
        if face is None:
            faces = self._landmarker.detect(image)
            if not faces:
                raise NoFace("no_face", "no face was found in the picture")
            face = faces[0]
            if abs(face.yaw_degrees) > _SECOND_LOOK_YAW:
                face = self._landmarker.refine(image, face.mesh) or face
        return face

    def _dress(self, image: UInt8Array, fit: LandmarkFit) -> FaceParameters:
        """Parameters with light and albedo."""
        model = self.model
        bare = FaceParameters.neutral(model.name, shape=len(fit.shape), expression=len(fit.expression)).replaced(
            shape=fit.shape,
            expression=fit.expression,
            pose=np.concatenate([fit.rotation, np.zeros(3, np.float32)]),
            camera=fit.camera,
        )
        vertices = pose_vertices(model, [bare])[0]
        ndc = picture_ndc(model, bare, vertices)
        normals = vertex_normals(vertices, model.faces)
        fragments = rasterize(ndc, model.faces, FRAME_SIZE, FRAME_SIZE)
        picture = image.astype(np.float32) / np.float32(255)
        found = self._light(picture, normals, fragments.face, fragments.barycentric)
        covered = fragments.face >= 0
        depth = np.where(covered, fragments.depth, np.float32(1e3)).astype(np.float32)
        pixels = ((ndc[:, :2] * 0.5 + 0.5) * FRAME_SIZE).astype(np.float32)
        person = cv2.erode(self._person(image), np.ones((5, 5), np.uint8))
        person = np.clip((person - 0.4) / 0.5, 0.0, 1.0).astype(np.float32)
        albedo = self._baker.bake(picture, person, pixels, np.ascontiguousarray(ndc[:, 2]), normals, depth, found)
        return bare.replaced(light=found.light.astype(np.float32), albedo=albedo)

    def _light(
        self, picture: Floats, normals: Floats, triangle: npt.NDArray[np.int32], barycentric: Floats
    ) -> SkinLight:
        """Light and tone from every third skin pixel in both directions."""
        triangle, barycentric, picture = triangle[1::3, 1::3], barycentric[1::3, 1::3], picture[1::3, 1::3]
        covered = triangle >= 0
        corners = self.model.faces[triangle[covered]]
        weights = barycentric[covered]
        trust = (self._head.skin_share[corners] * weights).sum(axis=1)
        chosen = trust > 0.3
        corners, weights, trust = corners[chosen], weights[chosen], trust[chosen]
        direction = np.einsum("nkc,nk->nc", normals[corners], weights).astype(np.float64)
        direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
        trust = trust * np.clip(direction[:, 2] / 0.35, 0.0, 1.0)
        colours = picture[covered][chosen].astype(np.float64)
        return fit_light(colours, direction, np.ones(len(colours)), trust.astype(np.float64))


def _forward(rotation: Floats) -> npt.NDArray[np.float64]:
    """(3,) where the face looks."""
    return np.asarray(axis_angle_matrix(rotation[None].astype(np.float64))[0][:, 2])


def load_estimator(name: str) -> FaceEstimator:
    """The estimator called "open".

    Raises:
        ValueError: an unknown name.
        MissingAsset: the `mediapipe` wheel, whose model files are used, is not installed.
    """
    if name == "open":
        return OpenEstimator()
    raise ValueError(f"there is no estimator {name!r}; known: 'open' ('deca' is models.face3d.deca_estimator.DecaEstimator)")
