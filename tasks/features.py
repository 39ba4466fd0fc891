"""One layer's rows and labels, and what several criteria need of them, computed once when first asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from storage.errors import UserError
from tasks.cores import beside, cores, one_thread
from tasks.distances import Tile, over_tiles, prepare
from tasks.products import product
from tasks.rows import as_labels, as_rows, blocks_of, check_finite, deviation_of, mean_of

_R = TypeVar("_R")

NEIGHBOURS = 5
# Eigenvalues under this share of the largest are rounding of float32 products, not directions.
RANK_SHARE = 1e-6
# Up to this width the Gram matrix and its decomposition are done in float64, which is affordable there.
FLOAT64_WIDTH = 1_024
# Rows whose float32 products are added up in float64, and columns of one such product.
GRAM_ROWS = 2_048
GRAM_COLUMNS = 512
# Rows that a core multiplies at a time.
ROTATED_ROWS = 1_024


@dataclass(frozen=True)
class Spectrum:
    """Z = U·diag(s)·Vᵀ of the standardised rows Z [N, D], directions without variance left out."""

    left: torch.Tensor
    """U, float32 [N, r]."""
    square: torch.Tensor
    """s², float64 [r], in no particular order; r ≤ min(N − 1, D)."""
    targets: torch.Tensor
    """Uᵀ·Y, float64 [r, K], for Y [N, K] the one-hot labels; U's columns have mean 0, so Y may be centred."""


@dataclass(frozen=True)
class Neighbours:
    """The NEIGHBOURS nearest other rows of each row, nearest first; fewer where there are fewer rows."""

    distance: torch.Tensor
    """float [N, k], in a unit of its own."""
    index: torch.Tensor
    """int64 [N, k]."""


class Features:
    """One layer's rows and labels; see the module's docstring."""

    def __init__(
        self, X: np.ndarray | torch.Tensor, y: np.ndarray | torch.Tensor, *, device: str = "cpu"
    ) -> None:
        """X: float [N, D], y: int [N]. Raises UserError for one class, two rows, or values that are not finite."""
        self.rows = as_rows(X).to(device)
        labels = as_labels(y, len(self.rows))
        self.labels, codes = np.unique(labels, return_inverse=True)
        if len(self.labels) < 2 or len(labels) < 3:
            raise UserError(
                f"The criteria of a layer compare classes, and its {len(labels)} rows have {len(self.labels)}. "
                "Give at least three rows of at least two classes."
            )
        check_finite(self.rows, "criterion")
        self.codes = torch.from_numpy(codes).to(device)
        self.counts = torch.bincount(self.codes).double()
        self.n, self.width = self.rows.shape

    @cached_property
    def mean(self) -> torch.Tensor:
        """float64 [D]."""
        return mean_of(self.rows)

    @cached_property
    def deviation(self) -> torch.Tensor:
        """Population deviation, float64 [D], exactly 0 for a constant feature."""
        return deviation_of(self.rows, self.mean)

    @cached_property
    def standardised(self) -> torch.Tensor:
        """Z, float32 [N, D]; a constant feature is 0."""
        inverse = torch.where(self.deviation > 0, 1.0 / self.deviation, 0.0)
        Z = torch.empty(self.n, self.width, dtype=torch.float32, device=self.rows.device)

        def fill(at: slice) -> None:
            Z[at] = (self.rows[at] - self.mean).mul_(inverse)

        self.over_blocks(fill)
        return Z

    @cached_property
    def row_squares(self) -> torch.Tensor:
        """‖z‖² of the standardised rows, float64 [N]."""
        return torch.cat(self.over_blocks(lambda at: self.standardised[at].double().square_().sum(1)))

    @cached_property
    def class_means(self) -> torch.Tensor:
        """Of the standardised rows, float64 [K, D]."""
        return self._by_class(self.standardised) / self.counts[:, None]

    @cached_property
    def spectrum(self) -> Spectrum:
        """From the smaller of ZᵀZ and ZZᵀ."""
        square, vectors = self._eigen
        if self.n <= self.width:
            return Spectrum(vectors.float(), square, self._by_class(vectors).T.contiguous())
        axes = vectors / square.sqrt()
        left = _rotated(self.standardised, axes.float().T.contiguous())
        # Not from the float32 `left`: what all directions leave unexplained may be as small as its rounding.
        return Spectrum(left, square, axes.double().T @ self._by_class(self.standardised).T)

    @cached_property
    def _gram(self) -> torch.Tensor:
        Z = self.standardised
        gram = _gram(Z) if self.n > self.width else _gram(Z.T.contiguous())
        return gram if len(gram) <= FLOAT64_WIDTH else gram.float()

    @cached_property
    def _eigen(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues, float64 [r], and eigenvectors, [·, r], of the Gram matrix."""
        # Half of the work is reading the matrix over and over: a second thread mostly waits.
        with one_thread():
            values, vectors = torch.linalg.eigh(self._gram)
        kept = values > RANK_SHARE * values[-1].clamp_min(0.0)
        return values[kept].double(), vectors[:, kept]

    def prepare_all(self) -> None:
        """Compute what criteria share, the decomposition on a core of its own beside the distances."""
        with beside(self._gram.device, lambda: self._eigen):
            _ = self.neighbours

    @cached_property
    def neighbours(self) -> Neighbours:
        """Euclidean, among the standardised rows; each pair is computed once."""
        k = min(NEIGHBOURS, self.n - 1)
        points = prepare(self.standardised)
        parts = over_tiles(points, lambda tiles: _nearest(tiles, self.n, k, points.square))
        distance, order = torch.cat([distance for distance, _ in parts], 1).sort(dim=1, stable=True)
        index = torch.cat([index for _, index in parts], 1).gather(1, order)
        return Neighbours(distance[:, :k], index[:, :k])

    def one_hot(self, at: slice) -> torch.Tensor:
        """Labels of some rows, float64 [n, K] of 0 and 1."""
        return (self.codes[at, None] == torch.arange(len(self.counts), device=self.codes.device)).double()

    def over_blocks(self, work: Callable[[slice], _R]) -> list[_R]:
        """`work` of slices of all rows, in order, shared out between the cores."""
        with cores(self.rows.device) as shared:
            return shared.map(work, blocks_of(self.rows))

    def _by_class(self, values: torch.Tensor) -> torch.Tensor:
        """Sums of values [N, D] over the rows of each class, float64 [K, D]."""
        blocks = blocks_of(self.rows)

        def part(which: range) -> torch.Tensor:
            sums = values.new_zeros(len(self.counts), values.shape[1], dtype=torch.float64)
            for i in which:
                sums += product(self.one_hot(blocks[i]).T, values[blocks[i]].double().T)
            return sums

        with cores(values.device) as shared:
            parts = [range(i, len(blocks), shared.count) for i in range(shared.count)]
            return torch.stack(shared.map(part, parts)).sum(0)


def _nearest(tiles: Iterator[Tile], n: int, k: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest distances of each of n rows in some tiles, and to which rows: [n, k] each."""
    distance = torch.full((n, k), torch.inf, dtype=like.dtype, device=like.device)
    index = torch.zeros(n, k, dtype=torch.int64, device=like.device)

    def keep(start: int, offset: int, found: torch.Tensor) -> None:
        """Merge distances [rows, columns] of rows from `start` to columns from `offset`."""
        rows = slice(start, start + len(found))
        near, at = _candidates(found, distance[rows, -1], k)
        near, order = torch.cat([distance[rows], near], 1).sort(dim=1, stable=True)
        at = torch.cat([index[rows], at + offset], 1).gather(1, order)
        distance[rows], index[rows] = near[:, :k], at[:, :k]

    for tile in tiles:
        on_diagonal = tile.column0 == tile.row0
        if on_diagonal:
            tile.distance.fill_diagonal_(torch.inf)
        keep(tile.row0, tile.column0, tile.distance)
        right = tile.distance[:, tile.row1 - tile.row0 if on_diagonal else 0 :]
        if right.shape[1]:
            keep(tile.column1 - right.shape[1], tile.row0, right.T)
    return distance, index


def _candidates(found: torch.Tensor, worst: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At least those of found [rows, columns] that are among a row's k smallest and under worst [rows].

    Values and columns, [rows, any number] each. Once a row has met a few hundred others hardly any distance is under
    its k-th, and looking for these is cheaper than sorting.
    """
    i, j = (found < worst[:, None]).nonzero(as_tuple=True)
    if len(i) > found.numel() // 16:
        return found.topk(min(k, found.shape[1]), dim=1, largest=False)
    counts = torch.bincount(i, minlength=len(found))
    place = torch.arange(len(i), device=i.device) - (counts.cumsum(0) - counts)[i]
    near = torch.full((len(found), int(counts.max())), torch.inf, dtype=found.dtype, device=found.device)
    at = torch.zeros(near.shape, dtype=torch.int64, device=found.device)
    near[i, place], at[i, place] = found[i, j], j
    return near, at


def _gram(Z: torch.Tensor) -> torch.Tensor:
    """ZᵀZ [D, D] float64, of float32 products if it is wide; its upper half is computed and mirrored."""
    dtype = torch.float64 if Z.shape[1] <= FLOAT64_WIDTH else torch.float32
    total = torch.zeros(Z.shape[1], Z.shape[1], dtype=torch.float64, device=Z.device)

    def strip(start: int) -> None:
        for block in Z.split(GRAM_ROWS):
            columns = block[:, start:].T.to(dtype, memory_format=torch.contiguous_format)
            total[start : start + GRAM_COLUMNS, start:] += product(columns[:GRAM_COLUMNS], columns)

    with cores(Z.device) as shared:
        shared.map(strip, range(0, len(total), GRAM_COLUMNS))
    return total.triu() + total.triu(1).T


def _rotated(Z: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """Z [N, D] · axes [r, D]ᵀ, float32 [N, r]."""
    out = torch.empty(len(Z), len(axes), dtype=torch.float32, device=Z.device)

    def fill(at: slice) -> None:
        out[at] = product(Z[at], axes)

    with cores(Z.device) as shared:
        shared.map(fill, [slice(start, start + ROTATED_ROWS) for start in range(0, len(Z), ROTATED_ROWS)])
    return out
