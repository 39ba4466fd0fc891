"""Rows that are not independent, such as the words of a text: their values, a cluster at a time."""

import numpy as np
import numpy.typing as npt


def shares_of_clusters(values: npt.ArrayLike, cluster: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """A value for each of C clusters of values [..., N]: float64 [..., C], of the same mean.

    A cluster's is the mean plus C/N times the sum of how far its values are from the mean, so that a long cluster of
    average values is average. To resample clusters, or take the variance over them, is then the cluster bootstrap and
    the cluster-robust variance of the mean (Cameron & Miller 2015, doi 10.3368/jhr.50.2.317).
    cluster: [N], in any order; of what comes back the clusters are in the order of their numbers.
    """
    rows = np.asarray(values, dtype=np.float64)
    numbers, of_row = np.unique(cluster, return_inverse=True)
    order = np.argsort(of_row, kind="stable")
    starts = np.searchsorted(of_row[order], np.arange(len(numbers)))
    mean = rows.mean(axis=-1, keepdims=True)
    apart = np.add.reduceat(rows[..., order] - mean, starts, axis=-1)
    return np.asarray(mean + apart * (len(numbers) / len(of_row)))
