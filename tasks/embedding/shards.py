"""Row ranges of about equal cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` (exclusive) of a data set, and their tokens in all."""

    index: int
    start: int
    stop: int
    tokens: int


def plan_shards(
    token_counts: Sequence[int] | NDArray[np.signedinteger], tokens_per_shard: int, cuts: Sequence[int] = ()
) -> list[Shard]:
    """Cut rows into contiguous ranges of about equal token count, each of at least `tokens_per_shard`.

    cuts: rows before which a shard ends in any case, in order; what lies between two of them is cut for itself.

    The number of shards is ⌊total ÷ tokens_per_shard⌋, at least one, so an even cut gives every shard its
    minimum; a boundary lies at the row nearest to the even cut, so a shard may differ from it by up to one row
    at each end. Every shard has a row; no rows make no shards.
    """
    if tokens_per_shard < 1:
        raise ValueError(f"tokens_per_shard is {tokens_per_shard}; it must be at least 1.")
    counts = np.asarray(token_counts, dtype=np.int64)
    if inner := [cut for cut in cuts if 0 < cut < len(counts)]:
        planned: list[Shard] = []
        for start, stop in pairwise([0, *inner, len(counts)]):
            own = plan_shards(counts[start:stop], tokens_per_shard)
            planned += [
                Shard(len(planned) + each.index, start + each.start, start + each.stop, each.tokens)
                for each in own
            ]
        return planned
    rows = len(counts)
    if rows == 0:
        return []
    until = np.concatenate([[0], np.cumsum(counts)])
    shards = min(max(int(until[-1]) // tokens_per_shard, 1), rows)
    cuts = [0]
    for index in range(1, shards):
        target = until[-1] * index / shards
        right = int(np.searchsorted(until, target))
        nearest = right - 1 if target - until[right - 1] < until[right] - target else right
        cuts.append(min(max(nearest, cuts[-1] + 1), rows - shards + index))
    cuts.append(rows)
    return [
        Shard(index, start, stop, int(until[stop] - until[start]))
        for index, (start, stop) in enumerate(pairwise(cuts))
    ]
