"""Faces in a photograph: detector, 468-point mesh, iris-refined eyes, and the point sets other stages
ask for.

Small faces are found by looking again at overlapping tiles, faces that fill the picture by looking at it
with a
margin. Every face gets a yaw, a confidence and, where it is not fit for a 3D estimate, a reason.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.face_networks import FaceDetectorNet, FaceMeshNet, IrisNet, crop_square
from models.face3d.mesh_topology import EYE_LEFT, EYE_RIGHT, LANDMARKS_68, MIRROR, outer_eye_distance

__all__ = [
    "MIN_EYE_DISTANCE", "Face", "FaceLandmarker", "NoFace", "five_points", "landmarks68",
]  # fmt: skip

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]
UInt8Array = npt.NDArray[np.uint8]

MIN_EYE_DISTANCE: Final = 20.0
"""Outer-eye distance in source pixels below which a face is `too_small`."""
PROFILE_YAW: Final = 55.0
"""Degrees of yaw from which a face counts as `profile`."""
_DETECTION_SCORE: Final = 0.5
_PRESENCE_SCORE: Final = 0.5
_LARGE_FACE: Final = 0.25
_INSIDE_SHARE: Final = 0.92
_EYE_CROP: Final = 2.3
_MIRROR: Final = list(MIRROR)


class NoFace(ValueError):
    """No face that a 3D estimate can be made from; `reason` is no_face, too_small, profile or cut."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence

    def __reduce__(self) -> tuple[type["NoFace"], tuple[str, str]]:
        return NoFace, (self.reason, self.sentence)


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """One face; coordinates are pixels of the photograph, pixel corners at integers."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the mesh."""
    score: float
    """Presence of a face in [0, 1] by the mesh network."""
    mesh: Float32Array
    """(468, 3); z in pixels, smaller is nearer; the 32 eye contour points come from the iris network."""
    iris: Float32Array
    """(2, 5, 2): right eye, left eye (the person's); centre first, then the rim."""
    confidence: float
    """In [0, 1]: presence, lowered by yaw, by points outside the picture and by small size."""
    yaw_degrees: float
    """Positive where the face is turned to the image's right."""
    reason: str | None
    """None where the face is usable; else too_small, profile or cut."""

    @property
    def sentence(self) -> str:
        """The reason in words; empty where the face is usable."""
        return _SENTENCES[self.reason].format(yaw=abs(self.yaw_degrees)) if self.reason else ""


_SENTENCES: Final = {
    "too_small": f"the face is too small: its eyes are less than {MIN_EYE_DISTANCE:.0f} pixels apart",
    "profile": "the face is seen from the side ({yaw:.0f} degrees): half of it is hidden",
    "cut": "the face is cut off by the picture's border",
}


class FaceLandmarker:
    """Finds faces and their meshes; holds the interpreters, so make one and keep it (not thread-safe).

    Raises:
        MissingAsset: the `mediapipe` wheel, whose model files are used, is not installed.
    """

    def __init__(self) -> None:
        self._detector = FaceDetectorNet()
        self._mesh = FaceMeshNet()
        self._iris = IrisNet()

    def detect(self, image: UInt8Array) -> list[Face]:
        """All faces of uint8 (H, W, 3) RGB, the largest first; unusable ones carry a reason. May be empty."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"a uint8 (H, W, 3) RGB picture is needed, not {image.dtype} {image.shape}")
        pyramid = [image]
        faces: list[Face] = []
        for points in self._find(pyramid):
            face = self._describe(pyramid, points)
            if face is not None and not any(_overlap(face.box, other.box) > 0.4 for other in faces):
                faces.append(face)
        return sorted(faces, key=lambda face: (-_area(face.box), face.box))

    def refine(self, image: UInt8Array, mesh: FloatArray) -> Face | None:
        """The face near a known mesh (468, ≥2) in pixels, without a detector; None where there is none."""
        return self._describe([image], None, np.asarray(mesh, dtype=np.float32))

    def _find(self, pyramid: list[UInt8Array]) -> list[Float32Array]:
        """Candidate faces as (8, 2) pixels, best first: whole picture, then tiles, then with a margin."""
        height, width = pyramid[0].shape[:2]
        longest = float(max(height, width))
        centre = np.array([width / 2, height / 2], np.float32)
        scores, points = self._look(pyramid, centre, longest)
        largest = max((float(p[1, 1] - p[0, 1]) for p in points), default=0.0)
        if largest < _LARGE_FACE * longest and longest >= 2 * self._detector.size:
            for divisor in (2, 4):
                side = longest / divisor
                if side < self._detector.size or (divisor == 4 and len(points) and largest > longest / 8):
                    break
                for tile in _tile_centres(width, height, side):
                    more_scores, more_points = self._look(pyramid, tile, side)
                    scores, points = np.append(scores, more_scores), np.concatenate([points, more_points])
        if not len(points):
            scores, points = self._look(pyramid, centre, longest * 1.6)
        return _suppress(scores, points)

    def _look(self, pyramid: list[UInt8Array], centre: Float32Array, side: float) -> tuple[Float32Array, Float32Array]:
        square, to_picture = crop_square(pyramid, centre, side, 0.0, self._detector.size)
        scores, points = self._detector(square, _DETECTION_SCORE)
        in_picture = points * np.float32(self._detector.size) @ to_picture[:, :2].T + to_picture[:, 2]
        return scores, in_picture.astype(np.float32)

    def _describe(
        self, pyramid: list[UInt8Array], points: Float32Array | None, mesh: Float32Array | None = None
    ) -> Face | None:
        presence = 0.0
        if mesh is None:
            assert points is not None
            centre, side = points[:2].mean(axis=0), float(np.abs(points[1] - points[0]).max()) * 1.5
            mesh, presence = self._run_mesh(pyramid, centre, side, _angle(points[2], points[3]))
            if presence < _PRESENCE_SCORE:
                return None
        low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
        side, angle = float((high - low).max()) * 1.5, _angle(mesh[33], mesh[263])
        mesh, presence = self._run_mesh(pyramid, (low + high) / 2, side, angle, both=True)
        if presence < _PRESENCE_SCORE:
            return None
        mesh, iris = self._run_iris(pyramid, mesh)
        return _judge(mesh, iris, presence, pyramid[0].shape[1], pyramid[0].shape[0])

    def _run_mesh(
        self,
        pyramid: list[UInt8Array],
        centre: Float32Array,
        side: float,
        angle: float,
        *,
        both: bool = False,
    ) -> tuple[Float32Array, float]:
        """Points in the picture and presence; `both` averages with what is found in the mirrored crop."""
        square, to_picture = crop_square(pyramid, centre, side, angle, self._mesh.size)
        points, presence = self._mesh(square)
        if both:
            flipped, other = self._mesh(np.ascontiguousarray(square[:, ::-1]))
            unflipped = flipped[_MIRROR] * np.array([-1, 1, 1], np.float32) + np.array(
                [self._mesh.size, 0, 0], np.float32
            )
            points = ((points + unflipped) / 2).astype(np.float32)
            presence = (presence + other) / 2
        mesh = np.empty_like(points)
        mesh[:, :2] = points[:, :2] @ to_picture[:, :2].T + to_picture[:, 2]
        mesh[:, 2] = points[:, 2] * np.float32(side / self._mesh.size)
        return mesh, presence

    def _run_iris(self, pyramid: list[UInt8Array], mesh: Float32Array) -> tuple[Float32Array, Float32Array]:
        """The mesh with its eye contours replaced, and both irises (2, 5, 2)."""
        refined, irises = mesh.copy(), []
        for eye, mirror in ((EYE_RIGHT, False), (EYE_LEFT, True)):
            outer, inner = mesh[eye[0], :2], mesh[eye[8], :2]
            corners = np.stack([outer, inner])
            side = float(np.abs(corners[0] - corners[1]).max()) * _EYE_CROP
            angle = _angle(inner, outer) if mirror else _angle(outer, inner)
            square, to_picture = crop_square(pyramid, corners.mean(axis=0), side, angle, self._iris.size, mirror=mirror)
            contour, iris = self._iris(square)
            refined[list(eye), :2] = contour[:16] @ to_picture[:, :2].T + to_picture[:, 2]
            irises.append(iris @ to_picture[:, :2].T + to_picture[:, 2])
        return refined, np.stack(irises).astype(np.float32)


def _tile_centres(width: int, height: int, side: float) -> list[Float32Array]:
    """Centres of squares that cover the picture with an overlap of about a half."""
    axes = []
    for extent in (width, height):
        count = max(int(np.ceil((extent - side) / (side * 0.55))) + 1, 1) if extent > side else 1
        axes.append(np.linspace(side / 2, extent - side / 2, count) if count > 1 else np.array([extent / 2]))
    return [np.array([x, y], np.float32) for y in axes[1] for x in axes[0]]


def _suppress(scores: Float32Array, points: Float32Array) -> list[Float32Array]:
    """Non-maximum suppression by box overlap; the members of a cluster are averaged by score."""
    order = np.lexsort((points[:, 0, 0], -scores)) if len(points) else np.array([], np.int64)
    kept: list[Float32Array] = []
    left = list(order)
    while left:
        boxes = [tuple(points[i, :2].ravel().tolist()) for i in left]
        cluster = [i for i, box in zip(left, boxes, strict=True) if _overlap(boxes[0], box) > 0.3]
        left = [i for i in left if i not in cluster]
        weights = scores[cluster][:, None, None]
        kept.append(((points[cluster] * weights).sum(axis=0) / weights.sum()).astype(np.float32))
    return kept


def _angle(start: FloatArray, end: FloatArray) -> float:
    return float(np.arctan2(end[1] - start[1], end[0] - start[0]))


def _area(box: tuple[float, ...]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _overlap(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Intersection over the smaller area."""
    shared = (max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3]))
    return _area(shared) / max(min(_area(one), _area(two)), 1e-6)


def _mesh_yaw(mesh: Float32Array) -> float:
    """Degrees of yaw from the mesh's depth: mean of eye line and cheek line."""
    across = (mesh[263] - mesh[33]) + (mesh[454] - mesh[234])
    return float(np.degrees(np.arctan2(across[2], np.hypot(across[0], across[1]))))


def _judge(mesh: Float32Array, iris: Float32Array, presence: float, width: int, height: int) -> Face:
    x, y = mesh[:, 0], mesh[:, 1]
    inside = float(((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).mean())
    yaw, eyes = _mesh_yaw(mesh), outer_eye_distance(mesh) / max(np.cos(np.radians(_mesh_yaw(mesh))), 0.3)
    reason = None
    if inside < _INSIDE_SHARE:
        reason = "cut"
    elif abs(yaw) > PROFILE_YAW:
        reason = "profile"
    elif eyes < MIN_EYE_DISTANCE:
        reason = "too_small"
    frontal = float(np.clip((75.0 - abs(yaw)) / 45.0, 0.0, 1.0))
    whole = float(np.clip((inside - 0.5) / 0.5, 0.0, 1.0))
    sharp = float(np.clip(eyes / 40.0, 0.0, 1.0))
    return Face(
        box=(float(x.min()), float(y.min()), float(x.max()), float(y.max())),
        score=presence,
        mesh=mesh,
        iris=iris,
        confidence=presence * frontal * whole * sharp,
        yaw_degrees=yaw,
        reason=reason,
    )


def landmarks68(mesh: FloatArray) -> npt.NDArray[np.float64]:
    """(68, 2) points in the iBUG order from a mesh (468, ≥2), same unit."""
    return mesh[list(LANDMARKS_68), :2].astype(np.float64)


def five_points(mesh: FloatArray) -> Float32Array:
    """(5, 2): right eye centre, left eye centre (image left first), nose tip, mouth corners; ArcFace's
    order."""
    eyes = [mesh[list(eye), :2].mean(axis=0) for eye in (EYE_RIGHT, EYE_LEFT)]
    return np.stack([*eyes, mesh[4, :2], mesh[61, :2], mesh[291, :2]]).astype(np.float32)

