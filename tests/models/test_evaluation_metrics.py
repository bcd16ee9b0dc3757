"""Re-ID readings, re-inference errors and distances of sets, with answers that are known beforehand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.face3d.editing import FaceEdit, apply_edit
from models.face3d.lighting import light_preset
from models.face3d.open_head import load_open_head
from models.face3d.parameters import FaceParameters
from models.metrics.distribution import frechet_of_rows
from models.metrics.inception import InceptionFeatures, load_inception
from models.metrics.intervals import bootstrap, bootstrap_root_difference, jackknife
from models.metrics.perceptual import shift_tolerant
from models.metrics.reid import confidence, reading
from models.metrics.reinference import light_degrees, light_error, parameter_error


@pytest.fixture(scope="module")
def face() -> FaceParameters:
    model = load_open_head().model
    neutral = FaceParameters.neutral(
        "open", shape=model.shape_basis.shape[2], expression=model.expression_basis.shape[2]
    )
    return neutral.replaced(light=light_preset("left"))


def test_readings_of_two_embeddings() -> None:
    one = np.array([3.0, 0.0, 4.0])
    assert reading(one, one).distance == 0
    assert reading(one, one).cosine == pytest.approx(1)
    assert reading(one, np.array([0.0, 5.0, 0.0])).cosine == 0
    assert reading(one, -one).distance == 10
    with pytest.raises(ValueError, match="zeros"):
        reading(one, np.zeros(3))
    with pytest.raises(ValueError, match="compare"):
        reading(one, np.zeros(4))


@pytest.mark.parametrize(("distance", "expected"), [(0.0, 1.0), (0.3, 0.96764), (0.6, 0.5), (0.8, 0.25), (1.3, 0.0)])
def test_the_confidence_curve(distance: float, expected: float) -> None:
    assert confidence(distance) == pytest.approx(expected, abs=1e-5)


def test_factors_are_isolated(face: FaceParameters) -> None:
    model = load_open_head().model
    same = parameter_error(model, face, face)
    assert (same.pose_mm, same.expression_mm, same.pose_degrees, same.light) == (0, 0, 0, 0)
    turned = parameter_error(model, face, apply_edit(model, face, FaceEdit(yaw=10)))
    assert turned.pose_degrees == pytest.approx(10, abs=1e-3)
    assert turned.expression_mm == 0
    assert 5 < turned.pose_mm < 25, "10° at a tenth of a metre is 17 mm; landmarks lie on both sides of it"
    smiling = parameter_error(model, face, apply_edit(model, face, FaceEdit(expressions={"smile": 1.0}, light="right")))
    assert smiling.pose_mm == 0
    assert smiling.expression_mm > 1
    assert smiling.light > 0.3


def test_the_shape_of_the_head_spoils_neither_factor(face: FaceParameters) -> None:
    model = load_open_head().model
    other = apply_edit(model, face, FaceEdit(shape_vector=(2.0, -2.0)))
    error = parameter_error(model, face, other)
    assert (error.pose_mm, error.expression_mm) == (0, 0)


def test_brightness_is_no_error_of_light_and_direction_is() -> None:
    left, right = light_preset("left"), light_preset("right")
    assert light_error(left, 1.7 * left) == pytest.approx(0, abs=1e-12)
    assert light_error(left, right) > 0.5
    assert light_degrees(light_preset("above"), light_preset("below")) > 120
    assert light_degrees(left, 3 * left) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("counts", [(40, 60), (12, 9), (200, 10)])
def test_the_frechet_distance_of_rows_is_that_of_their_covariances(counts: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(24, 24))
    rows = [generator.normal(loc, 1.0, (n, 24)) @ mixing for loc, n in zip((0.0, 0.3), counts, strict=True)]
    first, second = (np.cov(some.T) for some in rows)
    shift = rows[0].mean(axis=0) - rows[1].mean(axis=0)
    root = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None)).sum()
    expected = shift @ shift + np.trace(first) + np.trace(second) - 2 * root
    assert frechet_of_rows(*rows) == pytest.approx(expected, rel=1e-5)
    assert frechet_of_rows(rows[0], rows[0]) == pytest.approx(0, abs=1e-6)
    assert frechet_of_rows(rows[0], rows[0] + 2) == pytest.approx(24 * 4, rel=1e-6)
    with pytest.raises(ValueError, match="two rows"):
        frechet_of_rows(rows[0][:1], rows[1])


@pytest.mark.parametrize(("groups", "least"), [(10, 0.92), (40, 0.92)])
def test_intervals_of_few_people_hold_what_they_say(groups: int, least: float) -> None:
    random = np.random.default_rng(3)
    names = np.repeat(np.arange(groups), 3).astype(str).tolist()
    held = 0
    for _ in range(300):
        values = np.repeat(random.normal(size=groups), 3) + 0.3 * random.normal(size=3 * groups)
        interval = bootstrap(values.tolist(), groups=names, resamples=500)
        held += interval.low <= 0 <= interval.high
    assert held / 300 >= least


def test_the_difference_of_root_mean_squares_is_paired() -> None:
    random = np.random.default_rng(4)
    errors, names = random.normal(size=60), [f"{n // 3}" for n in range(60)]
    same = bootstrap_root_difference(errors.tolist(), (-errors).tolist(), groups=names)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    worse = bootstrap_root_difference((2 * errors).tolist(), errors.tolist(), groups=names)
    assert worse.mean == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert 0 < worse.low < worse.mean < worse.high


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(2).normal(3, 1, 400)
    names = [f"{i:03d}" for i in range(400)]
    mean, low, high = jackknife(lambda kept: float(values[kept].mean()), names, folds=400)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.9659 * values.std(ddof=1) / 20, rel=1e-4), "t of 399 degrees of freedom"
    _, low, high = jackknife(lambda kept: float(values[kept].mean()), names, folds=10)
    assert (high - low) / 2 > 2.2 * values.std(ddof=1) / 20 * 0.5
    with pytest.raises(ValueError, match="two people"):
        jackknife(lambda kept: 0.0, ["one"] * 3)


def test_features_of_one_picture_serve_several_comparisons() -> None:
    metric = shift_tolerant()
    pictures = torch.rand(3, 3, 64, 64, generator=torch.manual_seed(0)) * 2 - 1
    layers = metric.features(pictures)
    pair = metric.between([layer[:1] for layer in layers], [layer[2:] for layer in layers])
    torch.testing.assert_close(pair, metric(pictures[:1], pictures[2:]))
    with pytest.raises(ValueError, match="at least 64"):
        metric.features(pictures[..., :32])


@pytest.mark.slow
def test_inception_has_the_published_size_and_reads_its_own_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = InceptionFeatures()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568, "Inception v3 without its classifier"
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, tmp_path / "inception.pth")
    loaded = load_inception(tmp_path / "inception.pth")
    pictures = torch.rand(1, 3, 128, 128, generator=torch.manual_seed(1))
    features = loaded(pictures)
    assert features.shape == (1, 2048)
    torch.testing.assert_close(features, network(pictures))
    del state["Mixed_7c.branch1x1.conv.weight"]
    torch.save(state, tmp_path / "inception.pth")
    with pytest.raises(ValueError, match=r"Mixed_7c\.branch1x1"):
        load_inception(tmp_path / "inception.pth")
