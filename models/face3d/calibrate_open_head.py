"""Second step of the open head's making: move mesh points and neutral face to where photographs want them.

`python -m models.face3d.calibrate_open_head PHOTOS` fits every usable face below 35 degrees of yaw in a folder, moves
each mesh point by a share of its mean remaining error (symmetrised) and the neutral face by a share of the mean
identity, four times. Only these averages enter the data file: no picture, and nothing of one person.
"""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from models.face3d.align import align_ffhq
from models.face3d.build_open_head import place, record_origin
from models.face3d.fitting import FRAME_SIZE, LandmarkFit, LandmarkFitter
from models.face3d.landmarks import Face, FaceLandmarker, landmarks68
from models.face3d.mesh_topology import LIPS_INNER, mouth_gap
from models.face3d.open_head import CAMERA_DISTANCE, DATA_FILE, Arrays, assemble, read_arrays, write_arrays
from models.face3d.render import geometry
from models.face3d.rendered_trial import rendered_heads, rendered_persons
from models.face3d.rotations import axis_angle_matrix
from models.images import read_image

__all__ = ["aligned_faces", "calibrate", "main"]

FloatArray = npt.NDArray[np.float64]

_ROUNDS: Final = 4
_POINT_SHARE: Final = 0.8
_NEUTRAL_SHARE: Final = 0.5
_NEUTRAL_ROUNDS: Final = 2
_MOST_YAW: Final = 35.0
_FARTHEST: Final = 0.010
"""Metres a mesh point may move in all."""


def aligned_faces(folder: Path) -> list[tuple[str, Face]]:
    """Usable faces of a folder's photographs, in pixels of their aligned pictures."""
    landmarker, found = FaceLandmarker(), []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        image = read_image(path.read_bytes(), path.name)
        for number, face in enumerate(landmarker.detect(image)):
            if face.reason is not None or abs(face.yaw_degrees) > _MOST_YAW:
                continue
            aligned = align_ffhq(image, landmarks68(face.mesh), FRAME_SIZE)
            moved = face.mesh[:, :2] @ aligned.to_aligned[:2, :2].T + aligned.to_aligned[:2, 2]
            again = landmarker.refine(aligned.image, moved)
            if again is not None:
                found.append((f"{path.stem}_{number}", again))
    return found


def calibrate(arrays: Arrays, faces: list[Face], *, rounds: int = _ROUNDS) -> Arrays:
    """The data file's arrays with mesh points and neutral face moved; raises ValueError below 8 faces."""
    if len(faces) < 8:
        raise ValueError(f"{len(faces)} usable faces: at least 8 are needed for averages to mean anything")
    arrays = dict(arrays)
    origin = _places(arrays)
    depth_of_points(arrays)
    for number in range(rounds):
        head = assemble(arrays)
        fitter = LandmarkFitter(head)
        fits = [fitter.fit(face.mesh, face.iris) for face in faces]
        errors = np.stack([_error(fit, face) for fit, face in zip(fits, faces, strict=True)])
        opened = np.array([mouth_gap(face.mesh) > 0.05 for face in faces])
        move = _robust_mean(errors)
        if opened.sum() >= 3:
            move[list(LIPS_INNER)] = _robust_mean(errors[opened])[list(LIPS_INNER)]
        mirror = head.mesh_mirror
        move = (move + move[mirror] * [-1, 1, 1]) / 2
        if number < _NEUTRAL_ROUNDS:
            _shift_neutral(arrays, np.mean([fit.shape for fit in fits], axis=0))
        here = _places(arrays) + _POINT_SHARE * move
        step = here - origin
        length = np.linalg.norm(step, axis=1, keepdims=True)
        here = origin + step * np.minimum(1.0, _FARTHEST / np.maximum(length, 1e-9))
        place(arrays, here, arrays["landmark_spread"].astype(np.float64))
        residual = np.mean([fit.residual for fit in fits])
        if number == rounds - 2:
            depth_of_points(arrays)
        print(f"round {number}: residual {residual:.4f}, mean error {np.linalg.norm(move, axis=1).mean() * 100:.3f} cm")
    return arrays


def depth_of_points(arrays: Arrays, *, count: int = 160, seed: int = 101) -> None:
    """Set `landmark_depth`: on rendered heads of known pose, how far before or behind its place on the surface each
    mesh point appears to lie when heads turn and when they
    nod (least squares over views, symmetrised). The two differ: the network damps nods."""
    head = assemble(arrays)
    landmarker = FaceLandmarker()
    slope_error, slope_square = np.zeros((468, 2)), np.zeros(2)
    for known in rendered_heads(count, seed, head):
        faces = landmarker.detect(known.image)
        if not faces:
            continue
        placed = geometry(head.model, known.parameters).landmarks["mesh468"]
        rotation = axis_angle_matrix(known.parameters.pose[None, :3].astype(np.float64))[0]
        scale = known.parameters.camera[0] * FRAME_SIZE / 2
        error = (faces[0].mesh[:, :2] - placed).astype(np.float64) / scale
        # Where the whole mesh is shifted, depth is not to blame.
        error -= np.median(error, axis=0)
        slope = np.array([rotation[0, 2], -rotation[1, 2]])
        slope_error += error * slope
        slope_square += slope**2
    depth = slope_error / slope_square
    depth = np.clip((depth + depth[head.mesh_mirror]) / 2, -0.025, 0.025)
    arrays["landmark_depth"] = depth.astype(np.float32)
    print(f"depth of mesh points: {np.sqrt((depth**2).mean()) * 1e3:.2f} mm root mean square")


def identity_metric(arrays: Arrays, *, count: int = 220, views: int = 3, seed: int = 211) -> None:
    """Set `identity_whitening` from how identity codes of one rendered person scatter over pictures."""
    head = assemble(arrays)
    landmarker, fitter = FaceLandmarker(), LandmarkFitter(head)
    codes: dict[int, list[FloatArray]] = {}
    for person, known in rendered_persons(count, views, seed, head):
        faces = landmarker.detect(known.image)
        if faces:
            codes.setdefault(person, []).append(fitter.fit(faces[0].mesh, faces[0].iris).shape.astype(np.float64))
    groups = [np.stack(group) for group in codes.values() if len(group) > 1]
    scatter = np.concatenate([group - group.mean(axis=0) for group in groups])
    free = sum(len(group) - 1 for group in groups)
    within = scatter.T @ scatter / free
    within += np.eye(len(within)) * 0.15 * np.trace(within) / len(within)
    values, vectors = np.linalg.eigh(within)
    arrays["identity_whitening"] = (vectors / np.sqrt(2 * values)).astype(np.float16)


def _places(arrays: Arrays) -> FloatArray:
    """(468, 3) mesh points on the template."""
    corners = arrays["template"].astype(np.float64)[arrays["faces"].astype(np.int64)]
    chosen = corners[arrays["landmark_faces"].astype(np.int64)]
    return np.asarray((chosen * arrays["landmark_weights"].astype(np.float64)[..., None]).sum(axis=1))


def _error(fit: LandmarkFit, face: Face) -> FloatArray:
    """(468, 3) metres in the head's own frame: what the fitted points lack, seen across the line of sight."""
    scale = fit.camera[0] * FRAME_SIZE / 2
    across = (face.mesh[:, :2] - fit.fitted).astype(np.float64) / scale
    world = np.stack([across[:, 0], -across[:, 1], np.zeros(len(across))], axis=1)
    world *= (CAMERA_DISTANCE - 0.1) / CAMERA_DISTANCE
    return np.asarray(world @ axis_angle_matrix(fit.rotation[None].astype(np.float64))[0])


def _robust_mean(errors: FloatArray) -> FloatArray:
    """(N, 468, 3) → (468, 3): mean with far-off faces at a share."""
    middle = np.median(errors, axis=0)
    distance = np.linalg.norm(errors - middle, axis=2)
    weights = 1 / (1 + (distance / 0.003) ** 2)
    return np.asarray((errors * weights[..., None]).sum(axis=0) / weights.sum(axis=0)[:, None])


def _shift_neutral(arrays: Arrays, mean_shape: FloatArray) -> None:
    """Move the template by a share of the mean identity's symmetric part."""
    basis = arrays["shape_basis"].astype(np.float64) * 1e-3
    shift = np.einsum("svk,s->vk", basis, mean_shape.astype(np.float64))
    mirror = arrays["vertex_mirror"].astype(np.int64)
    shift = (shift + shift[mirror] * [-1, 1, 1]) / 2
    arrays["template"] = (arrays["template"] + _NEUTRAL_SHARE * shift).astype(np.float32)


def main() -> None:
    """Calibrate the data file on a folder and say what the fit is on held-out halves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    folder = parser.parse_args().photos
    named = aligned_faces(folder)
    faces = [face for _, face in named]
    fresh = read_arrays(DATA_FILE)
    halves = faces[::2], faces[1::2]
    for half, (mine, other) in enumerate((halves, halves[::-1])):
        fitter = LandmarkFitter(assemble(calibrate(fresh, mine)))
        for what, group in (("own", mine), ("held out", other)):
            residuals = [fitter.fit(face.mesh, face.iris).residual for face in group]
            print(f"half {half}, {what}: mean {np.mean(residuals):.4f}, worst {np.max(residuals):.4f}")
    final = calibrate(fresh, faces)
    identity_metric(final)
    write_arrays(DATA_FILE, final)
    record_origin(f"{len(faces)} faces of photographs, mean errors only")


if __name__ == "__main__":
    main()
