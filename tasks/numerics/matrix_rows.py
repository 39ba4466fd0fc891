"""Embeddings as they are given → checked float rows, and the mean and deviation of their columns in float64."""

import numpy as np
import torch

from storage.errors import UserError
from tasks.numerics.cores import cores

# Values converted to float64 at a time: few enough that the copy stays in a cache (2 MiB),
# many enough that what Python does for each block hardly counts; a GPU wants many.
BLOCK_VALUES = 2**18
DEVICE_VALUES = 2**25


def as_rows(X: np.ndarray | torch.Tensor) -> torch.Tensor:
    """float32 or float64 [N, D]; float16 and bfloat16 become float32. Raises ValueError for another shape."""
    # np.require copies what Arrow lends read-only, which torch will not take without a warning.
    rows = X if isinstance(X, torch.Tensor) else torch.from_numpy(np.require(X, requirements=["C", "W"]))
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"embeddings must be [N, D], not of shape {tuple(rows.shape)}")
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


def as_labels(y: np.ndarray | torch.Tensor, n: int) -> np.ndarray:
    """Labels [n]. Raises ValueError where there are not as many labels as rows."""
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise ValueError(f"{n} rows need {n} labels, not an array of shape {labels.shape}")
    return labels


def check_finite(rows: torch.Tensor, use: str, split: str = "") -> None:
    """Raise UserError, in which no `use` can use the rows, if a value is NaN or infinite."""
    if rows.numel() == 0:
        return
    if all_finite(rows):
        return
    bad = int((~torch.isfinite(rows)).any(1).sum())
    raise UserError(
        f"{bad} of {len(rows)} {split}embeddings hold a value that is not finite, which no {use} can use. The model "
        "overflowed its number format: embed again with dtype float32 or bfloat16 in place of float16."
    )


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass. Raises RuntimeError where there is no value."""
    low, high = torch.aminmax(values)  # either is NaN if a value is
    return bool(low.isfinite() and high.isfinite())


def mean_of(rows: torch.Tensor) -> torch.Tensor:
    """Column means, float64 [D], summed in blocks so that no float64 copy of all rows is made."""
    with cores(rows.device) as shared:
        sums = shared.map(lambda at: rows[at].double().sum(0), blocks_of(rows))
    return torch.stack(sums).sum(0) / len(rows)


def deviation_of(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Population deviation of each column, float64 [D], exactly 0 for a constant one."""
    with cores(rows.device) as shared:
        sums = shared.map(lambda at: (rows[at] - mean).square_().sum(0), blocks_of(rows))
    return without_rounding((torch.stack(sums).sum(0) / len(rows)).sqrt(), mean)


def without_rounding(deviation: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The deviations, 0 where they are no more than what the rounding of the mean leaves of a constant column."""
    return torch.where(deviation > 1e-14 * mean.abs(), deviation, 0.0)


def blocks_of(rows: torch.Tensor) -> list[slice]:
    """Slices of rows [N, D] of a size to work on at a time."""
    n, d = rows.shape
    step = max(1, (BLOCK_VALUES if rows.device.type == "cpu" else DEVICE_VALUES) // max(d, 1))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
