"""Each pooling against a loop over the tokens of one text."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.embedding.pooling import pool
from tasks.vocabulary import Pooling


def by_hand(
    tokens: np.ndarray,
    pooling: Pooling,
    around: tuple[int, int] = (0, 0),
    weights: Sequence[float] | None = None,
) -> np.ndarray:
    """tokens: [t, D], without padding; weights: of each, where attention weighs them."""
    if pooling in (Pooling.ATTENTION_SUMMARY, Pooling.ATTENTION_RECEIVED):
        own = [place for place in range(len(tokens)) if around[0] <= place < len(tokens) - around[1]]
        each = dict(enumerate(weights)) if own else dict.fromkeys(range(len(tokens)), 1.0)
        own = own or list(range(len(tokens)))
        own = [place for place in own if place] or own
        if sum(each[place] for place in own) == 0:
            each = dict.fromkeys(own, 1.0)
        return sum(each[place] * tokens[place] for place in own) / sum(each[place] for place in own)
    if pooling is Pooling.TEXT_MEAN:
        own = [token for place, token in enumerate(tokens) if around[0] <= place < len(tokens) - around[1]]
        return sum(own) / len(own) if own else sum(tokens) / len(tokens)
    if pooling is Pooling.MEAN:
        return sum(tokens) / len(tokens)
    if pooling is Pooling.MEAN_TAIL:
        return sum(tokens[1:]) / (len(tokens) - 1) if len(tokens) > 1 else tokens[0]
    if pooling is Pooling.LAST:
        return tokens[-1]
    if pooling is Pooling.FIRST:
        return tokens[0]
    return np.array([max(column) for column in tokens.T])


def padded(texts: list[torch.Tensor], side: str, filler: float) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(text) for text in texts)
    states = torch.full((len(texts), longest, texts[0].shape[1]), filler, dtype=texts[0].dtype)
    mask = torch.zeros(len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        where = slice(0, len(text)) if side == "right" else slice(longest - len(text), longest)
        states[row, where] = text
        mask[row, where] = 1
    return states, mask


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    width=st.integers(1, 7),
    seed=st.integers(0, 2**31),
    side=st.sampled_from(["left", "right"]),
    filler=st.sampled_from([0.0, 1e9, float("nan"), float("inf")]),
    around=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
@pytest.mark.parametrize("pooling", Pooling)
def test_equals_a_loop_over_the_tokens(pooling, lengths, width, seed, side, filler, around):
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randn(length, width, generator=generator) for length in lengths]
    states, mask = padded(texts, side, filler)
    # Some tokens get no attention at all, and at padding there is none that could be told.
    heard = [(torch.rand(length, generator=generator) - 0.3).clamp_min(0) for length in lengths]
    weights = padded([each[:, None] for each in heard], side, filler)[0][:, :, 0]
    got = pool(states, mask, pooling, around, weights)
    want = np.stack(
        [
            by_hand(text.double().numpy(), pooling, around, each.tolist())
            for text, each in zip(texts, heard, strict=True)
        ]
    )
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    # Texts of one length need no mask.
    alone = pool(texts[0][None], None, pooling, around, heard[0][None])
    np.testing.assert_allclose(alone.numpy(), want[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.MEAN_TAIL])
def test_half_precision_states_are_summed_in_float32(pooling):
    # In bfloat16 a running sum of ones sticks at 256.
    states = torch.ones(1, 5000, 3, dtype=torch.bfloat16)
    mask = torch.ones(1, 5000, dtype=torch.bool)
    assert torch.equal(pool(states, mask, pooling), torch.ones(1, 3))


def test_mean_tail_leaves_out_the_first_token_behind_left_padding():
    states = torch.tensor([[[9.0], [100.0], [1.0], [3.0]]])
    mask = torch.tensor([[0, 1, 1, 1]])
    assert pool(states, mask, Pooling.MEAN_TAIL).item() == 2.0
    assert pool(states, mask, Pooling.FIRST).item() == 100.0
