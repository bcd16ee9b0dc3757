"""Distances between two sets of pictures by their features: Fréchet (FID) and kernel (KID).

FID proper means Inception's pool3 features; over other features the formulas are the same and the numbers are not, so a
table names the features. Both depend on the number of pictures: compare equal numbers only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def frechet_of_rows(first_ND: NDArray[np.floating], second_MD: NDArray[np.floating]) -> float:
    """‖μ1-μ2‖² + Tr(C1 + C2 - 2·(C1·C2)^½) (Heusel et al. 2017) of two sets of rows (N, D) and (M, D).

    Takes the cost of the smaller of D and the numbers of rows; no complex part to drop, and no ε on singular covariances
    (fewer pictures than features).

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


def kernel_distance(
    first_ND: NDArray[np.floating], second_MD: NDArray[np.floating], groups: Sequence[str] | None = None
) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y/D + 1)³ (Bińkowski et al. 2018). May be negative.

    With `groups`, one name for each row of both sets, which are then paired, no two rows of one group meet: pictures of one
    person, and a picture and what it is compared with, are not independent, and the reference may repeat a person's.

    Raises:
        ValueError: fewer than two rows (or groups), or widths that differ.
    """
    x, y = np.asarray(first_ND, dtype=np.float64), np.asarray(second_MD, dtype=np.float64)
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features {x.shape} and {y.shape}: two rows and one width are needed")

    if groups is not None:
        names = np.asarray(groups)
        apart = names[:, None] != names[None, :]
        if x.shape != y.shape or len(names) != len(x) or not apart.any():
            raise ValueError(f"features {x.shape} and {y.shape} of {len(set(groups))} groups: pairs of two groups are needed")
        return float(_cubic(x, x)[apart].mean() + _cubic(y, y)[apart].mean() - 2 * _cubic(x, y)[apart].mean())

    def off_diagonal_mean(rows: Doubles) -> float:
        kernel = _cubic(rows, rows)
        return float((kernel.sum() - np.trace(kernel)) / (len(rows) * (len(rows) - 1)))

    return off_diagonal_mean(x) + off_diagonal_mean(y) - 2 * float(_cubic(x, y).mean())


def _cubic(x: Doubles, y: Doubles) -> Doubles:
    kernel: Doubles = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel
