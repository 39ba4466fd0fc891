"""Two layers judged on the same test rows: is the difference of their accuracies more than luck?"""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, chdtrc, ndtr, stdtr

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """Layer a against layer b on the same rows. Differences are fractions, −1 to 1."""

    difference: float
    """Accuracy of a minus accuracy of b."""
    low: float
    high: float
    """95 % percentile interval of the difference over paired bootstrap resamples of the rows."""
    p_value: float
    """Two-sided, 1 where the layers never disagree. McNemar's test, exact, with the mid-p correction; where rows may be
    right in part, the t-test of their paired differences."""


def compare(
    correct_a: np.ndarray, correct_b: np.ndarray, *, seed: int = 0, resamples: int = 2_000
) -> Comparison:
    """Compare bool [N] with bool [N]: whether each row was classified correctly by a, and by b. N ≥ 1.

    Or float64 [N] each: how right each row was told, where it may be right in part (`scoring/target.py`).

    Mid-p McNemar keeps its level without the exact test's caution (Fagerland, Lydersen & Laake 2013,
    doi 10.1186/1471-2288-13-91). Raises ValueError where the two do not cover the same rows.
    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"two layers are compared on the same rows, not on {a.shape} and {b.shape}")
    n = len(a)
    if a.dtype != bool:
        return _compare_parts(a - b, seed, resamples)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    # A resample of rows with outcomes +1, −1 and 0 is a multinomial draw of how often each occurs.
    draws = np.random.default_rng(seed).multinomial(
        n, [only_a / n, only_b / n, (n - only_a - only_b) / n], size=resamples
    )
    low, high = np.percentile((draws[:, 0] - draws[:, 1]) / n, [2.5, 97.5])
    return Comparison((only_a - only_b) / n, float(low), float(high), mcnemar_mid_p(only_a, only_b))


def _compare_parts(difference: np.ndarray, seed: int, resamples: int) -> Comparison:
    n = len(difference)
    rng = np.random.default_rng(seed)
    drawn = np.array([difference[rng.integers(0, n, n)].mean() for _ in range(resamples)])
    # A linearised mean of few heavy rows can leave the range that the mean itself has.
    low, high = np.percentile(drawn, [2.5, 97.5]).clip(-1.0, 1.0)
    mean, error = float(difference.mean()), float(difference.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    # Rounding is no disagreement.
    p = float(2 * stdtr(n - 1, -abs(mean) / error)) if error > _ROUNDING else 1.0
    return Comparison(mean, float(low), float(high), p)


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Two-sided mid-p value of McNemar's test, in (0, 1], from how often only one of the two was correct."""
    rarer, disagreements = min(only_a, only_b), only_a + only_b
    if only_a == only_b:
        # P(X < x) + P(X = x)/2 is one half by symmetry, on either side.
        return 1.0
    # Twice P(X ≤ rarer), less P(X = rarer).
    below = bdtr(rarer - 1, disagreements, 0.5) if rarer else 0.0
    return float(bdtr(rarer, disagreements, 0.5) + below)


def same_share_p_value(hits_a: int, n_a: int, hits_b: int, n_b: int) -> float:
    """Two-sided p-value of two independent shares hits/n being the same: Pearson's χ², which is the pooled z test.

    1 where no row, or every row, is a hit: nothing tells them apart.
    """
    pooled = (hits_a + hits_b) / (n_a + n_b)
    if pooled in (0.0, 1.0):
        return 1.0
    square = (hits_a / n_a - hits_b / n_b) ** 2 / (pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    return float(chdtrc(1, square))


def same_mean_p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of two independent samples, float64 [N] and [M], having one mean: the z test; 1 where neither
    varies."""
    error = float(np.sqrt(a.var() / len(a) + b.var() / len(b)))
    return float(2 * ndtr(-abs(float(a.mean() - b.mean())) / error)) if error > _ROUNDING else 1.0


def same_clustered_mean_p_value(shares: np.ndarray, rows: int, mean: float, other_rows: int) -> float:
    """Two-sided p-value of `other_rows` rows with this mean being like those of some clusters: the z test.

    shares: float64 [C], of the clusters' `rows` rows (`shares_of_clusters`). The other rows are taken to be clustered
    as these are.
    """
    error = float(np.sqrt(shares.var() / len(shares) * (1 + rows / other_rows)))
    return float(2 * ndtr(-abs(float(shares.mean()) - mean) / error)) if error > _ROUNDING else 1.0
