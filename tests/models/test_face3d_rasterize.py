"""The pixel rule against a brute-force evaluation, cracks, degenerate input, and the differentiable renderer."""

import numpy as np
import pytest
import torch

from models.face3d.rasterize import Canvas, rasterize
from models.face3d.torch_rasterize import barycentric_of, interpolate_attributes, visible_triangles
from models.face3d.torch_render import render

BACKENDS = ["numba", "torch", "pytorch3d"]


def brute_force(vertices: np.ndarray, faces: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule spelled out: face ids, and how far (pixels) each pixel is from an edge or a rival that could matter."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    best, second = np.full((2, height, width), np.inf)
    face, margin = np.full((height, width), -1), np.full((height, width), np.inf)
    for index, triangle in enumerate(faces):
        corners = vertices[triangle].astype(np.float64)
        px, py = ((corners[:, 0] + 1) * width - 1) / 2, ((corners[:, 1] + 1) * height - 1) / 2
        area = (px[1] - px[0]) * (py[2] - py[0]) - (px[2] - px[0]) * (py[1] - py[0])
        if abs(area) < 1e-12:
            continue
        edges = [
            ((px[k] - px[j]) * (y - py[j]) - (py[k] - py[j]) * (x - px[j])) * np.sign(area)
            for j, k in ((1, 2), (2, 0), (0, 1))
        ]
        lengths = [np.hypot(px[k] - px[j], py[k] - py[j]) for j, k in ((1, 2), (2, 0), (0, 1))]
        margin = np.minimum(margin, np.min([np.abs(e) / s for e, s in zip(edges, lengths, strict=True)], axis=0))
        depth = sum(e * z for e, z in zip(edges, corners[:, 2], strict=True)) / abs(area)
        inside = np.min(edges, axis=0) >= 0
        second = np.where(inside, np.minimum(np.maximum(depth, best), second), second)
        nearer = inside & (depth < best)
        face[nearer], best[nearer] = index, depth[nearer]
    with np.errstate(invalid="ignore"):
        margin = np.where(second - best < 1e-9, 0.0, margin)
    return face, margin


def soup(seed: int, triangles: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-1.1, 1.1, (triangles, 1, 3))
    vertices = (centres + rng.normal(0, 0.4, (triangles, 3, 3))).reshape(-1, 3).astype(np.float32)
    faces = np.arange(3 * triangles, dtype=np.int32).reshape(-1, 3)
    faces[::7] = faces[::7, [0, 2, 1]]
    faces[5] = faces[5, [0, 0, 1]]
    return vertices, faces


def seen_by(vertices, faces, size, backend) -> np.ndarray:
    if backend == "pytorch3d":
        pytest.importorskip("pytorch3d")
    return visible_triangles(torch.from_numpy(vertices)[None], torch.from_numpy(faces).long(), *size, backend)[
        0
    ].numpy()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("seed", "size"), [(0, (64, 64)), (1, (40, 72)), (2, (90, 33)), (3, (1, 7))])
def test_triangles_are_those_of_the_rule(seed, size, backend):
    vertices, faces = soup(seed)
    expected, margin = brute_force(vertices, faces, *size)
    wrong = (seen_by(vertices, faces, size, backend) != expected) & (margin > 1e-4)
    assert not wrong.any()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_no_cracks_between_triangles(backend):
    """A crumpled sheet with corners on pixel centres, edges through them, and more faces than pixels."""
    rng = np.random.default_rng(0)
    side = 33
    grid = np.stack(np.meshgrid(*[np.linspace(-1.25, 1.25, side)] * 2), axis=-1).reshape(-1, 2)
    grid[rng.random(len(grid)) < 0.5] += rng.uniform(-0.02, 0.02, 2)
    vertices = np.column_stack([grid, rng.normal(size=len(grid))]).astype(np.float32)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1)
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + side], 1), np.stack([corner + 1, corner + side, corner + side + 1], 1)]
    ).astype(np.int32)
    for shuffle in range(3):
        order = np.random.default_rng(shuffle).permutation(len(vertices))
        inverse = np.argsort(order).astype(np.int32)
        assert (seen_by(vertices[order], inverse[faces], (32, 32), backend) >= 0).all()


def test_barycentrics_reproduce_the_pixel_and_background_is_empty():
    vertices, faces = soup(4)
    fragments = rasterize(vertices, faces, 48, 64)
    covered = fragments.face >= 0
    assert covered.any()
    assert not covered.all()
    corners = vertices[faces[fragments.face]]
    points = (corners * fragments.barycentric[..., None]).sum(2)
    rows, columns = np.nonzero(covered)
    np.testing.assert_allclose(points[covered][:, 0], -1 + (2 * columns + 1) / 64, atol=1e-5)
    np.testing.assert_allclose(points[covered][:, 1], -1 + (2 * rows + 1) / 48, atol=1e-5)
    np.testing.assert_allclose(points[covered][:, 2], fragments.depth[covered], atol=1e-4)
    assert not fragments.barycentric[~covered].any()


def test_a_canvas_forgets_what_was_drawn_before():
    canvas, (vertices, faces) = Canvas(32, 32), soup(5)
    canvas.draw(*soup(6))
    again = canvas.draw(vertices, faces)
    fresh = rasterize(vertices, faces, 32, 32)
    np.testing.assert_array_equal(again.face, fresh.face)
    np.testing.assert_array_equal(again.barycentric, fresh.barycentric)


def test_nothing_to_see():
    empty = rasterize(np.full((3, 3), 5.0, np.float32), np.array([[0, 1, 2]], np.int32), 8, 8)
    assert (empty.face == -1).all()
    nan = rasterize(np.full((3, 3), np.nan, np.float32), np.array([[0, 1, 2]], np.int32), 8, 8)
    assert (nan.face == -1).all()
    with pytest.raises(ValueError, match=r"one head is \(V, 3\)"):
        rasterize(np.zeros((1, 3, 3), np.float32), np.array([[0, 1, 2]], np.int32), 8, 8)


def test_unknown_and_absent_back_ends_are_refused():
    vertices, faces = torch.zeros(1, 3, 3), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match="no rasteriser 'opengl'"):
        visible_triangles(vertices, faces, 4, 4, "opengl")
    try:
        import pytorch3d  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="choose numba or torch"):
            visible_triangles(vertices, faces, 4, 4, "pytorch3d")


def test_batches_are_drawn_head_by_head():
    (first, faces), (second, _) = soup(7), soup(8)
    batch = torch.from_numpy(np.stack([first, second]))
    seen = visible_triangles(batch, torch.from_numpy(faces).long(), 40, 40, "torch")
    for head, expected in zip(seen, (first, second), strict=True):
        np.testing.assert_array_equal(head, rasterize(expected, faces, 40, 40).face)


def test_interpolation_is_differentiable_in_vertices_and_attributes():
    vertices = torch.tensor([[[-0.9, -0.8, 0.0], [0.9, -0.7, 0.1], [0.0, 0.9, 0.3]]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2]])
    seen = visible_triangles(vertices, faces, 6, 6)
    values = torch.randn(1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def picture(vertices, values):
        return interpolate_attributes(values, faces, seen, barycentric_of(vertices, faces, seen))

    assert torch.autograd.gradcheck(picture, (vertices.requires_grad_(), values.requires_grad_()))


def test_a_render_passes_gradients_to_shape_texture_and_light():
    vertices = torch.tensor([[[-0.9, -0.8, 0.0], [0.9, -0.7, 0.1], [0.0, 0.9, 0.3]]], dtype=torch.float64)
    faces, uvs = torch.tensor([[0, 1, 2]]), torch.tensor([[[0.2, 0.2], [0.8, 0.3], [0.5, 0.9]]], dtype=torch.float64)
    texture = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    light = torch.rand(1, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [leaf.requires_grad_() for leaf in (vertices, texture, light)]

    def lit(vertices, texture, light):
        ndc = vertices * torch.tensor([1.0, -1.0, -1.0])
        return render(vertices, ndc, faces, uvs, texture, light, (7, 7)).lit

    assert torch.autograd.gradcheck(lit, leaves)
