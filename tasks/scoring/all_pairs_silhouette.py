"""Euclidean silhouettes, which have no closed form: all pairs, each once, in O(N·block) memory beside KEPT_VALUES."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from tasks.numerics.cores import cores, one_thread
from tasks.numerics.distances import Points, Tile, distances_of, over_tiles, prepare
from tasks.scoring.silhouette_definition import RowScores, score_rows
from tasks.vocabulary import Precision, Space

# Rows of each class from which the influence is estimated; adds about 1/128 to the variance of the second part of it.
ANCHORS = 128
# Up to this many of the anchors' distances to all rows are kept; beyond it about 256·N of the N²/2 are computed twice.
KEPT_VALUES = 2**25
# Columns of one piece of the influence.
INFLUENCE_COLUMNS = 512


def all_pairs(
    rows: torch.Tensor, codes: np.ndarray, space: Space, precision: Precision, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """s(i) and influence, float64 [N], of float rows [N, D] and their class numbers [N]."""
    order = np.argsort(codes, kind="stable")  # sorted by class, a tile of distances meets few classes
    by_class = torch.from_numpy(order).to(rows.device)
    own = torch.from_numpy(codes[order]).to(rows.device)
    counts = torch.bincount(own).double()
    points = prepare(
        rows, order=by_class, standardise=space is Space.STANDARDISED, fast=precision is Precision.FAST
    )
    anchors = _Anchors.draw(points, counts, seed)
    sums = _class_sums(points, own, len(counts), anchors)
    with one_thread():
        scores = score_rows(sums, own, counts)
    samples, influence = torch.empty(2, len(codes), dtype=torch.float64, device=rows.device)
    samples[by_class] = scores.s
    influence[by_class] = scores.s + _influence_on_others(points, own, counts, scores, anchors)
    return samples, influence


@dataclass(frozen=True)
class _Anchors:
    """Up to ANCHORS rows of each class, from which the influence is estimated; rows are sorted by class."""

    rows: np.ndarray
    """int64 [A], increasing."""
    weight: np.ndarray
    """float64 [A]: how many rows of its class each stands for."""
    distance: torch.Tensor | None
    """[A, N] to all rows, filled by `keep`; None where that is too much to keep."""

    @classmethod
    def draw(cls, points: Points, counts: torch.Tensor, seed: int) -> "_Anchors":
        draw = np.random.default_rng(seed)
        picked, weight = [], []
        for start, end in _pieces(counts):
            size = end - start
            picked.append(start + np.sort(draw.choice(size, size=min(size, ANCHORS), replace=False)))
            weight.append(np.full(len(picked[-1]), size / len(picked[-1])))
        rows = np.concatenate(picked)
        kept = points.square.new_empty(len(rows), points.n) if len(rows) * points.n <= KEPT_VALUES else None
        return cls(rows, np.concatenate(weight), kept)

    def keep(self, tile: Tile) -> None:
        """What the tile holds of the anchors' distances: of its rows, and right of the diagonal of its columns."""
        if self.distance is None:
            return
        found = tile.distance
        which, rows = self._among(tile.row0, tile.row1, found.device)
        self.distance[which, tile.column0 : tile.column1] = found.index_select(0, rows - tile.row0)
        which, rows = self._among(max(tile.row1, tile.column0), tile.column1, found.device)
        self.distance[which, tile.row0 : tile.row1] = found.index_select(1, rows - tile.column0).T

    def _among(self, start: int, end: int, device: torch.device) -> tuple[slice, torch.Tensor]:
        """The anchors among these rows: their numbers, and their rows."""
        which = slice(*np.searchsorted(self.rows, (start, end)).tolist())
        return which, torch.from_numpy(self.rows[which]).to(device)

    def distances(self, points: Points, which: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """Distances [len(which), columns] of some anchors, given by number, to columns."""
        kept = self.distance
        if kept is None:
            return distances_of(points, torch.from_numpy(self.rows).to(which.device)[which])
        return lambda columns: kept[:, columns].index_select(0, which)


def _class_sums(points: Points, codes: torch.Tensor, k: int, anchors: _Anchors) -> torch.Tensor:
    """Sums of distances from each row to each class, float64 [N, K]; rows are sorted by class."""
    bounds = codes.cpu().numpy()
    parts = over_tiles(points, lambda tiles: _class_sums_of_tiles(tiles, points.n, codes, bounds, k, anchors))
    return torch.stack(parts).sum(0)


def _class_sums_of_tiles(
    tiles: Iterator[Tile], n: int, codes: torch.Tensor, bounds: np.ndarray, k: int, anchors: _Anchors
) -> torch.Tensor:
    sums = torch.zeros(k, n, dtype=torch.float64, device=codes.device)
    for tile in tiles:
        anchors.keep(tile)
        rows = slice(tile.row0, tile.row1)
        first, last = int(bounds[tile.column0]), int(bounds[tile.column1 - 1]) + 1
        if last - first <= 8:
            # Sorted by class, a tile meets few classes, each in one piece.
            edges = np.searchsorted(bounds[tile.column0 : tile.column1], np.arange(first, last + 1))
            for c in range(first, last):
                sums[c, rows] += tile.distance[:, edges[c - first] : edges[c - first + 1]].sum(1)
        else:
            members = _members(codes[tile.column0 : tile.column1], first, last, tile.distance.dtype)
            sums[first:last, rows] += (tile.distance @ members).T
        # The square on the diagonal already holds both halves.
        skip = tile.row1 - tile.row0 if tile.column0 == tile.row0 else 0
        if tile.column0 + skip < tile.column1:
            first, last = int(bounds[tile.row0]), int(bounds[tile.row1 - 1]) + 1
            members = _members(codes[rows], first, last, tile.distance.dtype)
            sums[first:last, tile.column0 + skip : tile.column1] += members.T @ tile.distance[:, skip:]
    return sums.T


def _pieces(counts: torch.Tensor) -> list[tuple[int, int]]:
    """Where each class begins and ends among rows sorted by class."""
    return list(pairwise([0, *counts.long().cumsum(0).tolist()]))


def _members(codes: torch.Tensor, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
    return (codes[:, None] == torch.arange(first, last, device=codes.device)).to(dtype)


def _influence_on_others(
    points: Points, codes: torch.Tensor, counts: torch.Tensor, scores: RowScores, anchors: _Anchors
) -> torch.Tensor:
    """Σ_i ∂s_i/∂(weight of row j), from the anchors i, float64 [N].

    The derivative of a mean distance is ∂a_i/∂w_j = (d_ij − a_i)/(n_c − 1) for j ≠ i of i's class, and
    ∂b_i/∂w_j = (d_ij − b_i)/n_k for j in i's nearest class k: the first term of von Mises's expansion.
    """
    every = torch.from_numpy(anchors.rows).to(codes.device)
    weights = torch.from_numpy(anchors.weight).to(codes.device)
    own, near = codes[every], scores.nearest[every]
    by_a = scores.by_a[every] * weights / (counts[own] - 1.0).clamp_min(1.0)
    by_b = scores.by_b[every] * weights / counts[near]
    total = torch.zeros_like(scores.s)

    def adder(c: int) -> Callable[[slice], None]:
        """For columns that are rows of class c: from the anchors of c, and from those whose nearest class is c."""
        of_own, of_near = (own == c).nonzero()[:, 0], (near == c).nonzero()[:, 0]
        which = torch.cat([of_own, of_near])
        rows = every[which]
        g = torch.cat([by_a[of_own], by_b[of_near]])
        mean = torch.cat([scores.a[every[of_own]], scores.b[every[of_near]]])
        distances, shift = anchors.distances(points, which), (g * mean).sum()

        def add(columns: slice) -> None:
            distance = distances(columns)
            itself = ((rows >= columns.start) & (rows < columns.stop)).nonzero()[:, 0]
            # No row is part of its own mean.
            distance[itself, rows[itself] - columns.start] = mean[itself].to(distance.dtype)
            total[columns] = g.to(distance.dtype) @ distance - shift

        return add

    adds = [adder(c) for c in range(len(counts))]
    jobs = [
        partial(adds[c], slice(start, min(start + INFLUENCE_COLUMNS, end)))
        for c, (first, end) in enumerate(_pieces(counts))
        for start in range(first, end, INFLUENCE_COLUMNS)
    ]
    with cores(codes.device) as shared:
        shared.map(lambda job: job(), jobs)
    return total
