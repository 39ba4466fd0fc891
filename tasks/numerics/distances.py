"""All pairwise Euclidean distances of a set of rows, tile by tile, each pair once.

The rule of the house: whoever needs all pairs (silhouette, nearest neighbours) asks this module for tiles, so
that the arithmetic that decides speed and accuracy is written once.

Accuracy. d² = |x|² + |y|² − 2x·y loses digits where a pair is close compared with its distance from the
origin. So rows are centred in float64 first; a few leading axes that carry most of the variance (massive
activations) are taken out and their part of d² is added as a plain difference; and pairs that still came out
too close for float32 are recomputed by differences in float64.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from tasks.numerics.cores import cores, one_thread
from tasks.numerics.matrix_products import product
from tasks.numerics.matrix_rows import blocks_of, deviation_of, mean_of

_R = TypeVar("_R")

# Below this many rows float64 costs less than its care would: a fraction of a second for any width.
FLOAT64_ROWS = 1_536
# d² under this share of |x|² + |y|² has lost more than 3 of float32's 7 digits: recompute the pair.
CLOSE_SHARE = 1e-3
# An axis is taken out when it holds more than this share of the variance left, in this many rows.
AXIS_SHARE = 0.2
MAX_AXES = 4
AXES_ROWS = 512
# Rows and columns of a tile that stays in a core's cache, and of one that keeps a GPU busy.
CPU_TILE = (256, 2_048)
DEVICE_TILE = (4_096, 16_384)


@dataclass(frozen=True)
class Points:
    """Rows made ready for `tiles`. Centred, so only differences between rows mean anything."""

    z: torch.Tensor
    """[N, D] the centred rows without the leading axes: float64, float32, or bfloat16 [N, D+6], where the products
    come out rounded and so have to hold the norms already: ones and the squared norm in three parts."""
    square: torch.Tensor
    """[N] squared norms of z, float64 or float32."""
    axes: torch.Tensor
    """[N, q] coordinates on the leading axes that were taken out, q from 0 to MAX_AXES."""
    exact: torch.Tensor | None
    """[N, D] the rows as given, to recompute close pairs from; None where that is not wanted."""
    order: torch.Tensor
    """int64 [N]: which row of `exact` each point is."""
    unit: float | torch.Tensor
    """What the rows were multiplied with: a power of two, or, of standardised rows, float64 [D]."""

    @property
    def n(self) -> int:
        return self.z.shape[0]


@dataclass(frozen=True)
class Tile:
    """Distances of rows `row0:row1` to rows `column0:column1`; column0 ≥ row0.

    A tile that starts on the diagonal (`column0 == row0`) holds the square of its own rows in full, both
    halves of it, with zeros on the diagonal itself; to the right of that square, every pair comes only once.
    """

    row0: int
    row1: int
    column0: int
    column1: int
    distance: torch.Tensor
    """[rows, columns] float32 or float64; yours to change, and only good until the next tile is asked for."""


def prepare(
    rows: torch.Tensor, *, order: torch.Tensor | None = None, standardise: bool = False, fast: bool = False
) -> Points:
    """Centre, take out massive axes, choose the precision.

    rows: float [N, D], finite; `order`, int64 [N], has the points in another order. Distances come in a unit of their
    own, so that squares stay within float32's range: a power of two, or each feature's deviation with `standardise`
    (1 for a constant feature). `fast` multiplies in bfloat16 with float32 sums (|error| about 1e-3 of one distance,
    unbiased), otherwise in float32; up to FLOAT64_ROWS rows it is float64 in any case.
    """
    n, d = rows.shape
    order = torch.arange(n, device=rows.device) if order is None else order
    if n <= FLOAT64_ROWS:
        centre = mean_of(rows)
        unit = _unit(rows, centre, standardise) if standardise else 1.0
        z = (rows[order].double() - centre).mul_(unit)
        return Points(z, z.square().sum(1), z.new_zeros(n, 0), rows, order, unit)
    some = rows[torch.from_numpy(np.linspace(0, n - 1, AXES_ROWS).astype(np.int64))]
    # Any offset will do, as long as it is the same for all rows: the mean of some is near enough, and, less an offset
    # of their own precision, rows lose no digit.
    centre = mean_of(rows) if standardise else some.double().mean(0).to(rows.dtype)
    unit = _unit(rows, centre, standardise)
    with one_thread():
        axes = _leading_axes((some - centre).mul_(unit).float())
    parts = 3 if fast else 0
    dtype = torch.bfloat16 if fast else torch.float32
    z = torch.empty(n, d + 2 * parts, dtype=dtype, device=rows.device)
    square = torch.empty(n, dtype=torch.float32, device=rows.device)
    coordinates = torch.zeros(n, axes.shape[1], dtype=torch.float32, device=rows.device)

    def fill(at: slice) -> None:
        block = (rows.index_select(0, order[at]) - centre).mul_(unit)
        along = axes.to(block.dtype)
        # Twice, as a float32 projection leaves of a massive axis what may still be large beside the rest.
        for _ in range(2 if axes.shape[1] else 0):
            on_axes = block @ along
            coordinates[at] += on_axes
            block.addmm_(on_axes, along.T, alpha=-1.0)
        z[at, :d] = block
        if fast:
            # Norms of the rounded rows, not of the rows: then d² is that of real points, never far below zero.
            block = z[at, :d].float()
        norm = torch.linalg.vector_norm(block, dim=1, dtype=None if fast else torch.float64).double().square()
        square[at] = norm
        for part in range(parts):  # three times 8 bits of mantissa hold a float32's 24
            z[at, d + part] = norm.bfloat16()
            norm = norm - z[at, d + part].double()
            z[at, d + parts + part] = 1.0

    with cores(rows.device) as shared:
        shared.map(fill, blocks_of(rows))
    return Points(z, square, coordinates, None if fast else rows, order, unit)


def _unit(rows: torch.Tensor, centre: torch.Tensor, standardise: bool) -> float | torch.Tensor:
    """What to multiply the rows with."""
    if standardise:
        deviation = deviation_of(rows, centre)
        return torch.where(deviation > 0, 1.0 / deviation, 1.0)
    low, high = torch.aminmax(rows)
    return 2.0 ** -float(np.frexp(max(float(high), -float(low)))[1])  # a power of two rounds nothing


def tiles(points: Points, strips: Iterable[int]) -> Iterator[Tile]:
    """Every pair of rows once, the upper triangle row strip by row strip; or those strips of it that are asked for."""
    tile_rows, tile_columns = _tile(points)
    space = points.square.new_empty(2, tile_rows * tile_columns)
    for strip in strips:
        row0 = strip * tile_rows
        row1 = min(row0 + tile_rows, points.n)
        left = _left(points, slice(row0, row1))
        for column0 in range(row0, points.n, tile_columns):
            column1 = min(column0 + tile_columns, points.n)
            at = slice(row0, row1), slice(column0, column1)
            square = _squares(points, left, *at, space)
            if column0 == row0:
                square.fill_diagonal_(torch.inf)  # not to be taken for pairs that are too close
            if points.exact is not None:
                _refine(square, points, *at)
            else:
                square.clamp_min_(0.0)
            distance = square.sqrt_()
            if column0 == row0:
                distance.fill_diagonal_(0.0)
            yield Tile(row0, row1, column0, column1, distance)


def _tile(points: Points) -> tuple[int, int]:
    return CPU_TILE if points.z.device.type == "cpu" else DEVICE_TILE


def strips_of(points: Points, parts: int, head_start: float = 0.0) -> list[list[int]]:
    """Strips of tiles for each part, about equal work; the last has done `head_start` distances' worth of it before."""
    tile_rows, _ = _tile(points)
    strips: list[list[int]] = [[] for _ in range(parts)]
    loads = [0.0] * (parts - 1) + [head_start]
    for row0 in range(0, points.n, tile_rows):
        part = loads.index(min(loads))
        strips[part].append(row0 // tile_rows)
        loads[part] += (min(row0 + tile_rows, points.n) - row0) * (points.n - row0)
    return [each for each in strips if each]


def over_tiles(points: Points, work: Callable[[Iterator[Tile]], _R], head_start: float = 0.0) -> list[_R]:
    """What `work` makes of the tiles, once a core: each gets strips of its own, all get all of them.

    head_start: distances that could be computed while one of the cores does what was given it first, see `beside`.
    """
    with cores(points.z.device) as shared:
        parts = strips_of(points, shared.count, head_start)
        return shared.map(lambda strips: work(tiles(points, strips)), parts)


def distances_of(points: Points, rows: torch.Tensor) -> Callable[[slice], torch.Tensor]:
    """Distances [rows, columns] of these rows to columns, in the same unit, close pairs not recomputed."""
    left = _left(points, rows)

    def to(columns: slice) -> torch.Tensor:
        return _squares(points, left, rows, columns, None).clamp_min_(0.0).sqrt_()

    return to


def _left(points: Points, rows: slice | torch.Tensor) -> torch.Tensor:
    """The left factor of the product: −2z and, in bfloat16, the norms where the right factor has its ones."""
    z = points.z[rows]
    if points.z.dtype != torch.bfloat16:
        return z * -2.0
    d = z.shape[1] - 6
    return torch.cat([z[:, :d] * -2.0, z[:, d + 3 :], z[:, d : d + 3]], dim=1)


def _squares(
    points: Points,
    left: torch.Tensor,
    rows: slice | torch.Tensor,
    columns: slice,
    space: torch.Tensor | None,
) -> torch.Tensor:
    """Squared distances [rows, columns], close pairs not recomputed; `space` [2, ≥ rows·columns] saves memory anew."""
    right = points.z[columns]
    if left.dtype == torch.bfloat16:
        rounded = torch.mm(left, right.T)
        square = torch.empty_like(rounded, dtype=torch.float32) if space is None else _at(space[0], rounded)
        square.copy_(rounded)
    else:
        square = product(left, right, points.square[columns])
        square += points.square[rows, None]
    for axis in range(points.axes.shape[1]):
        difference = torch.empty_like(square) if space is None else _at(space[1], square)
        torch.sub(points.axes[rows, axis, None], points.axes[columns, axis], out=difference)
        square.addcmul_(difference, difference)
    return square


def _at(space: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return space[: like.numel()].view(like.shape)


def _refine(square: torch.Tensor, points: Points, rows: slice, columns: slice) -> None:
    """Replace d² of pairs that are too close for the working precision by the sum of squared differences."""
    share = CLOSE_SHARE if square.dtype == torch.float32 else 1e-9
    row_square, column_square = points.square[rows], points.square[columns]
    # One cheap look decides for almost every row that there is nothing to do.
    suspect = (square.amin(1) <= share * (row_square + column_square.max())).nonzero()[:, 0]
    if len(suspect) == 0:
        return
    close = square[suspect] <= share * (row_square[suspect, None] + column_square)
    i, j = close.nonzero(as_tuple=True)
    i = suspect[i]
    assert points.exact is not None
    left, right = points.order[rows], points.order[columns]
    for start in range(0, len(i), 8_192):
        a, b = i[start : start + 8_192], j[start : start + 8_192]
        square[a, b] = (
            (points.exact[left[a]].double() - points.exact[right[b]].double())
            .mul_(points.unit)
            .square()
            .sum(1)
            .to(square.dtype)
        )


def _leading_axes(z: torch.Tensor) -> torch.Tensor:
    """Orthonormal axes, float64 [D, q], that hold most of the variance of z [n, D], by subspace iteration.

    They need not be exact eigenvectors: any orthonormal axes leave distances as they are, and these only
    have to catch the bulk of a massive direction.
    """
    variance = z.square().sum(0)
    q = min(MAX_AXES, z.shape[1])
    axes = torch.zeros(z.shape[1], q, dtype=torch.float64, device=z.device)
    axes[variance.topk(q).indices, torch.arange(q, device=z.device)] = 1.0
    for _ in range(3):
        axes = torch.linalg.qr((z.T @ (z @ axes.float())).double()).Q
    held = (z @ axes.float()).square().sum(0)
    order = held.argsort(descending=True)
    rest = variance.sum()
    kept = 0
    for axis in order:
        if held[axis] <= AXIS_SHARE * rest:
            break
        rest = rest - held[axis]
        kept += 1
    return axes[:, order[:kept]].contiguous()
