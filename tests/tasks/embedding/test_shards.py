"""Shards cover every row once, in order, at about equal cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.embedding.shards import Shard, plan_shards


@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=200), tokens_per_shard=st.integers(1, 500))
def test_covers_all_rows_in_order_at_about_equal_cost(counts, tokens_per_shard):
    shards = plan_shards(counts, tokens_per_shard)
    assert [row for shard in shards for row in range(shard.start, shard.stop)] == list(range(len(counts)))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.tokens == sum(counts[shard.start : shard.stop]) for shard in shards)
    assert all(shard.stop > shard.start for shard in shards)
    assert len(shards) <= max(sum(counts) // tokens_per_shard, 1)
    # A shard of several rows is off the even share by at most one (longest) row.
    if tokens_per_shard >= 2 * max(counts):
        share = sum(counts) / len(shards)
        assert all(abs(shard.tokens - share) <= max(counts) for shard in shards)


def test_a_known_plan():
    assert plan_shards([10, 10, 10, 10, 5], 20) == [Shard(0, 0, 2, 20), Shard(1, 2, 5, 25)]
    assert plan_shards(np.array([3, 4], np.int32), 1000) == [Shard(0, 0, 2, 7)]
    assert plan_shards([], 1000) == []


def test_one_huge_row_leaves_a_row_for_every_other_shard():
    assert [shard.stop - shard.start for shard in plan_shards([1, 1000, 1, 1], 250)] == [1, 1, 1, 1]


def test_a_shard_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        plan_shards([1], 0)


@given(
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=100),
    cuts=st.sets(st.integers(-3, 110), max_size=6),
    tokens_per_shard=st.integers(1, 300),
)
def test_a_shard_ends_at_every_cut_and_what_lies_between_is_cut_for_itself(counts, cuts, tokens_per_shard):
    shards = plan_shards(counts, tokens_per_shard, sorted(cuts))
    inner = sorted(cut for cut in cuts if 0 < cut < len(counts))
    expected, tokens = [], np.array(counts)
    for start, stop in zip([0, *inner], [*inner, len(counts)], strict=True):
        for each in plan_shards(counts[start:stop], tokens_per_shard):
            rows = slice(start + each.start, start + each.stop)
            expected.append(Shard(len(expected), rows.start, rows.stop, int(tokens[rows].sum())))
    assert shards == expected
