"""Rows that are not independent, such as the words of a text, or that count differently: their values by cluster."""

import numpy as np
import numpy.typing as npt


def shares_of_clusters(
    values: npt.ArrayLike,
    cluster: npt.NDArray[np.integer] | None = None,
    weights: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.float64]:
    """A value for each of C clusters of values [..., N]: float64 [..., C], of the same mean, weighted if rows are.

    A cluster's is the mean plus C/N times the sum of how far its values are from the mean, so that a long cluster of
    average values is average; with weights C/Σw times their weighted sum. To resample clusters, or take the variance
    over them, is then the cluster bootstrap and the cluster-robust variance of the mean (Cameron & Miller 2015,
    doi 10.3368/jhr.50.2.317), and of one row each the linearised variance of a weighted mean.
    cluster: [N], in any order; of what comes back the clusters are in the order of their numbers. None: a row each.
    weights: [N], above 0.
    """
    rows = np.asarray(values, dtype=np.float64)
    n = rows.shape[-1]
    counts = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    mean = (rows * counts).sum(axis=-1, keepdims=True) / counts.sum()
    apart = (rows - mean) * counts
    if cluster is None:
        return np.asarray(mean + apart * (n / counts.sum()))
    numbers, of_row = np.unique(cluster, return_inverse=True)
    order = np.argsort(of_row, kind="stable")
    starts = np.searchsorted(of_row[order], np.arange(len(numbers)))
    summed = np.add.reduceat(apart[..., order], starts, axis=-1)
    return np.asarray(mean + summed * (len(numbers) / counts.sum()))
