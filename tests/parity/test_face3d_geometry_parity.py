"""Rotations, skinning, landmarks, camera, normals and light against the original's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.face3d.camera import crop_to_picture, ndc_to_pixels, project
from models.face3d.flame import flame_landmarks
from models.face3d.lighting import (
    SH_CONSTANTS,
    mirror_light,
    rotate_light,
    rotation_matrix9,
    shade,
    shade_directional,
    shade_points,
)
from models.face3d.morphable import blend_shapes, contour_row, lbs, pose_feature, pose_vertices
from models.face3d.parameters import FaceParameters
from models.face3d.rotations import euler_xyz_matrix, euler_zyx_matrix, matrix_axis_angle, rodrigues
from models.face3d.skinning import vertex_normals
from models.face3d.torch_render import torch_vertex_normals


def read(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / f"{name}.npz") as file:
        return dict(file)


def close(actual, expected, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def test_rotations(golden):
    g = read(golden, "flame/rotations")
    close(rodrigues(tensor(g["axis_angle"])), g["rodrigues"], 2e-6)
    close(euler_xyz_matrix(tensor(g["euler_xyz_rad"])), g["euler_to_matrix"], 2e-6)
    axis_angles = matrix_axis_angle(euler_xyz_matrix(tensor(g["euler_xyz_rad"]).double()).numpy())
    close(axis_angles, g["euler_to_axis_angle"], 2e-6)
    close(euler_zyx_matrix(torch.deg2rad(tensor(g["angle2matrix_deg"]))), g["angle2matrix"], 2e-6)


def test_original_scrambles_batches_of_euler_angles_and_we_do_not(golden):
    angles = torch.deg2rad(tensor(read(golden, "flame/rotations")["angle2matrix_deg"]))
    one_by_one = torch.stack([euler_zyx_matrix(row[None])[0] for row in angles])
    torch.testing.assert_close(euler_zyx_matrix(angles), one_by_one, rtol=0, atol=0)


def test_skinning_and_its_intermediates(golden, golden_flame):
    g = read(golden, "flame/lbs_intermediate")
    assert golden_flame.parents == tuple(g["parents"])
    betas, tensors = tensor(g["betas"]), golden_flame.tensors()
    pose = tensor(g["full_pose"]).view(-1, 5, 3)
    posed = lbs(tensors, betas[:, :100], betas[:, 100:], pose)
    close(blend_shapes(tensors, betas[:, :100], betas[:, 100:]), g["v_shaped"], 2e-6)
    close(posed.shaped, g["v_shaped"], 2e-6)
    close(posed.rest_joints, g["joints_rest"], 2e-6)
    close(posed.rotations, g["rot_mats"], 2e-6)
    close(pose_feature(posed.rotations), g["pose_feature"], 2e-6)
    assert tensors.pose_basis is not None
    offsets = torch.einsum("vkc,bc->bvk", tensors.pose_basis, pose_feature(posed.rotations))
    close(offsets, g["pose_offsets"], 2e-6)
    close(posed.joints, g["joints_posed"], 2e-6)
    close(posed.transforms, g["rel_transforms"], 2e-6)
    close(posed.vertices, g["vertices"], 2e-6)


@pytest.mark.parametrize(("suffix", "dtype"), [("", torch.float32), ("_eye", torch.float32), ("_f64", torch.float64)])
def test_flame_forward(golden, golden_flame, suffix, dtype):
    g = read(golden, "flame/flame_io")
    shape, expression, pose = (tensor(g[name]).to(dtype) for name in ("shape", "exp", "pose"))
    eyes = tensor(g["eye_pose"]).to(dtype) if suffix == "_eye" else None
    rotations = golden_flame.joint_rotations(pose, expression, eyes)
    posed = lbs(golden_flame.tensors(dtype=dtype), shape, expression, rotations)
    contour, full = flame_landmarks(golden_flame, posed)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-6
    close(posed.vertices, g[f"vertices{suffix}"], tolerance)
    close(contour, g[f"landmarks2d{suffix}"], tolerance)
    close(full, g[f"landmarks3d{suffix}"], tolerance)


def test_the_quick_path_poses_the_same_vertices(golden, golden_flame):
    g = read(golden, "flame/flame_io")
    neutral = FaceParameters.neutral("flame", shape=100, expression=50, texture=50)
    faces = [
        neutral.replaced(shape=shape, expression=expression, pose=pose)
        for shape, expression, pose in zip(g["shape"], g["exp"], g["pose"], strict=True)
    ]
    close(pose_vertices(golden_flame, faces), g["vertices"], 2e-6)


def test_contour_rows_are_exact(golden):
    g = read(golden, "flame/dynamic_contour")
    for kind in ("sweep", "random"):
        rotations = rodrigues(tensor(g[f"{kind}_full_pose"]).view(-1, 5, 3))
        np.testing.assert_array_equal(contour_row(rotations), g[f"{kind}_row"])


def test_projection_and_the_way_back_to_the_picture(golden):
    g = read(golden, "camera/projection")
    points, camera, tform = (tensor(g[name]) for name in ("points", "cam", "tform"))
    frame = tuple(int(side) for side in g["out_hw"])
    ndc = project(points, camera)
    close(ndc, g["ndc_flipped"], 2e-6)
    close(ndc * torch.tensor([1.0, -1.0, -1.0]), g["orth_proj"], 2e-6)
    close(ndc[..., :2], g["ndc2d"], 2e-6)
    close(torch.linalg.inv(tform).transpose(-1, -2), g["tform_inv_transposed"], 1e-3)
    back = crop_to_picture(ndc, tform, frame)
    close(back, g["orig_ndc"], 2e-6)
    close(back[..., :2], g["orig_ndc2d"], 2e-6)
    close(ndc_to_pixels(back, frame), g["orig_pixels"], 1e-3)


def test_vertex_normals_in_both_implementations(golden):
    g = read(golden, "camera/vertex_normals")
    close(torch_vertex_normals(tensor(g["vertices"]), tensor(g["faces"])), g["normals"], 1e-5)
    for vertices, expected in zip(g["vertices"], g["normals"], strict=True):
        close(vertex_normals(vertices, g["faces"].astype(np.int32)), expected, 1e-5)
    close(g["vertices"][:, g["faces"][:5]], g["face_vertices_first5"], 0)


def test_shading(golden):
    g = read(golden, "camera/sh_shading")
    close(SH_CONSTANTS, g["constant_factor_f64"], 1e-12)
    close(SH_CONSTANTS, g["constant_factor"], 1e-6)
    normals = tensor(g["normals"]).permute(0, 2, 3, 1)
    close(shade(normals, tensor(g["light"])).permute(0, 3, 1, 2), g["shading"], 5e-6)
    lights, normals = tensor(g["lights_xyzrgb"]), tensor(g["point_normals"])
    close(shade_points(tensor(g["point_vertices"]), normals, lights), g["point_shading"], 5e-6)
    close(shade_directional(normals, lights), g["directional_shading"], 5e-6)


def test_light_rotation(golden):
    g = read(golden, "sh_rotation/sh_rotation")
    close(SH_CONSTANTS, g["constant_factor_f64"], 1e-12)
    for rotation, matrix, light, rotated in zip(g["R"], g["matrix9"], g["light"], g["light_rotated"], strict=True):
        close(rotation_matrix9(rotation), matrix, 1e-10)
        close(rotate_light(light, rotation), rotated, 1e-10)
    close(mirror_light(np.eye(9)[:, :3]), (g["mirror_x_matrix9"] @ np.eye(9))[:, :3], 1e-12)
    close(mirror_light(g["light"][0]), g["mirror_x_matrix9"] @ g["light"][0], 1e-12)
