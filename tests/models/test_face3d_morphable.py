"""Skinning: gradients, agreement of the two paths, the model's own checks."""

import numpy as np
import pytest
import torch

from models.face3d.camera import crop_to_picture, project
from models.face3d.lighting import shade
from models.face3d.morphable import LandmarkSet, MorphableModel, lbs, pose_vertices, surface_points
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FaceParameters
from models.face3d.rotations import euler_xyz_matrix, interpolate_axis_angle, rodrigues


def small_model(seed: int = 0, **changes) -> MorphableModel:
    """Twelve vertices, five joints, every feature that FLAME and the open head have."""
    rng = np.random.default_rng(seed)
    vertices, joints = 12, 5
    weights = rng.random((vertices, joints)).astype(np.float32)
    regressor = rng.random((joints, vertices)).astype(np.float32)
    fields = {
        "name": "small",
        "template": rng.normal(size=(vertices, 3)).astype(np.float32) * 0.1,
        "faces": rng.permuted(np.tile(np.arange(vertices), (8, 1)), axis=1)[:, :3].astype(np.int32),
        "shape_basis": rng.normal(size=(vertices, 3, 4)).astype(np.float32) * 0.01,
        "expression_basis": rng.normal(size=(vertices, 3, 3)).astype(np.float32) * 0.01,
        "pose_basis": rng.normal(size=(vertices, 3, 36)).astype(np.float32) * 0.01,
        "joint_regressor": regressor / regressor.sum(1, keepdims=True),
        "parents": (-1, 0, 1, 1, 1),
        "skinning_weights": weights / weights.sum(1, keepdims=True),
        "uvs": rng.random((vertices, 2)).astype(np.float32),
        "uv_faces": rng.integers(0, vertices, (8, 3)).astype(np.int32),
        "landmarks": {"static51": LandmarkSet(faces=np.zeros(51, np.int32), barycentric=np.ones((51, 3), np.float32))},
        "expression_rotations": rng.normal(size=(3, joints, 3)).astype(np.float32) * 0.1,
    }
    return MorphableModel(**(fields | changes))


def random_codes(model: MorphableModel, batch: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = (model.shape_basis.shape[2], model.expression_basis.shape[2], 6)
    return tuple(torch.randn(batch, size, generator=generator, dtype=dtype) for size in sizes)


def test_gradients_of_skinning_projection_and_shading():
    model = small_model()
    tensors = model.tensors(dtype=torch.float64)
    shape, expression, pose = (code.requires_grad_() for code in random_codes(model, 2, torch.float64))
    camera = torch.tensor([[5.0, 0.1, -0.2], [4.0, 0.0, 0.1]], dtype=torch.float64, requires_grad=True)
    light = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tform = torch.diag(torch.tensor([0.5, 0.6, 1.0], dtype=torch.float64)).expand(2, 3, 3)

    def vertices(shape, expression, pose):
        return lbs(tensors, shape, expression, model.joint_rotations(pose, expression)).vertices

    assert torch.autograd.gradcheck(vertices, (shape, expression, pose))
    assert torch.autograd.gradgradcheck(rodrigues, (pose[:, :3],))

    def placed(shape, pose, camera):
        ndc = project(vertices(shape, expression.detach(), pose), camera, distance=1.5)
        return crop_to_picture(ndc, tform, (192, 256))

    assert torch.autograd.gradcheck(placed, (shape, pose, camera))

    def lit(shape, light):
        return shade(vertices(shape, expression.detach(), pose.detach()), light)

    assert torch.autograd.gradcheck(lit, (shape, light))


def test_rodrigues_is_differentiable_at_zero():
    assert torch.autograd.gradcheck(rodrigues, (torch.zeros(1, 3, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("with_correctives", [True, False])
def test_both_paths_pose_the_same_vertices(with_correctives):
    model = small_model() if with_correctives else small_model(pose_basis=None)
    shape, expression, pose = random_codes(model, 3, torch.float64)
    expected = lbs(model.tensors(dtype=torch.float64), shape, expression, model.joint_rotations(pose, expression))
    neutral = FaceParameters.neutral("small", shape=4, expression=3)
    shift = np.array([0.1, -0.2, 0.3], np.float32)
    faces = [
        neutral.replaced(shape=shape[row], expression=expression[row], pose=pose[row], shift=shift) for row in range(3)
    ]
    np.testing.assert_allclose(pose_vertices(model, faces) - shift, expected.vertices.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_device_and_float_type(device, dtype):
    if not torch.cuda.is_available() and device == "cuda":
        pytest.skip("no GPU")
    model = small_model()
    shape, expression, pose = (code.to(device) for code in random_codes(model, 2, dtype))
    posed = lbs(model.tensors(device, dtype), shape, expression, model.joint_rotations(pose, expression))
    assert posed.vertices.dtype == dtype
    assert posed.vertices.device.type == device
    exact = [code.double().cpu() for code in (shape, expression, pose)]
    expected = lbs(model.tensors(dtype=torch.float64), *exact[:2], model.joint_rotations(exact[2], exact[1]))
    torch.testing.assert_close(posed.vertices.double().cpu(), expected.vertices, rtol=0, atol=1e-6)


def test_rest_pose_is_the_template():
    model = small_model()
    (vertices,) = pose_vertices(model, [FaceParameters.neutral("small", shape=4, expression=3)])
    np.testing.assert_allclose(vertices, model.template, atol=1e-7)


def test_a_global_rotation_turns_the_head_about_its_root():
    model = small_model()
    neutral = FaceParameters.neutral("small", shape=4, expression=3)
    turned = neutral.replaced(pose=[0, np.pi / 2, 0, 0, 0, 0])
    root = model.joint_regressor[0] @ model.template
    rest, after = pose_vertices(model, [neutral, turned]) - root
    np.testing.assert_allclose(after, np.stack([rest[:, 2], rest[:, 1], -rest[:, 0]], axis=1), atol=1e-6)


def test_perspective_tends_to_weak_perspective_and_keeps_depth_order():
    points = torch.randn(1, 200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    camera = torch.tensor([[5.0, 0.1, 0.2]], dtype=torch.float64)
    weak = project(points, camera)
    torch.testing.assert_close(project(points, camera, 1e7), weak, rtol=0, atol=1e-6)
    near = project(points, camera, 1.5)
    order = torch.argsort(points[0, :, 2], descending=True)
    assert (near[0, order, 2].diff() > 0).all()


def test_perspective_keeps_planes_flat_on_the_screen():
    """So that a z-buffer which interpolates linearly on the screen hides exactly what is hidden."""
    corners = torch.tensor([[[0.1, 0.0, 0.1], [-0.1, 0.1, 0.0], [0.0, -0.1, -0.1]]], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    camera = torch.tensor([[5.0, 0.0, 0.0]], dtype=torch.float64)
    inside = project((weights[:, None] * corners).sum(1, keepdim=True), camera, 1.5)[0, 0]
    placed = project(corners, camera, 1.5)[0]
    system = torch.cat([placed[:, :2], torch.ones(3, 1, dtype=torch.float64)], dim=1)
    plane = torch.linalg.solve(system, placed[:, 2])
    assert inside[2] == pytest.approx(float(plane[:2] @ inside[:2] + plane[2]), abs=1e-12)


def test_surface_points_of_batches():
    vertices = torch.randn(2, 12, 3)
    faces = torch.from_numpy(small_model().faces).long()
    one = surface_points(vertices, faces, torch.tensor([0, 3]), torch.eye(3)[:2])
    torch.testing.assert_close(one, torch.stack([vertices[:, faces[0, 0]], vertices[:, faces[3, 1]]], dim=1))
    each = surface_points(vertices, faces, torch.tensor([[0, 3], [0, 3]]), torch.eye(3)[:2].expand(2, 2, 3))
    torch.testing.assert_close(each, one)


def test_rotations_interpolate_along_the_shortest_turn():
    halfway = interpolate_axis_angle([0, 0, 0], [0, 0, 1.0], 0.5)
    np.testing.assert_allclose(halfway, [0, 0, 0.5], atol=1e-12)
    across = interpolate_axis_angle([0, 3.0, 0], [0, -3.0, 0], 0.5)
    assert abs(across[1]) == pytest.approx(np.pi)


def test_euler_angles_of_one_axis_are_axis_angles():
    for axis in range(3):
        angles = torch.zeros(3, dtype=torch.float64)
        angles[axis] = 0.4
        torch.testing.assert_close(euler_xyz_matrix(angles), rodrigues(angles), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faces": np.full((8, 3), 12, np.int32)}, "outside 0…11"),
        ({"uv_faces": np.zeros((7, 3), np.int32)}, "uv_faces has shape"),
        ({"shape_basis": np.zeros((11, 3, 4), np.float32)}, "shape_basis has shape"),
        ({"pose_basis": np.zeros((12, 3, 35), np.float32)}, "pose_basis has shape"),
        ({"parents": (-1, 0, 3, 1, 1)}, "each joint needs a parent before it"),
        ({"expression_names": ("jawOpen",)}, "1 expression names for 3"),
        ({"joint_names": ("root",)}, "joint names"),
    ],
)
def test_wrong_models_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_model(**changes)


def test_parameters_of_another_model_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match="'flame' given to the model 'small'"):
        pose_vertices(model, [FaceParameters.neutral("flame", shape=4, expression=3)])
    with pytest.raises(ValueError, match="shape has 5 coefficients; small has 4"):
        pose_vertices(model, [FaceParameters.neutral("small", shape=5, expression=3)])


def test_digest_follows_content():
    assert small_model().digest == small_model().digest
    assert small_model().digest != small_model(1).digest
    assert small_model().digest != small_model(camera_distance=1.5).digest


def test_units_turn_joints_of_the_open_head():
    model = load_open_head().model
    assert model.expression_rotations is not None
    face = FaceParameters.neutral("open", shape=model.shape_basis.shape[2], expression=len(model.expression_names))
    weights = np.zeros(len(model.expression_names))
    weights[int(np.abs(model.expression_rotations).sum((1, 2)).argmax())] = 1
    shape, pose = torch.zeros(1, len(face.shape)), torch.zeros(1, 6)
    expression = torch.from_numpy(weights).float()[None]
    torch_path = lbs(model.tensors(), shape, expression, model.joint_rotations(pose, expression)).vertices[0]
    np.testing.assert_allclose(pose_vertices(model, [face.replaced(expression=weights)])[0], torch_path, atol=2e-6)
