"""Silhouettes in O(N·K·D): for squared Euclidean and cosine a sum of distances to a class needs only its sums.

Σ_j |x − x_j|² = n·|x|² − 2x·Σx_j + Σ|x_j|², and the cosine distance of two rows of length 1 is 1 − x·y. The sums of
two sets of rows add up, so the cores share the rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TypeVar

import numpy as np
import torch

from tasks.numerics.cores import Cores, cores
from tasks.numerics.matrix_products import product
from tasks.numerics.matrix_rows import BLOCK_VALUES, DEVICE_VALUES, without_rounding
from tasks.scoring.silhouette_definition import RowScores, score_rows
from tasks.vocabulary import Metric, Space

# Values [rows, K] of one job.
JOB_VALUES = 2**20

_R = TypeVar("_R")


@dataclass(frozen=True)
class ClassSums:
    """What a closed form needs to know of a set of rows; sums of two sets add up to those of their union."""

    weight: torch.Tensor
    """[K] float64: sum of the rows' weights (their number, if all are 1)."""
    vector: torch.Tensor
    """[K, D] float64: weighted sum of the rows."""
    square: torch.Tensor
    """[K] float64: weighted sum of the rows' squared norms."""

    def __add__(self, other: "ClassSums") -> "ClassSums":
        return ClassSums(self.weight + other.weight, self.vector + other.vector, self.square + other.square)


def closed_form(
    rows: torch.Tensor, codes: np.ndarray, k: int, metric: Metric, space: Space
) -> tuple[torch.Tensor, torch.Tensor]:
    """s(i) and influence, float64 [N], of float rows [N, D] and their class numbers [N] below k.

    Beside the rows a few numbers a row and a few [K, D] lie in memory.
    """
    own = torch.from_numpy(codes).to(rows.device)
    length = torch.empty(len(own), dtype=torch.float64, device=rows.device)
    with cores(rows.device) as shared:
        view = View.of(rows, metric, space, shared)
        sums = _sums_of_all(view, rows, own, k, length, shared)

        def scored(job: _Job) -> _Scored:
            return _score(view, job.rows, own[job.at], length[job.at], sums)

        zero = torch.zeros_like(sums.weight)
        gradient, shift = ClassSums(zero, torch.zeros_like(sums.vector), zero), zero
        samples, own_share = [], []
        for part in _over(rows, k, shared, scored):
            gradient, shift = gradient + part.gradient, shift + part.shift
            samples.append(part.s)
            own_share.append(part.own_share)

        def moved(job: _Job) -> torch.Tensor:
            return _influence(view, job.rows, own[job.at], length[job.at], gradient, shift)

        influence = torch.cat(_over(rows, k, shared, moved))
    # A row is no part of its own a: what the class sum subtracted for it comes back.
    s = torch.cat(samples)
    return s, s + influence + torch.cat(own_share)


def closed_form_samples(
    rows: torch.Tensor, codes: np.ndarray, k: int, metric: Metric, space: Space
) -> torch.Tensor:
    """s(i) of `closed_form` alone, float64 [N]: one pass of the rows less, and no sums of the influence."""
    own = torch.from_numpy(codes).to(rows.device)
    length = torch.empty(len(own), dtype=torch.float64, device=rows.device)
    with cores(rows.device) as shared:
        view = View.of(rows, metric, space, shared)
        sums = _sums_of_all(view, rows, own, k, length, shared)

        def scored(job: _Job) -> torch.Tensor:
            return _row_scores(view, job.rows, own[job.at], length[job.at], sums).s

        return torch.cat(_over(rows, k, shared, scored))


@dataclass(frozen=True)
class _Job:
    rows: torch.Tensor
    at: slice
    """Where these rows are among all rows."""


def _sums_of_all(
    view: "View", rows: torch.Tensor, own: torch.Tensor, k: int, length: torch.Tensor, shared: Cores
) -> ClassSums:
    """Of all rows and their classes; writes the rows' lengths into `length`."""

    def summed(job: _Job) -> ClassSums:
        return _class_sums(view, job.rows, own[job.at], k, length[job.at])

    return reduce(add, _over(rows, k, shared, summed))


def _over(rows: torch.Tensor, k: int, shared: Cores, work: Callable[[_Job], _R]) -> list[_R]:
    """`work` of all rows, in order, as many at a time as there are cores."""
    step = max(1, min(-(-len(rows) // shared.count), JOB_VALUES // k))
    parts = rows.split(step)
    return shared.map(
        work, [_Job(part, slice(i * step, i * step + len(part))) for i, part in enumerate(parts)]
    )


@dataclass(frozen=True)
class View:
    """How rows are looked at: in float64, less a centre, times a factor a feature."""

    metric: Metric
    centre: torch.Tensor | None
    factor: torch.Tensor | None
    blank: float = 0.0
    """A row shorter than this equals the centre but for rounding, and has no direction. Of distances that want none, 0:
    beside a large constant feature every row would be shorter."""

    @classmethod
    def of(cls, rows: torch.Tensor, metric: Metric, space: Space, shared: Cores) -> "View":
        if space is Space.RAW and metric is Metric.COSINE:
            return cls(metric, None, None)

        # Squared distances do not change with the centre, but cancel less when it is taken out.
        def total(view: View, of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            def part(job: _Job) -> torch.Tensor:
                return torch.stack([of(z) for _, z in view.pieces(job.rows)]).sum(0)

            return reduce(torch.add, _over(rows, 1, shared, part))

        centre = total(cls(metric, None, None), lambda z: z.sum(0)) / len(rows)
        if space is not Space.STANDARDISED:
            return cls(metric, centre, None, _blank(metric, centre))
        scale = (total(cls(metric, centre, None), lambda z: z.square_().sum(0)) / len(rows)).sqrt()
        scale = without_rounding(scale, centre)
        factor = torch.where(scale > 0, 1.0 / scale, 1.0)
        return cls(metric, centre, factor, _blank(metric, centre * factor))

    def pieces(self, rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows [n, D] piece by piece, float64; a piece is yours to change, and good until the next one."""
        n, d = rows.shape
        step = max(1, (BLOCK_VALUES if rows.device.type == "cpu" else DEVICE_VALUES) // d)
        space = torch.empty(min(step, n), d, dtype=torch.float64, device=rows.device)
        for start in range(0, n, step):
            piece = rows[start : start + step]
            z = space[: len(piece)].copy_(piece)
            if self.centre is not None:
                z -= self.centre
            if self.factor is not None:
                z *= self.factor
            yield slice(start, start + len(piece)), z

    def scaled(self, values: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Values [n, K] linear in the rows, as if the rows had been divided by their length."""
        if self.metric is not Metric.COSINE:
            return values
        return values * torch.where(length > 0, 1.0 / length, 0.0)[:, None]

    def square(self, length: torch.Tensor) -> torch.Tensor:
        """Squared norms of the rows as they are compared: for cosine 1, or 0 where there is no direction."""
        return (length > 0).double() if self.metric is Metric.COSINE else length.square()


def _blank(metric: Metric, centre: torch.Tensor) -> float:
    return 1e-13 * float(torch.linalg.vector_norm(centre)) if metric is Metric.COSINE else 0.0


def class_sums(view: View, rows: torch.Tensor, weight: torch.Tensor, length: torch.Tensor) -> ClassSums:
    """Of rows [n, D] of these lengths [n], each counted weight[i, k] times in class k: weight [n, K]."""
    factor = view.scaled(weight, length)
    vector = torch.zeros(weight.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for at, z in view.pieces(rows):
        vector += product(factor[at].T, z.T)
    return ClassSums(weight.sum(0), vector, weight.T @ view.square(length))


def _class_sums(view: View, rows: torch.Tensor, own: torch.Tensor, k: int, length: torch.Tensor) -> ClassSums:
    """Of rows and their classes; writes the rows' lengths into `length`."""
    vector = torch.zeros(k, rows.shape[1], dtype=torch.float64, device=rows.device)
    for at, z in view.pieces(rows):
        norm = torch.linalg.vector_norm(z, dim=1)
        length[at] = norm.masked_fill_(norm <= view.blank, 0.0)
        ones = norm.new_zeros(len(z), k).scatter_(1, own[at, None], 1.0)
        vector += product(view.scaled(ones, norm).T, z.T)
    weight = torch.bincount(own, minlength=k).double()
    return ClassSums(weight, vector, torch.bincount(own, view.square(length), minlength=k))


def _distance_sums(view: View, rows: torch.Tensor, length: torch.Tensor, sums: ClassSums) -> torch.Tensor:
    """Weighted sums of distances [n, K] of rows to the classes that `sums` describes."""
    out = length.new_empty(len(rows), len(sums.weight))
    for at, z in view.pieces(rows):
        out[at] = product(z, sums.vector)
    out = view.scaled(out, length)
    if view.metric is Metric.COSINE:
        out, size = sums.weight - out, sums.weight.abs()
    else:
        square = length.square()[:, None]
        out = out.mul_(-2.0).add_(square * sums.weight).add_(sums.square)
        size = square * sums.weight.abs() + sums.square.abs()
    # What is left of a cancellation is rounding, not distance: 1e-13 is less than float32 rows can differ by.
    return out.masked_fill_(out.abs() <= 1e-13 * size, 0.0)


def _row_scores(
    view: View, rows: torch.Tensor, own: torch.Tensor, length: torch.Tensor, sums: ClassSums
) -> RowScores:
    distance = _distance_sums(view, rows, length, sums)
    if view.metric is Metric.COSINE:
        # A row without direction is at distance 1 from every row, but not from itself.
        distance.scatter_add_(1, own[:, None], view.square(length)[:, None] - 1.0)
    return score_rows(distance, own, sums.weight)


@dataclass(frozen=True)
class _Scored:
    s: torch.Tensor
    own_share: torch.Tensor
    gradient: ClassSums
    """Of ∂s_i/∂(sum of distances of row i to class k), over the rows i of a job."""
    shift: torch.Tensor


def _score(
    view: View, rows: torch.Tensor, own: torch.Tensor, length: torch.Tensor, sums: ClassSums
) -> _Scored:
    counts = sums.weight
    scores = _row_scores(view, rows, own, length, sums)
    by_a = scores.by_a / (counts[own] - 1.0).clamp_min(1.0)
    by_b = scores.by_b / counts[scores.nearest]
    weight = torch.zeros(len(rows), len(counts), dtype=torch.float64, device=rows.device)
    weight.scatter_(1, own[:, None], by_a[:, None]).scatter_(1, scores.nearest[:, None], by_b[:, None])
    apart = by_a * scores.a
    own_share = apart
    if view.metric is Metric.COSINE:
        # As in `_row_scores`, the distance 1 that a row without direction would have from itself.
        own_share = apart - by_a * (1.0 - view.square(length))
    shift = torch.zeros_like(counts).index_add_(0, own, apart)
    shift.index_add_(0, scores.nearest, by_b * scores.b)
    return _Scored(scores.s, own_share, class_sums(view, rows, weight, length), shift)


def _influence(
    view: View,
    rows: torch.Tensor,
    own: torch.Tensor,
    length: torch.Tensor,
    gradient: ClassSums,
    shift: torch.Tensor,
) -> torch.Tensor:
    """What each row adds to the others' s(i) through their sums, float64 [n]."""
    shares = _distance_sums(view, rows, length, gradient)
    return shares.gather(1, own[:, None])[:, 0] - shift[own]
