"""From the hidden states of a text's tokens to one vector: one record and one pure function a pooling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from tasks.embedding.attention_weights import of_summary_token, received
from tasks.embedding.packed_attention import Sight
from tasks.vocabulary import Pooling


def mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the tokens of each text. See `pool` for shapes."""
    if mask is None:
        return states.sum(dim=1, dtype=torch.float32) / states.shape[1]
    kept = states.masked_fill(~mask[:, :, None], 0)
    return kept.sum(dim=1, dtype=torch.float32) / mask.sum(dim=1, keepdim=True)


def mean_tail(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the tokens after the first; of a one-token text, that token. See `pool` for shapes."""
    if mask is None:
        return mean(states[:, 1:] if states.shape[1] > 1 else states, None)
    at = torch.arange(mask.shape[1], device=mask.device)
    tail = mask & (at != _first_index(mask)[:, None])
    alone = mask.sum(dim=1, keepdim=True) == 1
    return mean(states, torch.where(alone, mask, tail))


def last(states: Tensor, mask: Tensor | None) -> Tensor:
    """The last token of each text. See `pool` for shapes."""
    if mask is None:
        return states[:, -1].float()
    return _rows(states, mask.shape[1] - 1 - _first_index(mask.flip(1)))


def first(states: Tensor, mask: Tensor | None) -> Tensor:
    """The first token of each text. See `pool` for shapes."""
    if mask is None:
        return states[:, 0].float()
    return _rows(states, _first_index(mask))


def maximum(states: Tensor, mask: Tensor | None) -> Tensor:
    """The largest value per dimension over the tokens of each text. See `pool` for shapes."""
    if mask is not None:
        states = states.masked_fill(~mask[:, :, None], float("-inf"))
    return states.amax(dim=1).float()


def weighted_mean(states: Tensor, mask: Tensor | None, weights: Tensor, before: int, after: int) -> Tensor:
    """Of the text's own tokens, or of all where it has none, and without the first where there is another.

    The first token is a sink of attention (Xiao et al. 2024, arXiv 2309.17453): what heads leave there says nothing of
    it, and in decoders its state is hundreds of times as large as others and the same in every text. Special tokens
    are sinks too, and those of a prompt are no part of the text. What is left is brought to sum 1 after the mean over
    heads, so that a head that looks at sinks alone says nothing. No attention on any of them, as where a window ends
    after them: all alike.
    """
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    else:
        states = states.masked_fill(~mask[:, :, None], 0)
    place, counts = mask.cumsum(dim=1) - 1, mask.sum(dim=1, keepdim=True)
    own = mask & (place >= before) & (place < counts - after)
    has_own = own.any(dim=1, keepdim=True)
    own = torch.where(has_own, own, mask)
    tail = own & (place > 0)
    own = torch.where(tail.any(dim=1, keepdim=True), tail, own)
    # What tokens before a text's own receive is not known where they are shared: without own ones all are alike.
    weights = weights.masked_fill(~has_own, 1).masked_fill(~own, 0)
    total = weights.sum(dim=1, keepdim=True)
    weights = torch.where(total > 0, weights / total, own / own.sum(dim=1, keepdim=True))
    return torch.bmm(weights[:, None], states.float())[:, 0]


class Joined(Enum):
    """How the embedding of a text comes of those of its windows (`windows.py`)."""

    MEAN = "mean"
    """Weighted by the tokens that each window gives."""
    MAXIMUM = "maximum"
    FIRST = "first"
    """That of the first window."""
    LAST = "last"


@dataclass(frozen=True)
class PoolingRecord:
    """What computes a pooling, and what sentence-transformers calls it."""

    function: Callable[..., Tensor]
    """Of states and mask, see `pool` for shapes; a mask, where there is one, is bool. With `weights`: of these too, and
    of how many tokens before and after each text are none of its own."""
    sentence_transformers: str | None
    """The flag in `1_Pooling/config.json`. None: it has no such pooling without code of its own, which would need
    `trust_remote_code`."""
    of_text: bool = False
    """It is given the text's own tokens alone; of a text that has none, all."""
    leaves_out: int = 0
    """So many first tokens, of a text that has more."""
    joined: Joined | None = None
    """None: it is not known how windows of one text make its embedding."""
    weights: Callable[[Tensor, Tensor, Sight], Tensor] | None = None
    """Of a mean that is weighted by attention: from queries [n, H, L, d] and keys [n, K, M, d] of the block that reads
    the layer, the weight of each token, float32 [n, M]."""


POOLINGS = {
    Pooling.MEAN: PoolingRecord(mean, "pooling_mode_mean_tokens", joined=Joined.MEAN),
    Pooling.MEAN_TAIL: PoolingRecord(mean_tail, None, leaves_out=1, joined=Joined.MEAN),
    Pooling.TEXT_MEAN: PoolingRecord(mean, None, of_text=True, joined=Joined.MEAN),
    Pooling.LAST: PoolingRecord(last, "pooling_mode_lasttoken", joined=Joined.LAST),
    Pooling.FIRST: PoolingRecord(first, "pooling_mode_cls_token", joined=Joined.FIRST),
    Pooling.MAX: PoolingRecord(maximum, "pooling_mode_max_tokens", joined=Joined.MAXIMUM),
    Pooling.ATTENTION_SUMMARY: PoolingRecord(weighted_mean, None, of_text=True, weights=of_summary_token),
    Pooling.ATTENTION_RECEIVED: PoolingRecord(weighted_mean, None, of_text=True, weights=received),
}


WORD_POOLINGS = (Pooling.FIRST, Pooling.MEAN, Pooling.LAST, Pooling.MAX)
"""Of a word's tokens, of which none is the text's first or special."""


def pool(
    states: Tensor,
    mask: Tensor | None,
    pooling: Pooling,
    around: tuple[int, int] = (0, 0),
    weights: Tensor | None = None,
) -> Tensor:
    """One embedding for each text, whichever side it is padded on.

    states: [B, T, D], any float dtype. mask: [B, T], true (or 1) at tokens, false (or 0) at padding; every text
    has at least one token, or its row is undefined. None: no padding at all. Returns float32 [B, D], accumulated
    in float32. Values at padding never matter, not even if they are not finite. around: how many tokens before and
    after each text are none of its own. weights: [B, T], at least 0, of a pooling that its record says is weighted by
    attention; they need not sum to 1.
    """
    record = POOLINGS[pooling]
    mask = None if mask is None else mask.bool()
    if record.weights is not None:
        assert weights is not None
        return record.function(states, mask, weights.float(), *around)
    if record.of_text and any(around):
        states, mask = _own(states, mask, *around)
    return record.function(states, mask)


def counted(pooling: Pooling, length: int, around: tuple[int, int]) -> tuple[int, int]:
    """Of a text of `length` tokens, those that a pooling is over: from, and up to. It has tokens of its own.

    around: as of `pool`.
    """
    record = POOLINGS[pooling]
    return (around[0], length - around[1]) if record.of_text else (min(record.leaves_out, length - 1), length)


def pool_windows(
    states: Tensor, ranges: Sequence[tuple[int, int] | None], pooling: Pooling, into: Tensor
) -> None:
    """Pool some tokens of each window: the mean of them, or their maximum; 0 where there are none.

    states: [B, T, D]. ranges: of each window from, and up to; a text without one is left alone. into: float32 [B, D].
    """
    how = maximum if POOLINGS[pooling].joined is Joined.MAXIMUM else mean
    for each in dict.fromkeys(ranges):
        if each is not None:
            rows = [row for row, other in enumerate(ranges) if other == each]
            into[rows] = how(states[rows, each[0] : each[1]], None) if each[1] > each[0] else 0.0


def _own(states: Tensor, mask: Tensor | None, before: int, after: int) -> tuple[Tensor, Tensor | None]:
    if mask is None:
        stop = states.shape[1] - after
        return (states[:, before:stop] if before < stop else states), None
    place, counts = mask.cumsum(dim=1) - 1, mask.sum(dim=1, keepdim=True)
    own = mask & (place >= before) & (place < counts - after)
    return states, torch.where(own.any(dim=1, keepdim=True), own, mask)


def _first_index(mask: Tensor) -> Tensor:
    return mask.int().argmax(dim=1)


def _rows(states: Tensor, index: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), index].float()
