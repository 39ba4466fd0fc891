"""Pooling by one reduction, against a call for each length."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.embedding import pooled_batch
from tasks.embedding.backbone import find_backbone
from tasks.embedding.packed_attention import length_groups
from tasks.embedding.pooled_batch import PooledBatch
from tasks.embedding.pooling import POOLINGS, PoolingRecord, first, last
from tasks.embedding.segments import REDUCED, Segments
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import small_model

PLAIN = [each for each in Pooling if POOLINGS[each].weights is None]


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    pooling=st.sampled_from(PLAIN),
    prefix=st.integers(0, 6),
    around=st.tuples(st.integers(0, 8), st.integers(0, 3)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    windows=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_is_what_a_call_for_each_length_gives(lengths, pooling, prefix, around, dtype, windows, seed):
    lengths = sorted(lengths, reverse=True)
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(sum(lengths), 5, generator=draw).to(dtype)
    before = torch.randn(prefix, 5, generator=draw).to(dtype) if prefix else None
    ranges: list[tuple[int, int] | None] | None = [] if windows else None
    if ranges is not None:
        for length in lengths:
            start, stop, whole = torch.randint(0, prefix + length + 1, (3,), generator=draw).tolist()
            ranges.append(None if whole == 0 else (min(start, stop), max(start, stop)))
    wanted = torch.full((len(lengths), 5), torch.nan)
    pooled_batch._pool_groups(states, before, length_groups(lengths), pooling, around, wanted, ranges)
    segments = Segments(pooling, lengths, prefix, around, ranges, states.device)
    for _ in range(2):  # what it keeps is good for the next layer
        torch.testing.assert_close(segments.pool(states, before), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", PLAIN)
def test_a_state_that_is_not_finite_stays_in_its_text(pooling):
    states = torch.ones(7, 3)
    states[4] = torch.nan
    found = Segments(pooling, [4, 1, 2], 0, (0, 0), None, states.device).pool(states, None)
    assert found[[0, 2]].isfinite().all()
    assert found[1].isnan().all()


def test_a_device_without_such_a_reduction_is_never_asked_for_it(monkeypatch):
    """Apple's GPU has none; nor does a CPU need one."""
    monkeypatch.setattr(torch, "segment_reduce", None)
    backbone = find_backbone(small_model("llama"))
    batch = PooledBatch(
        backbone, [np.arange(2, 7, dtype=np.int32)], [(NormState.AS_RETURNED, Pooling.MEAN)], 1
    )
    batch.take(0, torch.zeros(5, backbone.hidden_size))
    assert "mps" not in pooled_batch.REDUCING


def test_a_pooling_that_it_does_not_know_is_called_length_by_length(monkeypatch):
    def first_and_last(states, mask):
        return (first(states, mask) + last(states, mask)) / 2

    backbone = find_backbone(small_model("llama").to("meta"))
    ids = [np.arange(2, 2 + length, dtype=np.int32) for length in (5, 5, 2)]
    keys = [(NormState.AS_RETURNED, Pooling.MEAN), (NormState.AS_RETURNED, Pooling.MAX)]
    by_length = []
    monkeypatch.setitem(POOLINGS, Pooling.MAX, PoolingRecord(first_and_last, None))
    monkeypatch.setattr(pooled_batch, "_pool_groups", lambda *of: by_length.append(of[3]))
    batch = PooledBatch(backbone, ids, keys, 1)
    batch.take(0, torch.empty(12, backbone.hidden_size, device="meta"))
    assert by_length == [Pooling.MAX]
    assert {POOLINGS[each].function for each in PLAIN if each is not Pooling.MAX} <= set(REDUCED)
