"""How well several labels, or a number, were predicted: a value a row, whose mean is the measure."""

import numpy as np
import numpy.typing as npt

RANKS = 2_048
"""Up to so many different numbers every pair is compared; of more, those whose ranks share one of so many parts count
half, an error of at most some 0.0005 in the share of pairs."""


def f1_of_rows(truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """F1 of each row's labels, float64 [N] of 0–1, from bool [N, T]: scikit-learn's `f1_score(average="samples")` is
    the mean, but for rows without a label for which none was predicted, which are right: 1."""
    both = (truth & predicted).sum(axis=1)
    either = truth.sum(axis=1) + predicted.sum(axis=1)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0)


def concordance_of_rows(
    truth: npt.NDArray[np.floating], predicted: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """What each row does for the share of pairs that are predicted in their true order: float64 [N], of float [N].

    The mean is that share, 0–1 (the concordance index: Harrell et al. 1982, doi 10.1001/jama.1982.03320430047030):
    pairs of equal truth are none, and a pair that is predicted to be equal is half right. Every pair has two rows, so
    that the mean is a U-statistic of degree two; what stands here are its jackknife pseudo-values but for terms of 1/N,
    and their spread over √N is its standard error (Arvesen 1969, doi 10.1214/aoms/1177697287). One half where all rows
    have the same truth.
    """
    n = len(truth)
    true_rank, predicted_rank = _ranks(truth), _ranks(predicted)
    counts = np.zeros((true_rank.max() + 1, predicted_rank.max() + 1))
    np.add.at(counts, (true_rank, predicted_rank), 1)
    below = np.zeros((counts.shape[0] + 1, counts.shape[1] + 1))
    below[1:, 1:] = counts.cumsum(axis=0).cumsum(axis=1)

    def predicted_lower(up_to: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Of rows whose truth is below a rank those predicted lower, and half of those predicted the same."""
        return (below[up_to, predicted_rank] + below[up_to, predicted_rank + 1]) / 2

    everything = np.full(n, len(counts))
    not_lower = (
        below[-1, -1]
        - predicted_lower(everything)
        - (below[true_rank + 1, -1] - predicted_lower(true_rank + 1))
    )
    right = predicted_lower(true_rank) + not_lower
    pairs = n - np.bincount(true_rank)[true_rank]
    if not pairs.any():
        return np.full(n, 0.5)
    share = right.sum() / pairs.sum()
    return share + 2 * (right - share * pairs) / pairs.mean()


def _ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Dense ranks from 0; of more than RANKS different values, RANKS parts of about equally many rows."""
    _, ranks = np.unique(values, return_inverse=True)
    if ranks.max() < RANKS:
        return ranks
    before = np.concatenate([[0], np.bincount(ranks).cumsum()[:-1]])
    _, parts = np.unique(before[ranks] * RANKS // len(ranks), return_inverse=True)
    return parts
