"""Euclidean silhouettes, which have no closed form: all pairs, each once, in O(N·block) memory."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from tasks.cores import cores, one_thread
from tasks.distances import Points, Tile, distances_of, over_tiles, prepare
from tasks.silhouette_definition import RowScores, score_rows
from tasks.vocabulary import Precision, Space

# Rows of each class from which the influence is estimated; adds about 1/128 to the variance of the second part of
# it, and costs about 256·N of the N²/2 distances.
ANCHORS = 128
# Columns of one piece of that work.
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
    sums = _class_sums(points, own, len(counts))
    with one_thread():
        scores = score_rows(sums, own, counts)
    samples, influence = torch.empty(2, len(codes), dtype=torch.float64, device=rows.device)
    samples[by_class] = scores.s
    influence[by_class] = scores.s + _influence_on_others(points, own, counts, scores, seed)
    return samples, influence


def _class_sums(points: Points, codes: torch.Tensor, k: int) -> torch.Tensor:
    """Sums of distances from each row to each class, float64 [N, K]; rows are sorted by class."""
    bounds = codes.cpu().numpy()
    parts = over_tiles(points, lambda tiles: _class_sums_of_tiles(tiles, points.n, codes, bounds, k))
    return torch.stack(parts).sum(0)


def _class_sums_of_tiles(
    tiles: Iterator[Tile], n: int, codes: torch.Tensor, bounds: np.ndarray, k: int
) -> torch.Tensor:
    sums = torch.zeros(k, n, dtype=torch.float64, device=codes.device)
    for tile in tiles:
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


def _members(codes: torch.Tensor, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
    return (codes[:, None] == torch.arange(first, last, device=codes.device)).to(dtype)


def _influence_on_others(
    points: Points, codes: torch.Tensor, counts: torch.Tensor, scores: RowScores, seed: int
) -> torch.Tensor:
    """Σ_i ∂s_i/∂(weight of row j), from up to ANCHORS rows i of each class, float64 [N].

    The derivative of a mean distance is ∂a_i/∂w_j = (d_ij − a_i)/(n_c − 1) for j ≠ i of i's class, and
    ∂b_i/∂w_j = (d_ij − b_i)/n_k for j in i's nearest class k: the first term of von Mises's expansion.
    """
    draw = np.random.default_rng(seed)
    sizes = counts.long().tolist()
    starts = np.concatenate([[0], np.cumsum(sizes)])
    picked = [
        int(starts[c]) + np.sort(draw.choice(size, size=min(size, ANCHORS), replace=False))
        for c, size in enumerate(sizes)
    ]
    weight = np.concatenate([np.full(len(rows), sizes[c] / len(rows)) for c, rows in enumerate(picked)])
    every = torch.from_numpy(np.concatenate(picked)).to(codes.device)
    weights = torch.from_numpy(weight).to(codes.device)
    own, near = codes[every], scores.nearest[every]
    by_a = scores.by_a[every] * weights / (counts[own] - 1.0).clamp_min(1.0)
    by_b = scores.by_b[every] * weights / counts[near]
    total = torch.zeros_like(scores.s)

    def adder(c: int) -> Callable[[slice], None]:
        """For columns that are rows of class c: from the anchors of c, and from those whose nearest class is c."""
        of_own, of_near = (own == c).nonzero()[:, 0], (near == c).nonzero()[:, 0]
        anchors = every[torch.cat([of_own, of_near])]
        g = torch.cat([by_a[of_own], by_b[of_near]])
        mean = torch.cat([scores.a[every[of_own]], scores.b[every[of_near]]])
        distances, shift = distances_of(points, anchors), (g * mean).sum()

        def add(columns: slice) -> None:
            distance = distances(columns)
            itself = ((anchors >= columns.start) & (anchors < columns.stop)).nonzero()[:, 0]
            # No row is part of its own mean.
            distance[itself, anchors[itself] - columns.start] = mean[itself].to(distance.dtype)
            total[columns] = g.to(distance.dtype) @ distance - shift

        return add

    adds = [adder(c) for c in range(len(sizes))]
    jobs = [
        partial(adds[c], slice(start, min(start + INFLUENCE_COLUMNS, int(starts[c + 1]))))
        for c in range(len(sizes))
        for start in range(int(starts[c]), int(starts[c + 1]), INFLUENCE_COLUMNS)
    ]
    with cores(codes.device) as shared:
        shared.map(lambda job: job(), jobs)
    return total
