"""The silhouette of one layer: how much nearer a row lies to its own class than to the next one.

s(i) = (b − a) / max(a, b), where a is the mean distance of row i to the other rows of its class and b the
smallest mean distance to the rows of another class (Rousseeuw 1987, doi 10.1016/0377-0427(87)90125-7). It
lies in [−1, 1]. As in scikit-learn a class of one row scores 0, and so does a row with a = b = 0.
"""

from dataclasses import dataclass

import numpy as np
import torch

from storage.errors import UserError
from tasks.numerics.matrix_rows import as_labels, as_rows, check_finite
from tasks.scoring.all_pairs_silhouette import all_pairs
from tasks.scoring.closed_form_silhouette import closed_form
from tasks.vocabulary import Metric, Precision, Space

# A class of one row has silhouette 0, whatever its distances.
LEAST_ROWS_PER_CLASS = 2


@dataclass(frozen=True)
class Silhouette:
    """One layer's silhouette, with what is needed to judge it against another layer's."""

    mean: float
    standard_error: float
    """Of the mean, were the rows drawn anew: std(influence)/√n. Of a `sample` too: what it misses of all rows is part
    of it."""
    n: int
    samples: np.ndarray
    """float64 [n]: s(i) of each scored row."""
    influence: np.ndarray
    """float64 [n]: what each row adds to the mean, through its own s(i) and through everybody else's a and b.

    Its mean is `mean`. Two layers scored on the same rows differ with a standard error of
    std(influence_a − influence_b)/√n. Where two other classes are equally near to a row, the first of them is its b.
    """
    by_class: dict[int, tuple[float, int]]
    """label → (mean of s(i), rows)."""
    rows: np.ndarray
    """int64 [n], increasing: which rows of X were scored; all of them without `sample`."""


def silhouette(
    X: np.ndarray | torch.Tensor,
    y: np.ndarray | torch.Tensor,
    metric: Metric = Metric.EUCLIDEAN,
    *,
    space: Space = Space.RAW,
    precision: Precision = Precision.EXACT,
    sample: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Silhouette:
    """Silhouette of float rows X [N, D] with int labels y [N].

    `sample` scores a stratified draw of that many rows among themselves. The same seed and labels give the
    same rows, so layers stay paired. Raises UserError for fewer than two classes, for a class per row, and for
    values that are not finite.
    """
    rows = as_rows(X)
    y = as_labels(y, len(rows))
    picked = stratified_rows(y, sample, seed)
    if len(picked) < len(rows):
        rows, y = rows[torch.from_numpy(picked)], y[picked]
    labels, codes = np.unique(y, return_inverse=True)
    _check_classes(labels, len(y))
    rows = rows.to(device)
    check_finite(rows, "score")
    rows = _within_range(rows)
    if metric is Metric.EUCLIDEAN:
        samples, influence = all_pairs(rows, codes, space, precision, seed)
    else:
        samples, influence = closed_form(rows, codes, len(labels), metric, space)
    return _result(samples.cpu().numpy(), influence.cpu().numpy(), labels, codes, picked)


def difference_error(a: Silhouette, b: Silhouette) -> float:
    """Standard error of a.mean − b.mean for two layers scored on the same rows."""
    if not np.array_equal(a.rows, b.rows):
        raise ValueError("two silhouettes can be paired only if they were scored on the same rows")
    return float(np.std(a.influence - b.influence) / np.sqrt(a.n))


def _result(
    samples: np.ndarray,
    influence: np.ndarray,
    labels: np.ndarray,
    codes: np.ndarray,
    rows: np.ndarray,
) -> Silhouette:
    n = len(samples)
    if not (np.isfinite(samples).all() and np.isfinite(influence).all()):
        raise UserError(
            f"The silhouette of {int((~np.isfinite(samples)).sum())} of {n} rows came out as no finite number: their "
            "values are too large or too small for squares in float64. Scale the embeddings to about 1."
        )
    counts = np.bincount(codes)
    sums = np.bincount(codes, weights=samples)
    return Silhouette(
        mean=float(samples.mean()),
        standard_error=float(np.std(influence) / np.sqrt(n)),
        n=n,
        samples=samples,
        influence=influence,
        by_class={int(labels[k]): (float(sums[k] / counts[k]), int(counts[k])) for k in range(len(labels))},
        rows=rows,
    )


# Input


def _check_classes(labels: np.ndarray, n: int) -> None:
    if len(labels) < 2:
        found = "none" if len(labels) == 0 else f"only class {labels[0]}"
        raise UserError(
            f"A silhouette compares classes, and the labels of these {n} rows name {found}. "
            "Give rows of at least two classes: another label column, or more rows."
        )
    if len(labels) == n:
        raise UserError(
            f"A silhouette needs a class with more than one row, and the labels of these {n} rows name {n} classes, "
            "one a row. Check that the label column is not an id, or give more rows."
        )


def _within_range(rows: torch.Tensor) -> torch.Tensor:
    """float64 rows whose squares would leave float64's range, scaled; no silhouette changes with the scale."""
    peak = float(rows.abs().max()) if rows.dtype == torch.float64 else 1.0
    return rows / peak if peak > 1e100 or 0.0 < peak < 1e-100 else rows


def stratified_rows(y: np.ndarray, sample: int | None, seed: int) -> np.ndarray:
    """Row numbers of a draw of `sample` rows, increasing: each class by its share, and at least two where they fit."""
    if sample is None or sample >= len(y):
        return np.arange(len(y), dtype=np.int64)
    if sample < 2:
        raise UserError(
            f"A silhouette cannot be taken of sample={sample} rows; give at least 2, or leave it out."
        )
    shuffled = np.random.default_rng(seed).permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    _, first, counts = np.unique(y[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(y)) - np.repeat(first, counts)
    quantile = (rank + 0.5) / np.repeat(counts, counts)
    return np.sort(by_class[np.lexsort((quantile, rank >= LEAST_ROWS_PER_CLASS))[:sample]])
