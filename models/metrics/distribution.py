"""Distances between two sets of pictures by their features: Fréchet (FID) and kernel (KID).

FID proper means Inception's pool3 features; over other features the formulas are the same and the numbers are not, so a
table names the features. Both depend on the number of pictures: compare equal numbers only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(kw_only=True, slots=True)
class FeatureMoments:
    """Mean and covariance of features, gathered batch by batch (Chan's parallel update, float64)."""

    count: int
    mean: Doubles
    scatter: Doubles
    """Σ (x - mean)(x - mean)ᵀ."""

    @classmethod
    def of_width(cls, width: int) -> "FeatureMoments":
        return cls(count=0, mean=np.zeros(width), scatter=np.zeros((width, width)))

    def add(self, features_ND: NDArray[np.floating]) -> None:
        """Take in a batch (N, D). ValueError for another width."""
        batch = np.asarray(features_ND, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != len(self.mean):
            raise ValueError(f"features are {batch.shape} and these moments have width {len(self.mean)}")
        if not len(batch):
            return
        mean = batch.mean(axis=0)
        centred = batch - mean
        total = self.count + len(batch)
        shift = mean - self.mean
        self.scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(batch) / total)
        self.mean += shift * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> Doubles:
        """Unbiased. ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two pictures, not {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    """‖μ1-μ2‖² + Tr(C1 + C2 - 2·(C1·C2)^½) (Heusel et al. 2017).

    The trace of the root is taken from the eigenvalues of C1^½·C2·C1^½, which is symmetric: no complex part to drop and
    no ε on singular covariances (fewer pictures than features).
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of width {len(first.mean)} and {len(second.mean)} do not compare")
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = root @ second.covariance @ root
    trace = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    shift = first.mean - second.mean
    return float(shift @ shift + np.trace(first.covariance) + np.trace(second.covariance) - 2 * trace)


def frechet_of_rows(first_ND: NDArray[np.floating], second_MD: NDArray[np.floating]) -> float:
    """`frechet_distance` of two sets of rows (N, D) and (M, D), at the cost of the smaller of D and the numbers of rows.

    With A and B the centred rows over √(N-1) and √(M-1), C1 = AᵀA and C2 = BᵀB, and Tr (C1·C2)^½ is the sum of the
    singular values of A·Bᵀ.

    Raises:
        ValueError: fewer than two rows, or widths that differ.
    """
    x, y = np.asarray(first_ND, dtype=np.float64), np.asarray(second_MD, dtype=np.float64)
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features {x.shape} and {y.shape}: two rows and one width are needed")
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    b = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    if x.shape[1] < min(len(x), len(y)):  # an equal sum over D×D: the triangular factors of A and B
        a, b = (np.asarray(np.linalg.qr(rows, mode="r")) for rows in (a, b))
    trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.square(a).sum() + np.square(b).sum() - 2 * trace)


def kernel_distance(first_ND: NDArray[np.floating], second_MD: NDArray[np.floating]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y/D + 1)³ (Bińkowski et al. 2018). May be negative.

    Raises:
        ValueError: fewer than two rows, or widths that differ.
    """
    x, y = np.asarray(first_ND, dtype=np.float64), np.asarray(second_MD, dtype=np.float64)
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features {x.shape} and {y.shape}: two rows and one width are needed")

    def off_diagonal_mean(rows: Doubles) -> float:
        kernel = _cubic(rows, rows)
        return float((kernel.sum() - np.trace(kernel)) / (len(rows) * (len(rows) - 1)))

    return off_diagonal_mean(x) + off_diagonal_mean(y) - 2 * float(_cubic(x, y).mean())


def kernel_distance_of_subsets(
    first_ND: NDArray[np.floating],
    second_MD: NDArray[np.floating],
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """KID as it is published: mean and standard deviation over random subsets of `size` rows without replacement.

    Fewer pictures than `size` shrink it to their number.
    """
    size = min(size, len(first_ND), len(second_MD))
    random = np.random.default_rng(seed)
    values = [
        kernel_distance(
            first_ND[random.choice(len(first_ND), size, replace=False)],
            second_MD[random.choice(len(second_MD), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def _cubic(x: Doubles, y: Doubles) -> Doubles:
    kernel: Doubles = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel
