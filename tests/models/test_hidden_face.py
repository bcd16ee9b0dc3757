"""A hidden face: what stays, what goes, and networks that cannot say where it is."""

from dataclasses import replace

import pytest
import torch

from models.diffusion.hidden_face import face_cells, hide_face
from models.diffusion.presets import paper_config, tiny_config


def test_the_middle_of_an_aligned_picture_is_the_face() -> None:
    rows = face_cells(8).int().tolist()
    assert rows == [[0] * 8] * 2 + [[0, 0, 1, 1, 1, 1, 0, 0]] * 5 + [[0] * 8]
    assert bool((face_cells(16).view(8, 2, 8, 2).permute(0, 2, 1, 3).flatten(2).all(-1) == face_cells(8)).all())


def test_tokens_and_texture_go_and_shape_and_surroundings_stay() -> None:
    config = tiny_config()
    generator = torch.Generator().manual_seed(0)
    semantic = torch.randn(2, 64, 268, generator=generator)
    conditions = torch.randn(2, 192, 16, 16, generator=generator)
    before = semantic.clone(), conditions.clone()
    tokens, maps = hide_face(config, semantic, conditions)
    assert torch.equal(semantic, before[0])
    assert torch.equal(conditions, before[1])
    cells = face_cells(8).flatten()
    assert bool((tokens[:, cells] == 0).all())
    assert torch.equal(tokens[:, ~cells], semantic[:, ~cells])
    inside = face_cells(16)
    albedo, normal, render = maps.split(64, dim=1)
    assert torch.equal(normal, conditions[:, 64:128])
    for shown, whole in ((albedo, conditions[:, :64]), (render, conditions[:, 128:])):
        assert torch.equal(shown[..., ~inside], whole[..., ~inside])
        assert shown[..., inside].std() < 0.4 * whole[..., inside].std()
        assert shown[0, 0, 8, 8] == pytest.approx(float(whole[0, 0, 7:10, 7:10].mean()), abs=1e-5)


def test_networks_without_a_grid_cannot_hide_it() -> None:
    config = replace(paper_config(), latent_size=16)
    with pytest.raises(ValueError, match="no identity_grid"):
        hide_face(config, torch.zeros(1, 257, 1024), torch.zeros(1, 12, 16, 16))
