"""What a silhouette is, whichever way the distances are summed: s(i) from sums of distances."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RowScores:
    """s(i) of some rows and its derivatives, float64 [n] each."""

    s: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    nearest: torch.Tensor
    """int64 [n]: the class whose mean distance is b; of equally near ones the first."""
    by_a: torch.Tensor
    """∂s/∂a."""
    by_b: torch.Tensor
    """∂s/∂b."""


def score_rows(sums: torch.Tensor, own: torch.Tensor, counts: torch.Tensor) -> RowScores:
    """From sums [n, K] float64 of each row's distances to the rows of each class, its own zero included.

    own: int64 [n], the rows' classes; counts: float64 [K], rows of each class.
    """
    column = own[:, None]
    others = counts[own] - 1.0
    a = sums.gather(1, column)[:, 0] / others.clamp_min(1.0)
    b, nearest = (sums / counts).scatter_(1, column, torch.inf).min(dim=1)
    larger = torch.maximum(a, b)
    live = (others > 0) & (larger > 0)
    safe = torch.where(live, larger, 1.0)
    s = torch.where(live, (b - a) / safe, 0.0)
    inside = a <= b
    by_a = torch.where(live, torch.where(inside, -1.0 / safe, -b / safe.square()), 0.0)
    by_b = torch.where(live, torch.where(inside, a / safe.square(), 1.0 / safe), 0.0)
    return RowScores(s, a, b, nearest, by_a, by_b)
