"""Whole decodes: DECA's crop and picture frames, DiffusionRig's maps and re-centring, detail normals, textures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.face3d import asset_conversion as conversion
from models.face3d import flame
from models.face3d.decode import Decoder
from models.face3d.detail import detail_normals, load_detail_space, to_uv, uv_fragments
from models.face3d.editing import face_centre, turned
from models.face3d.lighting import sh_basis
from models.face3d.morphable import pose_vertices
from models.face3d.render import geometry, render_many

BACKENDS = ["numba", "torch", "pytorch3d"]


def read(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / f"{name}.npz") as file:
        return dict(file)


def close(actual, expected, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


def close_pixels(actual, expected, skip, *, most: float, all_: float) -> None:
    """Compares (B, C, H, W) pictures outside ``skip`` (B, 1, H, W): 99.9 % within ``most``, all within ``all_``."""
    error = np.abs(np.asarray(actual, np.float64) - expected)
    error = error[np.broadcast_to(~skip, error.shape)]
    assert np.quantile(error, 0.999) <= most
    assert error.max() <= all_


def as_pictures(maps) -> np.ndarray:
    return np.stack(maps).transpose(0, 3, 1, 2)


def test_codes_in_the_crop(golden, golden_flame, golden_faces):
    g = read(golden, "render/stock224_codes")
    decoded = Decoder(golden_flame)(golden_faces(g))
    close(decoded.vertices, g["verts"], 2e-6)
    close(decoded.vertices_ndc, g["trans_verts"], 2e-6)
    close(decoded.landmarks2d, g["landmarks2d"], 2e-6)
    close(decoded.landmarks3d, g["landmarks3d"][..., :3], 2e-6)
    close(decoded.visible, g["landmarks3d"][..., 3], 0)
    close(decoded.landmarks3d_world, g["landmarks3d_world"], 2e-6)
    close(decoded.normals, g["vertex_normals"], 1e-4)
    close(decoded.projected_normals, g["transformed_normals"], 1e-4)
    assert golden_flame.texture is not None
    albedo = golden_flame.texture.decode(g["tex"]).transpose(0, 3, 1, 2)
    close(albedo[:, :, 3::8, 5::8], g["albedo_uv_sub"], 2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pictures_in_the_crop(golden, golden_flame, golden_faces, backend):
    if backend == "pytorch3d":
        pytest.importorskip("pytorch3d")
    g = read(golden, "render/stock224_images")
    codes = read(golden, "render/stock224_codes")
    pictures, skip = Decoder(golden_flame, backend=backend)(golden_faces(codes)).pictures, g["ambiguous"]
    assert not ((pictures.alpha.numpy() != g["alpha"]) & ~skip).any()
    assert not ((pictures.facing.numpy() != g["pos_mask"]) & ~skip).any()
    close_pixels(pictures.normal, g["normal_images"], skip, most=1e-4, all_=5e-3)
    close_pixels(pictures.grid[:1], g["grid"], skip[:1, 0, ..., None], most=1e-4, all_=5e-3)
    close_pixels(pictures.albedo[:1], g["albedo_images"], skip[:1], most=5e-3, all_=8e-2)
    close_pixels(pictures.lit[:1], g["lit_images"], skip[:1], most=5e-3, all_=8e-2)
    shading_skip = skip[:1, :, ::4, ::4]
    close_pixels(pictures.shading[:1, :, ::4, ::4], g["shading_images"], shading_skip, most=1e-3, all_=2e-2)


def test_normals_and_albedo_within_one_grey_level_of_the_original(golden, golden_flame, golden_faces):
    """Albedo is compared at the original's own lookup coordinates.

    Those differ from ours by pytorch3d's shrunken barycentrics (test_face3d_raster_parity.py), up to 0.1
    texels, which on this texture of pixel noise is more than a grey level; test_pictures_in_the_crop bounds
    both.
    """
    g = read(golden, "render/stock224_images")
    codes = read(golden, "render/stock224_codes")
    pictures = Decoder(golden_flame)(golden_faces(codes)).pictures
    close_pixels(pictures.normal, g["normal_images"], g["ambiguous"], most=1 / 255, all_=1 / 255)
    texture = torch.from_numpy(golden_flame.texture.decode(codes["tex"][:1])).permute(0, 3, 1, 2)
    albedo = torch.nn.functional.grid_sample(texture, torch.from_numpy(g["grid"]), align_corners=False)
    albedo = albedo.numpy() * g["alpha"][:1]
    close_pixels(albedo, g["albedo_images"], g["ambiguous"][:1], most=1 / 255, all_=1 / 255)


def test_on_a_picture_that_is_not_square(golden, golden_flame, golden_faces):
    g = read(golden, "render/stock_orig_192x256")
    photo = g["original_image"]
    decoded = Decoder(golden_flame)(golden_faces(g), frame=photo.shape[2:])
    pictures, skip = decoded.pictures, g["ambiguous"]
    close(decoded.vertices, g["verts"], 2e-6)
    close(decoded.visible, g["landmarks3d_visibility"], 0)
    assert not ((pictures.alpha.numpy() != g["alpha"]) & ~skip).any()
    close_pixels(pictures.normal, g["normal_images"], skip, most=2e-4, all_=5e-3)
    alpha = pictures.alpha.numpy()
    unlit = pictures.albedo.numpy() * alpha + photo * (1 - alpha)
    expected, skip = g["rendered_unlit_on_photo"], skip[..., ::2, ::2]
    close_pixels(unlit[..., ::2, ::2], expected, skip, most=5e-3, all_=8e-2)


def test_diffusionrig_maps_by_both_paths(golden, golden_flame, golden_faces):
    g = read(golden, "render/diffusionrig256")
    faces, skip = golden_faces(g), g["ambiguous"]
    close(Decoder(golden_flame)(faces).vertices_ndc, g["trans_verts_crop"], 2e-6)
    close(pose_vertices(golden_flame, faces), g["verts"], 2e-6)
    maps = list(render_many(golden_flame, faces, clip=False))
    pictures = Decoder(golden_flame)(faces, frame=(256, 256)).pictures
    by_path = {
        "numba": [as_pictures([getattr(one, name) for one in maps]) for name in ("normal", "albedo", "render")],
        "torch": [pictures.normal.numpy(), pictures.albedo.numpy(), pictures.lit.numpy()],
    }
    alpha = {"numba": np.stack([one.mask for one in maps])[:, None], "torch": pictures.alpha.numpy()}
    for path, (normal, albedo, lit) in by_path.items():
        assert not ((alpha[path] != g["alpha"]) & ~skip).any(), path
        close_pixels(normal, g["normal"], skip, most=2e-4, all_=5e-3)
        close_pixels(albedo[:1], g["albedo"], skip[:1], most=5e-3, all_=8e-2)
        close_pixels(lit[:1], g["rendered"], skip[:1], most=5e-3, all_=8e-2)
        background = np.broadcast_to(~alpha[path], normal.shape)
        assert not normal[background].any()
        assert not albedo[background].any()
        assert not lit[background].any()


def test_diffusionrig_recentring(golden, golden_flame, golden_faces):
    g = read(golden, "render/diffusionrig_recentre")
    source, edit = golden_faces(g, "pose_source")[0], golden_faces(g, "pose_edit")[0]
    close(face_centre(golden_flame, source), g["center_source"][0], 3e-6)
    close(face_centre(golden_flame, edit), g["center_edit"][0], 3e-6)
    moved = turned(golden_flame, source, edit.pose[:3]).replaced(pose=edit.pose)
    close(geometry(golden_flame, moved).vertices, g["verts_recentred"][0], 3e-6)
    (maps,) = render_many(golden_flame, [moved], clip=False)
    skip = g["ambiguous"]
    assert not ((maps.mask[None, None] != g["alpha"]) & ~skip).any()
    normal = as_pictures([maps.normal])[..., ::2, ::2]
    close_pixels(normal, g["normal_sub"], skip[..., ::2, ::2], most=2e-4, all_=5e-3)


def test_recentring_moves_landmarks_too_unlike_upstream(golden, golden_flame, golden_faces):
    """Upstream shifts the vertices but returns the landmarks of the un-shifted head; ours lie on the head."""
    g = read(golden, "render/diffusionrig_recentre")
    source, edit = golden_faces(g, "pose_source")[0], golden_faces(g, "pose_edit")[0]
    close(Decoder(golden_flame)([edit]).landmarks3d, g["landmarks3d_crop_not_shifted"], 2e-6)
    shift = g["center_source"] - g["center_edit"]
    moved = turned(golden_flame, source, edit.pose[:3]).replaced(pose=edit.pose)
    expected = Decoder(golden_flame)([edit]).landmarks3d_world + torch.from_numpy(shift)[:, None]
    close(Decoder(golden_flame)([moved]).landmarks3d_world, expected.numpy(), 3e-6)


def test_decode_leaves_depth_as_it_is_unlike_upstream(golden, golden_flame, golden_faces):
    """Upstream adds 10 to z of the vertices it returns; decoding twice gives us the same numbers."""
    faces = golden_faces(read(golden, "render/stock224_codes"))
    first, second = Decoder(golden_flame)(faces), Decoder(golden_flame)(faces)
    torch.testing.assert_close(first.vertices_ndc, second.vertices_ndc, rtol=0, atol=0)
    assert first.vertices_ndc[..., 2].abs().max() < 10


def test_detail_normals(golden, golden_flame, flame_folder):
    g = read(golden, "render/detail_uv")
    space = load_detail_space(flame_folder)
    near = cv2.dilate(g["uv_ambiguous"][0].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    vertices, displacement = g["verts"][0], g["uv_z"][0, 0]
    positions = to_uv(golden_flame, uv_fragments(golden_flame), vertices)
    normals = detail_normals(golden_flame, vertices, displacement, space)
    close((displacement + space.fixed)[::2, ::2], g["displacement_map_sub"][0, 0], 1e-7)
    kept = ~near[::2, ::2]
    close(positions[::2, ::2][kept], g["uv_verts_sub"][0].transpose(1, 2, 0)[kept], 1e-5)
    close(normals[::2, ::2][kept], g["uv_detail_normals"][0].transpose(1, 2, 0)[kept], 1e-3)
    lit = golden_flame.texture.decode(g["tex"])[0] * (sh_basis(normals.astype(np.float64)) @ g["light"][0])
    close(lit[::4, ::4][~near[::4, ::4]], g["uv_texture_sub"][0].transpose(1, 2, 0)[~near[::4, ::4]], 1e-3)


def test_both_texture_spaces(golden, golden_flame, tmp_path):
    g = read(golden, "flame/texture_io")
    conversion.convert_texture(golden / "flame/FLAME_albedo_from_BFM.npz", tmp_path / "bfm.safetensors")
    bfm = flame.load_texture(tmp_path / "bfm.safetensors")
    code = np.zeros((len(g["bfm_texcode"]), bfm.components), np.float32)
    code[:, : g["bfm_texcode"].shape[1]] = g["bfm_texcode"]
    spaces = {"flame": golden_flame.texture.decode(g["texcode"]), "bfm": bfm.decode(code)}
    for name, albedo in spaces.items():
        albedo = albedo.transpose(0, 3, 1, 2)
        close(albedo[:, :, 3::8, 5::8], g[f"{name}_albedo_sub"], 2e-6)
        close(albedo.astype(np.float64).mean((2, 3)), g[f"{name}_albedo_mean_hw"], 2e-6)
        close(albedo[0, :, 96:100], g[f"{name}_albedo0_rows"], 2e-6)
