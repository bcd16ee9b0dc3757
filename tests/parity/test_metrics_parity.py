"""SSIM, Fréchet and kernel distance and LPIPS' aggregation against their references (golden/metrics)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.metrics.distribution import frechet_of_rows, kernel_distance
from models.metrics.perceptual import (
    SCALE,
    SHIFT,
    layer_differences,
    scale_input,
    weighted_distance,
    weighted_map,
)
from models.metrics.similarity import gaussian_window, ssim, ssim_map


def _file(golden: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden / "metrics" / f"{name}.npz") as file:
        return {key: np.asarray(file[key]) for key in file.files}


def test_ssim(golden: Path) -> None:
    g = _file(golden, "ssim")
    a, b = (torch.from_numpy(g[name]).permute(0, 3, 1, 2) for name in ("images_a", "images_b"))
    np.testing.assert_allclose(gaussian_window().numpy(), g["window"], atol=1e-9)
    np.testing.assert_allclose(ssim(a, b, peak=255).numpy(), g["ssim_luminance601"], atol=1e-9)
    np.testing.assert_allclose(ssim(a, b, peak=255, colour="rgb").numpy(), g["ssim_rgb_mean"], atol=1e-9)
    np.testing.assert_allclose(ssim_map(a, b, peak=255)[2, 0].numpy(), g["ssim_map_luminance_pair2"], atol=1e-9)


def test_ssim_of_the_unit_range_is_that_of_eight_bits(golden: Path) -> None:
    g = _file(golden, "ssim")
    a, b = (torch.from_numpy(g[name]).permute(0, 3, 1, 2).double() / 255 for name in ("images_a", "images_b"))
    np.testing.assert_allclose(ssim(a, b).numpy(), g["ssim_luminance601"], atol=1e-9)


@pytest.mark.parametrize("case", ["full_rank", "rank_deficient", "identical"])
def test_frechet_distance(golden: Path, case: str) -> None:
    g = _file(golden, "frechet")
    found = frechet_of_rows(g[f"{case}_a"], g[f"{case}_b"])
    assert found == pytest.approx(float(g[f"{case}_fid_eigenform"]), rel=1e-6, abs=1e-6)
    # The sqrtm form of the reference loses digits on singular covariances; the eigenvalue form is the better number.
    assert found == pytest.approx(float(g[f"{case}_fid"]), rel=1e-6, abs=1e-6)


def test_kernel_distance(golden: Path) -> None:
    g = _file(golden, "kid")
    a, b = g["features_a"], g["features_b"]
    assert kernel_distance(a, b) == pytest.approx(float(g["mmd2_unbiased_full"]), rel=1e-9)
    subsets = [kernel_distance(a[i], b[j]) for i, j in zip(g["subset_idx_a"], g["subset_idx_b"], strict=True)]
    np.testing.assert_allclose(subsets, g["subset_mmd2"], rtol=1e-9)
    assert np.mean(subsets) == pytest.approx(float(g["kid_mean"]), rel=1e-9)


def test_lpips_aggregation(golden: Path) -> None:
    g = _file(golden, "lpips_heads")
    first, second = ([torch.from_numpy(g[f"feat{side}_{i}"]).float() for i in range(5)] for side in (0, 1))
    heads = [torch.from_numpy(g[f"lin{i}_weight"]) for i in range(5)]
    differences = layer_differences(first, second)
    np.testing.assert_allclose(weighted_distance(differences, heads).numpy(), g["lpips"], atol=2e-6)
    np.testing.assert_allclose(weighted_map(differences, heads, (8, 8)).numpy(), g["lpips_spatial"], atol=2e-6)
    plain = weighted_distance(differences, [torch.ones_like(h) for h in heads])
    np.testing.assert_allclose(plain.numpy(), g["baseline_no_lin"], atol=2e-6)


def test_lpips_input_scaling(golden: Path) -> None:
    g = _file(golden, "lpips_heads")
    np.testing.assert_allclose(np.array(SHIFT), g["scaling_shift"].ravel(), atol=1e-7)
    np.testing.assert_allclose(np.array(SCALE), g["scaling_scale"].ravel(), atol=1e-7)
    scaled = scale_input(torch.from_numpy(g["image0"]))
    np.testing.assert_allclose(scaled.numpy(), g["scaled_image0"], atol=2e-6)
