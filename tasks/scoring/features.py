"""One layer's rows and labels, and what several criteria need of them, computed once when first asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch

from storage.errors import UserError
from tasks.numerics.cached_property import cached_property
from tasks.numerics.cores import beside, cores
from tasks.numerics.distances import Points, Tile, over_tiles, prepare
from tasks.numerics.matrix_products import product
from tasks.numerics.matrix_rows import as_labels, as_rows, blocks_of, check_finite, deviation_of, mean_of
from tasks.numerics.principal_axes import PrincipalAxes, decompose, decompose_gram, smaller_gram
from tasks.scoring.target import Target
from tasks.vocabulary import Task

_R = TypeVar("_R")

NEIGHBOURS = 5
# Eigenvalues under this share of the largest are rounding of float32 products, not directions.
RANK_SHARE = 1e-6
# Of a multiplication of the Gram matrix (rows·columns² of them) and of its decomposition (columns³), in those of
# distances, so that the cores end together on 10,000 rows of 2,048 features (`make bench ONLY=scoring`). A guess that
# is off leaves a core idle at the end.
GRAM_COST, EIGEN_COST = 0.7, 7.0


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
        self,
        X: np.ndarray | torch.Tensor,
        y: np.ndarray | torch.Tensor,
        *,
        target: Target | None = None,
        groups: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        device: str = "cpu",
    ) -> None:
        """X: float [N, D], y: int [N]; target: of the rows, where they are to tell something else than the class y.

        groups: int [N], of which group each row is, where rows of one depend on each other, as words of a text do: what
        is left out is a group then. weights: [N], above 0, of how much each row counts in what is fitted, and in the
        means of what is left out.

        Raises UserError for values that are not finite.
        """
        self.target = target
        self.groups = groups
        self.weights = None if weights is None else torch.from_numpy(weights / weights.mean()).to(device)
        """float64 [N], of mean 1."""
        self.rows = as_rows(X).to(device)
        labels = as_labels(y, len(self.rows))
        self.labels, codes = np.unique(labels, return_inverse=True)
        check_finite(self.rows, "criterion")
        self.codes = torch.from_numpy(codes).to(device)
        self.counts = torch.bincount(self.codes).double()
        self.n, self.width = self.rows.shape
        self._found: dict[Callable[[Features], Any], Any] = {}

    def once(self, find: Callable[["Features"], _R]) -> _R:
        """What `find` finds of this layer, which is kept for whoever asks next."""
        if find not in self._found:
            self._found[find] = find(self)
        return cast(_R, self._found[find])

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
        return self._standardise(torch.empty(self.rows.shape, dtype=torch.float32, device=self.rows.device))

    def _standardise(self, into: torch.Tensor) -> torch.Tensor:
        inverse = torch.where(self.deviation > 0, 1.0 / self.deviation, 0.0)

        def fill(at: slice) -> None:
            into[at] = (self.rows[at] - self.mean).mul_(inverse)

        self.over_blocks(fill)
        return into

    @cached_property
    def row_squares(self) -> torch.Tensor:
        """‖z‖² of the standardised rows, float64 [N]."""
        Z = self.standardised  # here, not in every thread
        return torch.cat(self.over_blocks(lambda at: Z[at].double().square_().sum(1)))

    @cached_property
    def class_means(self) -> torch.Tensor:
        """Of the standardised rows, float64 [K, D]."""
        return self._by_class(self.standardised) / self.counts[:, None]

    @cached_property
    def spectrum(self) -> Spectrum:
        """From the smaller of ZᵀZ and ZZᵀ."""
        values, vectors = self._eigen
        # They come in increasing order.
        first = int((values <= RANK_SHARE * values[-1].clamp_min(0.0)).sum())
        square, vectors = values[first:], vectors[:, first:]
        if self.n <= self.width:
            return Spectrum(vectors.float(), square, self._by_class(vectors).T.contiguous())
        size = square.sqrt()
        left = self.principal.coordinates[:, first:] / size.float()
        # Not from the float32 `left`: what all directions leave unexplained may be as small as its rounding.
        return Spectrum(left, square, product((vectors.double() / size).T, self._by_class(self.standardised)))

    @cached_property
    def principal(self) -> PrincipalAxes:
        """The standardised rows along their principal axes."""
        return PrincipalAxes.of(self.standardised, *self._eigen)

    def sum_over_rows(self, values: np.ndarray) -> float:
        """Of values [N], weighted if rows are."""
        return float(values.sum() if self.weights is None else values @ self.weights.cpu().numpy())

    @cached_property
    def class_weights(self) -> torch.Tensor:
        """How many rows each class has, or of weighted rows their weights: float64 [K], together N."""
        if self.weights is None:
            return self.counts
        return torch.bincount(self.codes, weights=self.weights, minlength=len(self.counts))

    def keep_axes_alone(self) -> None:
        """Find `principal`, in the place of the rows, which are gone then: for a probe, and nothing more.

        The array that was handed over as X is overwritten where it is of float32.
        """
        if self.rows.dtype == torch.float32:
            self.standardised = self._standardise(self.rows)
        _ = self.standardised
        self.rows = self.rows[:0].clone()  # a view would hold them all
        # Not by `_eigen`, which keeps the Gram matrix too.
        self.principal = PrincipalAxes.of(self.standardised, *decompose(self.standardised), in_place=True)
        del self.standardised

    @cached_property
    def product_sums(self) -> torch.Tensor:
        """Sums of products of the features as they are but for their mean and a common factor, the largest deviation.

        float64 [D, D] over the rows, or [N, N] over the features where there are no more rows than features: either
        has the covariance's trace and its sum of squares.
        """
        scale = self.deviation / self.deviation.max().clamp_min(torch.finfo(torch.float64).tiny)
        if self.n > self.width:
            return self._gram * scale[:, None] * scale
        return smaller_gram(self.standardised * scale.float())

    @cached_property
    def _gram(self) -> torch.Tensor:
        return smaller_gram(self.standardised)

    @cached_property
    def _eigen(self) -> tuple[torch.Tensor, torch.Tensor]:
        return decompose_gram(self._gram)

    def prepare(self) -> None:
        """Compute what criteria share: neighbours, and by one core beside their distances the decomposition."""
        if "neighbours" in vars(self):
            return
        small, large = sorted(self.rows.shape)
        # The decomposition reads the standardised rows too: they are computed before the threads part.
        points = prepare(self.standardised)
        with beside(self.rows.device, lambda: self._eigen):
            self.neighbours = self._find_neighbours(
                points, head_start=small**2 * (GRAM_COST * large + EIGEN_COST * small) / self.width
            )

    @cached_property
    def neighbours(self) -> Neighbours:
        """Euclidean, among the standardised rows; each pair is computed once."""
        return self._find_neighbours(prepare(self.standardised))

    def _find_neighbours(self, points: Points, head_start: float = 0.0) -> Neighbours:
        k = min(NEIGHBOURS, self.n - 1)
        parts = over_tiles(points, lambda tiles: _nearest(tiles, self.n, k, points.square), head_start)
        distance, order = torch.cat([distance for distance, _ in parts], 1).sort(dim=1, stable=True)
        index = torch.cat([index for _, index in parts], 1).gather(1, order)
        return Neighbours(distance[:, :k], index[:, :k])

    @cached_property
    def unit(self) -> float:
        """What numbers are told in: their deviation, so that float32 holds products with numbers of any size."""
        if self.target is None or self.target.task is not Task.REGRESSION:
            return 1.0
        return float(self.target.values.std()) or 1.0

    @cached_property
    def target_values(self) -> torch.Tensor:
        """Of a target, its values in `unit`s, float64 [N, T]."""
        assert self.target is not None
        return torch.from_numpy(self.target.values / self.unit).to(self.rows.device)

    def response(self, at: slice | torch.Tensor) -> torch.Tensor:
        """What ridge regression is to say of some rows, float64 [n, T]: the target in `unit`s, or one-hot labels."""
        return self.one_hot(at) if self.target is None else self.target_values[at]

    @cached_property
    def response_mean(self) -> torch.Tensor:
        """float64 [T]."""
        return self.counts / self.n if self.target is None else self.target_values.mean(0)

    @cached_property
    def response_products(self) -> torch.Tensor:
        """Uᵀ·Y of what is wanted, float64 [r, T]."""
        spectrum = self.spectrum
        if self.target is None:
            return spectrum.targets
        centred = (self.target_values - self.response_mean).float()
        return product(spectrum.left.T.contiguous(), centred.T.contiguous()).double()

    def one_hot(self, at: slice | torch.Tensor) -> torch.Tensor:
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


def features_of(
    X: np.ndarray | torch.Tensor | Features, y: np.ndarray | torch.Tensor | None = None
) -> Features:
    """The features of rows and labels that can be compared; UserError where there are too few."""
    features = X if isinstance(X, Features) else Features(X, np.empty(0) if y is None else y)
    if len(features.labels) < 2 or len(features.rows) < 3:
        raise UserError(
            f"The criteria of a layer compare classes, and its {len(features.rows)} rows have "
            f"{len(features.labels)}. Give at least three rows of at least two classes."
        )
    return features


def _nearest(tiles: Iterator[Tile], n: int, k: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest distances of each of n rows in some tiles, and to which rows: [n, k] each."""
    distance = torch.full((n, k), torch.inf, dtype=like.dtype, device=like.device)
    index = torch.zeros(n, k, dtype=torch.int64, device=like.device)

    def keep(rows: torch.Tensor, offset: int, found: torch.Tensor) -> None:
        """Merge distances [rows, columns] of some rows to columns from `offset`."""
        near, at = _candidates(found, distance[rows, -1], k)
        near, order = torch.cat([distance[rows], near], 1).sort(dim=1, stable=True)
        at = torch.cat([index[rows], at + offset], 1).gather(1, order)
        distance[rows], index[rows] = near[:, :k], at[:, :k]

    every = torch.arange(n, device=like.device)
    for tile in tiles:
        on_diagonal = tile.column0 == tile.row0
        if on_diagonal:
            tile.distance.fill_diagonal_(torch.inf)
        keep(every[tile.row0 : tile.row1], tile.column0, tile.distance)
        right = tile.distance[:, tile.row1 - tile.row0 if on_diagonal else 0 :]
        columns = every[tile.column1 - right.shape[1] : tile.column1]
        if len(columns):
            # Of a tile's many columns few are so near to any of its few rows.
            nearer = (right.amin(0) < distance[columns, -1]).nonzero()[:, 0]
            if len(nearer):
                keep(columns[nearer], tile.row0, right[:, nearer].T.contiguous())
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
