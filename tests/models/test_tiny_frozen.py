"""The frozen parts of `tiny`: trained codec, latent grid, portrait recogniser, and what guards their files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.diffusion.folder import load_model
from models.diffusion.fusion import to_codec_range
from models.encoders.codec import mode
from models.encoders.latent_grid import LatentGridEncoder
from models.encoders.portrait_recogniser import PortraitRecogniser
from models.encoders.trained_codec import TrainedPatchCodec, blocks_of, load_trained_codec
from models.face3d.landmarks import five_points
from models.face3d.open_head import load_open_head
from models.face3d.render import geometry
from models.portraits.people import person_of
from models.portraits.portrait import Portrait, render_portrait
from models.portraits.scenes import scene_of
from models.tiny.shipped import STAGE1, DamagedWeights, shipped_file, shipped_folder, write_sums

HELD_OUT = 1000


@pytest.fixture(scope="module")
def portraits() -> list[list[Portrait]]:
    """Two pictures of each of three people that no training has seen."""
    return [[render_portrait(person_of(HELD_OUT, p), scene_of(HELD_OUT, p, k)) for k in range(2)] for p in range(3)]


@pytest.fixture(scope="module")
def codec() -> TrainedPatchCodec:
    return load_trained_codec(shipped_file("codec.safetensors"))


def pictures_of(portraits: list[list[Portrait]]) -> Tensor:
    return torch.stack([torch.from_numpy(one[0].image).permute(2, 0, 1) for one in portraits]).float() / 127.5 - 1


def psnr(one: Tensor, other: Tensor) -> float:
    return float((10 * torch.log10(4 / (one.clamp(-1, 1) - other).square().mean(dim=(1, 2, 3)))).mean())


def test_codec_rebuilds_portraits_and_maps(codec: TrainedPatchCodec, portraits: list[list[Portrait]]) -> None:
    images = pictures_of(portraits)
    moments = codec.moments(images)
    assert moments.shape == (3, 2 * codec.channels, 16, 16)
    assert psnr(codec.decode(mode(moments)), images) > 35
    maps = [one[0].maps() for one in portraits]
    for name in ("albedo", "normal", "render"):
        stacked = torch.from_numpy(np.stack([getattr(m, name) for m in maps])).permute(0, 3, 1, 2).float()
        seen = to_codec_range(name, stacked)
        assert psnr(codec.decode(mode(codec.moments(seen))), seen) > 32.5, name


def test_correction_improves_on_the_basis(codec: TrainedPatchCodec, portraits: list[list[Portrait]]) -> None:
    images = pictures_of(portraits)
    latents = mode(codec.moments(images))
    assert psnr(codec.decode(latents), images) > psnr(codec.linear_picture(latents), images) + 1.5


def test_fitted_basis_is_orthonormal_and_latents_have_unit_variance() -> None:
    codec = TrainedPatchCodec()
    rough = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3
    pictures = torch.nn.functional.interpolate(rough, size=256, mode="bicubic").clamp(-1, 1)
    codec.fit(blocks_of(pictures))
    assert torch.allclose(codec.basis @ codec.basis.T, torch.eye(codec.channels), atol=1e-4)
    latents = codec.encode(pictures)
    assert float(latents.var(dim=(0, 2, 3)).mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(codec.decode(latents), codec.linear_picture(latents))  # untrained: nothing is added


def test_codec_refuses_other_shapes(codec: TrainedPatchCodec) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        codec.moments(torch.zeros(1, 3, 250, 256))
    with pytest.raises(ValueError, match="decodes 64 channels, not 16"):
        codec.decode(torch.zeros(1, 16, 16, 16))


def test_latent_grid_keeps_every_latent(codec: TrainedPatchCodec, portraits: list[list[Portrait]]) -> None:
    encoder = LatentGridEncoder(codec)
    tokens = encoder.encode([one[0].image for one in portraits])
    assert tokens.shape == (3, encoder.tokens, encoder.width) == (3, 64, 268)
    cells = tokens[..., : 4 * codec.channels].transpose(1, 2).unflatten(2, (8, 8))
    latents = mode(codec.moments(pictures_of(portraits)))
    assert torch.allclose(torch.nn.functional.pixel_shuffle(cells, 2), latents, atol=1e-4)
    places = tokens[0, :, 4 * codec.channels :]
    assert len({tuple(row) for row in places.tolist()}) == 64


def test_recogniser_tells_people_apart(portraits: list[list[Portrait]]) -> None:
    recogniser = PortraitRecogniser(shipped_file("recogniser.safetensors"))
    model = load_open_head().model
    vectors = np.stack(
        [
            [recogniser.embed(p.image, five_points(geometry(model, p.parameters).landmarks["mesh468"])) for p in person]
            for person in portraits
        ]
    )
    assert vectors.shape == (3, 2, recogniser.width)
    assert np.allclose(np.square(vectors).mean(axis=-1), 1, atol=1e-4)
    cosine = np.einsum("pd,qd->pq", vectors[:, 0], vectors[:, 1]) / recogniser.width
    others = cosine[~np.eye(3, dtype=bool)]
    assert np.diag(cosine).mean() > others.mean() + 0.15


def test_identity_tokens_of_people_differ(portraits: list[list[Portrait]], codec: TrainedPatchCodec) -> None:
    """A projection that gives everybody the same tokens trains well and tells nobody apart; ours once did (docs/log.md)."""
    shipped = load_model(shipped_folder(STAGE1))
    recogniser = PortraitRecogniser(shipped_file("recogniser.safetensors"))
    head = load_open_head().model
    points = [five_points(geometry(head, one[0].parameters).landmarks["mesh468"]) for one in portraits]
    faces = np.stack([recogniser.embed(one[0].image, five) for one, five in zip(portraits, points, strict=True)])
    semantic = LatentGridEncoder(codec).encode([portraits[0][0].image]).expand(3, -1, -1)
    with torch.no_grad():
        tokens = shipped.tokens(semantic, torch.from_numpy(faces).float())[:, : shipped.config.tokens]
    assert float(tokens.std(dim=0).mean()) > 0.2 * float(tokens.abs().mean())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    (folder / "part").mkdir(parents=True)
    shutil.copy(shipped_file("codec.safetensors"), folder / "codec.safetensors")
    (folder / "part" / "config.json").write_text("{}")
    assert set(write_sums(folder)) == {"codec.safetensors", "part/config.json"}
    assert shipped_file("codec.safetensors", folder).is_file()
    assert shipped_folder("part", folder) == folder / "part"
    with pytest.raises(DamagedWeights, match=r"other\.safetensors is not listed"):
        shipped_file("other.safetensors", folder)
    sums = (folder / "sha256.json").read_text()
    write_sums(folder)  # forgets what was checked
    (folder / "sha256.json").write_text(sums)
    data = bytearray((folder / "codec.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "codec.safetensors").write_bytes(bytes(data))
    with pytest.raises(DamagedWeights, match=r"has sha256 .* expected"):
        shipped_file("codec.safetensors", folder)
