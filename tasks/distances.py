"""All pairwise Euclidean distances of a set of rows, tile by tile, each pair once.

The rule of the house: whoever needs all pairs (silhouette, nearest neighbours) asks this module for tiles, so
that the arithmetic that decides speed and accuracy is written once.

Accuracy. d² = |x|² + |y|² − 2x·y loses digits where a pair is close compared with its distance from the
origin. So rows are centred in float64 first; a few leading axes that carry most of the variance (massive
activations) are taken out and their part of d² is added as a plain difference; and pairs that still came out
too close for float32 are recomputed by differences in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from tasks.cores import cores, one_thread
from tasks.products import product
from tasks.rows import blocks_of, deviation_of, mean_of

_R = TypeVar("_R")

# Below this many rows float64 costs less than its care would: a fraction of a second for any width.
FLOAT64_ROWS = 1_536
# d² under this share of |x|² + |y|² has lost more than 3 of float32's 7 digits: recompute the pair.
CLOSE_SHARE = 1e-3
# An axis is taken out when it holds more than this share of the variance left.
AXIS_SHARE = 0.2
MAX_AXES = 4
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
    centre = mean_of(rows)
    unit: float | torch.Tensor = 1.0
    if standardise:
        deviation = deviation_of(rows, centre)
        unit = torch.where(deviation > 0, 1.0 / deviation, 1.0)
    elif n > FLOAT64_ROWS:
        low, high = torch.aminmax(rows)
        unit = 2.0 ** -float(np.frexp(max(float(high), -float(low)))[1])  # a power of two rounds nothing
    if n <= FLOAT64_ROWS:
        z = (rows[order].double() - centre).mul_(unit)
        return Points(z, z.square().sum(1), z.new_zeros(n, 0), rows, order, unit)
    with one_thread():
        axes = _leading_axes(rows, centre, unit)
    parts = 3 if fast else 0
    dtype = torch.bfloat16 if fast else torch.float32
    z = torch.empty(n, d + 2 * parts, dtype=dtype, device=rows.device)
    square = torch.empty(n, dtype=torch.float32, device=rows.device)
    coordinates = torch.empty(n, axes.shape[1], dtype=torch.float32, device=rows.device)

    # Any offset will do, as long as it is the same for all rows: less than a float64 one costs no digit.
    offset = centre.to(rows.dtype)

    def fill(at: slice) -> None:
        if standardise or axes.shape[1]:
            block = (rows[order[at]].double() - centre).mul_(unit)
        else:
            block = (rows[order[at]] - offset).mul_(unit)
        if axes.shape[1]:
            on_axes = block @ axes
            coordinates[at] = on_axes
            block -= on_axes @ axes.T
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


def tiles(points: Points, part: int = 0, parts: int = 1) -> Iterator[Tile]:
    """Every pair of rows once, the upper triangle row strip by row strip; or every parts-th strip of it."""
    tile_rows, tile_columns = _tile(points)
    space = torch.empty(tile_rows * tile_columns, dtype=points.square.dtype, device=points.z.device)
    for row0 in range(part * tile_rows, points.n, parts * tile_rows):
        row1 = min(row0 + tile_rows, points.n)
        strip = _left(points, slice(row0, row1))
        for column0 in range(row0, points.n, tile_columns):
            column1 = min(column0 + tile_columns, points.n)
            distance = _distances(points, strip, slice(row0, row1), slice(column0, column1), space)
            if column0 == row0:
                distance.fill_diagonal_(0.0)
            yield Tile(row0, row1, column0, column1, distance)


def _tile(points: Points) -> tuple[int, int]:
    return CPU_TILE if points.z.device.type == "cpu" else DEVICE_TILE


def over_tiles(points: Points, work: Callable[[Iterator[Tile]], _R]) -> list[_R]:
    """What `work` makes of the tiles, once a core: each gets strips of its own, all get all of them."""
    with cores(points.z.device) as shared:
        parts = min(shared.count, -(-points.n // _tile(points)[0]))
        return shared.map(lambda part: work(tiles(points, part, parts)), range(parts))


def between(points: Points, rows: slice | torch.Tensor, columns: slice | torch.Tensor) -> torch.Tensor:
    """Distances [rows, columns] in the same unit, close pairs not recomputed."""
    return _distances(points, _left(points, rows), rows, columns, None)


def _left(points: Points, rows: slice | torch.Tensor) -> torch.Tensor:
    """The left factor of the product: −2z and, in bfloat16, the norms where the right factor has its ones."""
    z = points.z[rows]
    if points.z.dtype != torch.bfloat16:
        return z * -2.0
    d = z.shape[1] - 6
    return torch.cat([z[:, :d] * -2.0, z[:, d + 3 :], z[:, d : d + 3]], dim=1)


def _distances(
    points: Points,
    left: torch.Tensor,
    rows: slice | torch.Tensor,
    columns: slice | torch.Tensor,
    space: torch.Tensor | None,
) -> torch.Tensor:
    """Distances [rows, columns]; with `space` to convert into, which means a tile, close pairs are recomputed."""
    right = points.z[columns]
    if left.dtype == torch.bfloat16:
        rounded = torch.mm(left, right.T)
        square = torch.empty_like(rounded, dtype=torch.float32) if space is None else space[: rounded.numel()]
        square = square.view(rounded.shape).copy_(rounded)
    else:
        square = product(left, right, points.square[columns])
        square += points.square[rows, None]
    for axis in range(points.axes.shape[1]):
        difference = points.axes[rows, axis, None] - points.axes[columns, axis]
        square.addcmul_(difference, difference)
    if points.exact is not None and space is not None:
        _refine(square, points, rows, columns)
    return square.clamp_min_(0.0).sqrt_()


def _refine(
    square: torch.Tensor, points: Points, rows: slice | torch.Tensor, columns: slice | torch.Tensor
) -> None:
    """Replace d² of pairs that are too close for the working precision by the sum of squared differences."""
    share = CLOSE_SHARE if square.dtype == torch.float32 else 1e-9
    row_square, column_square = points.square[rows], points.square[columns]
    # One cheap look decides for almost every tile that there is nothing to do.
    if square.amin() > share * (row_square.max() + column_square.max()):
        return
    close = square <= share * (row_square[:, None] + column_square)
    i, j = close.nonzero(as_tuple=True)
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


def _leading_axes(rows: torch.Tensor, centre: torch.Tensor, unit: float | torch.Tensor) -> torch.Tensor:
    """Orthonormal axes [D, q] that hold most of the variance, by subspace iteration on up to 1,024 rows.

    They need not be exact eigenvectors: any orthonormal axes leave distances as they are, and these only
    have to catch the bulk of a massive direction.
    """
    picked = rows[torch.from_numpy(np.linspace(0, len(rows) - 1, min(len(rows), 1_024)).astype(np.int64))]
    z = (picked.double() - centre).mul_(unit)
    variance = z.square().sum(0)
    q = min(MAX_AXES, rows.shape[1])
    axes = torch.zeros(rows.shape[1], q, dtype=torch.float64, device=rows.device)
    axes[variance.topk(q).indices, torch.arange(q, device=rows.device)] = 1.0
    for _ in range(3):
        axes = torch.linalg.qr(z.T @ (z @ axes)).Q
    held = (z @ axes).square().sum(0)
    order = held.argsort(descending=True)
    rest = variance.sum()
    kept = 0
    for axis in order:
        if held[axis] <= AXIS_SHARE * rest:
            break
        rest = rest - held[axis]
        kept += 1
    return axes[:, order[:kept]].contiguous()
