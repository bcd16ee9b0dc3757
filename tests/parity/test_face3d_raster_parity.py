"""Rasterising against the original's face ids and barycentrics, with its two known faults left out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.face3d.rasterize import rasterize
from models.face3d.torch_rasterize import barycentric_of, interpolate_attributes, visible_triangles

BACKENDS = ["numba", "torch", "pytorch3d"]


@pytest.fixture(scope="module")
def scenes(golden: Path) -> dict[str, dict[str, np.ndarray]]:
    files = sorted((golden / "raster").glob("*.npz"))
    assert files
    return {path.stem: dict(np.load(path)) for path in files}


def inputs(scene) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    vertices = torch.from_numpy(scene["vertices"]).float()[None]
    height, width = (int(side) for side in scene["hw"])
    return vertices, torch.from_numpy(scene["faces"]).long(), height, width


def seen_by(scene, backend: str) -> torch.Tensor:
    if backend == "pytorch3d":
        pytest.importorskip("pytorch3d")
    return visible_triangles(*inputs(scene), backend)


def distance_to_edges(scene, triangle: int, row: int, column: int) -> float:
    """Pixels between a pixel's centre and the nearest edge line of a triangle."""
    height, width = scene["hw"]
    corners = scene["vertices"][scene["faces"][triangle]].astype(np.float64)
    screen = ((corners[:, :2] + 1) * [width, height] - 1) / 2 - [column, row]
    along = np.roll(screen, -1, axis=0) - screen
    cross = screen[:, 0] * along[:, 1] - screen[:, 1] * along[:, 0]
    return float(np.min(np.abs(cross) / np.maximum(np.hypot(*along.T), 1e-12)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_face_ids_match_the_float64_rule(scenes, backend):
    for name, scene in scenes.items():
        seen = seen_by(scene, backend)[0].numpy()
        wrong = (seen != scene["ref64_face"]) & ~scene["ambiguous"]
        assert not wrong.any(), f"{name}: {wrong.sum()} pixels"


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_coverage_is_the_originals_except_on_edges(scenes, backend):
    for name, scene in scenes.items():
        seen, original = seen_by(scene, backend)[0].numpy(), scene["p3d_face"]
        for row, column in np.argwhere((seen >= 0) != (original >= 0)):
            triangle = max(seen[row, column], original[row, column])
            assert distance_to_edges(scene, triangle, row, column) < 1e-4, f"{name} at {row}, {column}"


def test_barycentrics_and_depth(scenes):
    for name, scene in scenes.items():
        vertices, faces, height, width = inputs(scene)
        fragments = rasterize(vertices[0].numpy(), faces.numpy().astype(np.int32), height, width)
        same = (fragments.face == scene["ref64_face"]) & (fragments.face >= 0) & ~scene["ambiguous"]
        differentiable = barycentric_of(vertices, faces, torch.from_numpy(fragments.face).long()[None])[0]
        np.testing.assert_allclose(differentiable.numpy()[same], fragments.barycentric[same], atol=2e-3)
        assert not fragments.barycentric[fragments.face < 0].any()
        assert np.isinf(fragments.depth[fragments.face < 0]).all()
        if "ref64_bary" in scene:
            np.testing.assert_allclose(fragments.barycentric[same], scene["ref64_bary"][same], atol=1e-6)
            np.testing.assert_allclose(fragments.depth[same], scene["ref64_z"][same], atol=2e-6)
        if "p3d_bary" in scene:
            agreed = same & (scene["p3d_face"] == fragments.face)
            np.testing.assert_allclose(
                fragments.barycentric[agreed], scene["p3d_bary"][agreed], atol=2e-2, err_msg=name
            )


def test_interpolated_attributes(scenes):
    scenes = {name: scene for name, scene in scenes.items() if "attributes" in scene}
    assert scenes
    for name, scene in scenes.items():
        vertices, faces, height, width = inputs(scene)
        seen = visible_triangles(vertices, faces, height, width)
        values = torch.from_numpy(scene["attributes"])[None]
        pictures = interpolate_attributes(values, faces, seen, barycentric_of(vertices, faces, seen))[0]
        agreed = ~scene["ambiguous"] & (scene["p3d_face"] == seen[0].numpy())
        expected = scene["p3d_attr"][:4].transpose(1, 2, 0)
        np.testing.assert_allclose(pictures.numpy()[agreed], expected[agreed], atol=1e-3, err_msg=name)


def test_original_shrinks_barycentrics_and_we_do_not(scenes):
    """pytorch3d adds 1e-8 to a triangle's area in NDC: its weights sum to 1 / (1 + 1e-8 / area), down to 0.99.

    Ours sum to 1, so a tiny triangle is neither dimmed nor drawn towards the camera.
    """
    for scene in (scene for scene in scenes.values() if "p3d_bary" in scene):
        vertices, faces, height, width = inputs(scene)
        fragments = rasterize(vertices[0].numpy(), faces.numpy().astype(np.int32), height, width)
        covered = fragments.face >= 0
        np.testing.assert_allclose(fragments.barycentric[covered].sum(-1), 1.0, atol=1e-6)
        agreed = covered & (scene["p3d_face"] == fragments.face)
        corners = vertices[0].double().numpy()[scene["faces"][fragments.face[agreed]]][..., :2]
        stretch = np.array([width, height]) / min(height, width)
        u, v = ((corners[:, corner] - corners[:, 0]) * stretch for corner in (1, 2))
        area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
        explained = fragments.barycentric[agreed] / (1 + 1e-8 / area)[:, None]
        np.testing.assert_allclose(scene["p3d_bary"][agreed], explained, atol=5e-4)


def test_original_compares_harmonic_depth_and_we_do_not(scenes):
    """The CUDA "standard" rasteriser compares 1 / Σ(b/z): on deep triangle soups it shows other triangles."""
    soups = {name: scene for name, scene in scenes.items() if name.startswith("soup")}
    assert soups
    total = 0
    for scene in soups.values():
        seen = visible_triangles(*inputs(scene))[0].numpy()
        disputed = (scene["std_face"] != scene["ref64_face"]) & ~scene["ambiguous"]
        np.testing.assert_array_equal(seen[disputed], scene["ref64_face"][disputed])
        total += disputed.sum()
    assert total > 0
    heads = {name: scene for name, scene in scenes.items() if "std_bary" in scene}
    for scene in heads.values():
        vertices, faces, height, width = inputs(scene)
        fragments = rasterize(vertices[0].numpy(), faces.numpy().astype(np.int32), height, width)
        agreed = (fragments.face == scene["std_face"]) & (fragments.face >= 0)
        weights = fragments.barycentric[agreed].astype(np.float64)
        np.testing.assert_allclose(weights, scene["std_bary"][agreed], atol=2e-3)
        depths = vertices[0, :, 2].double().numpy()[scene["faces"][fragments.face[agreed]]]
        harmonic = width / 2 / (weights / depths).sum(-1)
        np.testing.assert_allclose(scene["std_depth"][agreed], harmonic, rtol=1e-5)


def test_every_head_of_a_batch_has_its_own_attributes(scenes):
    """Upstream's wrapper omits the batch offset: samples after the first get the first one's attributes."""
    scene = next(scene for name, scene in scenes.items() if "attributes" in scene)
    vertices, faces, height, width = inputs(scene)
    batch = vertices.repeat(2, 1, 1)
    values = torch.from_numpy(scene["attributes"])
    seen = visible_triangles(batch, faces, height, width)
    where = barycentric_of(batch, faces, seen)
    pictures = interpolate_attributes(torch.stack([values, -values]), faces, seen, where)
    torch.testing.assert_close(pictures[1], -pictures[0])
