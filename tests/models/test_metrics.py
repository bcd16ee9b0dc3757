"""Metrics with known answers: equal pictures, shifts, noise, masks; what is missing says so."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from models.metrics.distribution import (
    kernel_distance,
)
from models.metrics.intervals import bootstrap
from models.metrics.perceptual import MetricUnavailable, PerceptualDistance, lpips_alex, shift_tolerant
from models.metrics.similarity import psnr, ssim


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return shift_tolerant()


def _waves(phase: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    return torch.stack(
        [torch.sin(7 * x + 3 * y + phase), torch.cos(5 * y - x + 0.75 * phase), x * y * (1 - phase / 2)]
    )[None]


def test_psnr_of_a_constant_error_is_its_logarithm() -> None:
    images = torch.rand(2, 3, 12, 14) * 0.5
    torch.testing.assert_close(
        psnr(images + 0.1, images), torch.full((2,), 20.0, dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert torch.isinf(psnr(images, images)).all()


def test_psnr_inside_a_mask_ignores_the_rest() -> None:
    reference = torch.zeros(1, 3, 8, 8)
    image = reference.clone()
    image[..., :4] = 0.5
    image[..., 4:] = 0.1
    right = torch.zeros(1, 8, 8, dtype=torch.bool)
    right[..., 4:] = True
    assert psnr(image, reference, right).item() == pytest.approx(20, abs=1e-4)
    with pytest.raises(ValueError, match="no pixel"):
        psnr(image, reference, torch.zeros_like(right))


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    generator = np.random.default_rng(3)
    a = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    b = np.clip(a + generator.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(v).permute(2, 0, 1)[None] for v in (a, b))
    assert psnr(x, y, peak=255).item() == pytest.approx(peak_signal_noise_ratio(a, b), abs=1e-9)
    _, full = structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
    )
    assert ssim(x, y, peak=255, colour="rgb").item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


def test_ssim_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="at least 11"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.zeros(1, 3, 16, 16), torch.zeros(2, 3, 16, 16))


def test_shift_tolerant_distance_is_the_reference_implementations(distance: PerceptualDistance) -> None:
    # Computed once with the package's own code, on these very pictures.
    assert distance(_waves(0.0), _waves(0.4)).item() == pytest.approx(0.0332494, abs=2e-6)
    assert distance.digest == shift_tolerant().digest


def test_perceptual_distance_grows_with_noise_and_forgives_a_shift(distance: PerceptualDistance) -> None:
    coarse = torch.rand(1, 3, 12, 12, generator=torch.manual_seed(0)) * 2 - 1
    whole = torch.nn.functional.interpolate(coarse, 97, mode="bicubic").clamp(-1, 1)
    picture, shifted = whole[..., :96, :96], whole[..., 1:, 1:]
    noise = torch.randn(picture.shape, generator=torch.manual_seed(1))
    weak, strong = ((picture + s * noise).clamp(-1, 1) for s in (0.1, 0.4))
    assert 0 < distance(weak, picture).item() < distance(strong, picture).item()
    assert distance(picture, picture).item() == 0
    # Noise of the very PSNR of the shift counts for much more.
    alike = picture + noise * (shifted - picture).square().mean().sqrt()
    assert psnr(alike, picture, peak=2).item() == pytest.approx(psnr(shifted, picture, peak=2).item(), abs=0.2)
    assert 2 * distance(shifted, picture).item() < distance(alike, picture).item()


def test_perceptual_distance_refuses_small_pictures(distance: PerceptualDistance) -> None:
    with pytest.raises(ValueError, match="at least 64"):
        distance(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))


def test_lpips_without_weights_says_so_and_with_them_runs(tmp_path: Path) -> None:
    with pytest.raises(MetricUnavailable, match="missing"):
        lpips_alex(tmp_path / "alexnet.pth", tmp_path / "alex.pth")
    sizes = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))
    generator = torch.manual_seed(0)
    trunk = {f"features.{i}.weight": torch.randn(o, c, k, k, generator=generator) * 0.05 for i, o, c, k in sizes}
    trunk |= {f"features.{i}.bias": torch.zeros(o) for i, o, _, _ in sizes}
    heads = {f"lin{i}.model.1.weight": torch.rand(1, o, 1, 1) for i, (_, o, _, _) in enumerate(sizes)}
    torch.save(trunk, tmp_path / "alexnet.pth")
    torch.save(heads, tmp_path / "alex.pth")
    metric = lpips_alex(tmp_path / "alexnet.pth", tmp_path / "alex.pth")
    assert metric.name.startswith("LPIPS (AlexNet")
    assert metric(_waves(0.0), _waves(0.4)).item() > metric(_waves(0.0), _waves(0.1)).item() > 0
    torch.save({"features.0.weight": trunk["features.0.weight"]}, tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match="no tensor"):
        lpips_alex(tmp_path / "alexnet.pth", tmp_path / "alex.pth")


def test_missing_shift_tolerant_weights_are_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.metrics.perceptual._WEIGHTS", "of-another-network.pth")
    with pytest.raises(MetricUnavailable, match="not available"):
        shift_tolerant()


def test_distances_of_sets_with_known_answers() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 8))
    assert abs(kernel_distance(rows[:150], rows[150:])) < 0.05
    assert kernel_distance(rows[:150], rows[150:] + 2) > 1
    with pytest.raises(ValueError, match="two rows"):
        kernel_distance(rows[:1], rows)
    with pytest.raises(ValueError, match="width"):
        kernel_distance(rows, rows[:, :3])


def test_pictures_of_one_person_do_not_meet() -> None:
    """A reference that repeats a person's photograph is worth each photograph once; a copy of it is at no distance."""
    random = np.random.default_rng(1)
    photographs, others = random.normal(size=(100, 16)), random.normal(size=(400, 16))
    people = np.repeat([f"{n:03d}" for n in range(100)], 4).tolist()
    repeated = np.repeat(photographs, 4, axis=0)
    assert kernel_distance(repeated, repeated, people) == pytest.approx(0, abs=1e-12)
    assert kernel_distance(repeated, repeated) < -0.01, "without the names it is less than nothing"
    assert abs(kernel_distance(others, repeated, people)) < 0.02
    with pytest.raises(ValueError, match="two groups"):
        kernel_distance(others, repeated, ["one"] * 400)


def test_bootstrap_covers_the_mean_and_respects_groups() -> None:
    values = list(np.random.default_rng(1).normal(5, 1, 400))
    interval = bootstrap(values)
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert bootstrap(values) == interval
    repeated = [v for v in values[:40] for _ in range(10)]
    names = [str(i) for i in range(40) for _ in range(10)]
    by_person = bootstrap(repeated, groups=names)
    assert by_person.high - by_person.low > 2 * (bootstrap(repeated).high - bootstrap(repeated).low)
    with pytest.raises(ValueError, match="finite"):
        bootstrap([1.0, float("nan")])
    with pytest.raises(ValueError, match="group"):
        bootstrap([1.0, 2.0], groups=["a"])
