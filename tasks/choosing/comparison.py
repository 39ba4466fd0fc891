"""Two layers judged on the same test rows: is the difference of their accuracies more than luck?"""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, chdtrc, stdtr, stdtrit

from tasks.numerics.proportion import bonett_price_interval, mean_and_error

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """Layer a against layer b on the same rows. Differences are fractions, −1 to 1."""

    difference: float
    """Accuracy of a minus accuracy of b."""
    low: float
    high: float
    """95 % interval of the difference: Bonett and Price's; where rows may be right in part, as units of weighted rows
    and groups are, Student's, of the same test as the p-value."""
    p_value: float
    """Two-sided, 1 where the layers never disagree. McNemar's test, exact, with the mid-p correction; where rows may be
    right in part, the t-test of their paired differences."""


NO_DIFFERENCE = Comparison(0.0, 0.0, 0.0, 1.0)
"""Of a layer and itself, which needs no rows to be sure of."""


def compare(correct_a: np.ndarray, correct_b: np.ndarray) -> Comparison:
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
        return _compare_parts(a - b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = bonett_price_interval(only_a, only_b, n)
    return Comparison((only_a - only_b) / n, low, high, mcnemar_mid_p(only_a, only_b))


def _compare_parts(difference: np.ndarray) -> Comparison:
    """By the t-test: a bootstrap of few groups covers the truth too seldom, and says other than the test's p-value."""
    n = len(difference)
    mean, error = mean_and_error(difference)
    # One unit, or units that all differ alike, tell nothing of how others would.
    if n == 1 or (error <= _ROUNDING and abs(mean) > _ROUNDING):
        return Comparison(mean, -1.0, 1.0, 1.0)
    if error <= _ROUNDING:  # no unit differs
        return Comparison(mean, *bonett_price_interval(0, 0, n), 1.0)
    half = float(stdtrit(n - 1, 0.975)) * error
    # A linearised mean of few heavy rows can leave the range that the mean itself has.
    low, high = np.clip([mean - half, mean + half], -1.0, 1.0)
    return Comparison(mean, float(low), float(high), float(2 * stdtr(n - 1, -abs(mean) / error)))


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
    """Two-sided p-value of two independent samples, float64 [N] and [M], having one mean: Welch's t-test, doi
    10.1093/biomet/34.1-2.28; 1 where neither varies, or one is a single value."""
    (mean_a, error_a), (mean_b, error_b) = mean_and_error(a), mean_and_error(b)
    error = float(np.hypot(error_a, error_b))
    if not _ROUNDING < error < np.inf:
        return 1.0
    # Welch–Satterthwaite, of what each adds to the variance of the difference.
    share_a, share_b = (error_a / error) ** 2, (error_b / error) ** 2
    freedom = 1 / (share_a**2 / (len(a) - 1) + share_b**2 / (len(b) - 1))
    return float(2 * stdtr(freedom, -abs(mean_a - mean_b) / error))


def same_clustered_mean_p_value(shares: np.ndarray, rows: int, mean: float, other_rows: int) -> float:
    """Two-sided p-value of `other_rows` rows with this share of hits being like those of some clusters: Pearson's test
    of two shares with Rao and Scott's correction (1984, doi 10.1214/aos/1176346391), a t-test with the clusters'
    degrees of freedom; 1 where there is one cluster, or nothing tells the two apart.

    shares: float64 [C], of the clusters' `rows` rows (`shares_of_clusters`). The other rows are taken to be clustered
    as these are: how much more they vary for it is that of these, and where all of these are hits, or none, as much as
    if each cluster were one row.
    """
    clusters = len(shares)
    found, error = mean_and_error(shares)
    found = min(max(found, 0.0), 1.0)
    pooled = (found * rows + mean * other_rows) / (rows + other_rows)
    if clusters == 1 or not _ROUNDING < pooled < 1 - _ROUNDING:
        return 1.0
    of_rows = found * (1 - found) / rows
    more = error**2 / of_rows if of_rows > _ROUNDING else rows / clusters
    of_difference = float(np.sqrt(more * pooled * (1 - pooled) * (1 / rows + 1 / other_rows)))
    if of_difference <= _ROUNDING:
        return 1.0
    return float(2 * stdtr(clusters - 1, -abs(found - mean) / of_difference))
