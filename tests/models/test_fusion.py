import numpy as np
import pytest
import torch

from models.diffusion.fusion import as_batch, fuse, mirror_conditions, to_codec_range
from models.encoders.codec import mode
from models.encoders.patch_codec import PatchCosineCodec


def _maps(rows: int = 2, side: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    albedo, render = (torch.rand(rows, 3, side, side, generator=generator) * 1.2 for _ in range(2))
    normal = torch.nn.functional.normalize(torch.randn(rows, 3, side, side, generator=generator), dim=1)
    return {"render": render, "albedo": albedo, "normal": normal}


def test_maps_are_encoded_in_the_configured_order() -> None:
    codec, maps = PatchCosineCodec(), _maps()
    for order in (("albedo", "normal", "render"), ("render", "albedo")):
        latents = fuse(codec, maps, order)
        assert latents.shape == (2, 16 * len(order), 4, 4)
        for i, name in enumerate(order):
            expected = mode(codec.moments(to_codec_range(name, maps[name])))
            torch.testing.assert_close(latents[:, 16 * i : 16 * (i + 1)], expected)


def test_ranges_and_backgrounds() -> None:
    nothing = torch.zeros(1, 3, 8, 8)
    assert torch.equal(to_codec_range("albedo", nothing), nothing - 1)
    assert torch.equal(to_codec_range("render", nothing + 2), nothing + 1)  # overexposed: clipped
    assert torch.equal(to_codec_range("normal", nothing), nothing)
    assert torch.equal(to_codec_range("normal", nothing - 1), nothing - 1)


def test_missing_and_misshapen_maps_are_refused() -> None:
    maps = _maps()
    with pytest.raises(ValueError, match=r"\['normal'\] are missing"):
        fuse(PatchCosineCodec(), {k: v for k, v in maps.items() if k != "normal"})
    with pytest.raises(ValueError, match="differ in shape"):
        fuse(PatchCosineCodec(), maps | {"normal": maps["normal"][:, :, :16]})


def test_mirroring_twice_is_nothing_and_normals_turn() -> None:
    maps = _maps()
    once = mirror_conditions(maps)
    twice = mirror_conditions(once)
    assert all(torch.equal(twice[name], maps[name]) for name in maps)
    assert torch.equal(once["normal"][:, 0], -maps["normal"][:, 0].flip(-1))
    assert torch.equal(once["normal"][:, 1:], maps["normal"][:, 1:].flip(-1))


def test_pictures_become_a_batch() -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)
    batch = as_batch([picture, picture])
    assert batch.shape == (2, 3, 2, 3)
    assert batch[0, 1, 0, 2] == picture[0, 2, 1]
