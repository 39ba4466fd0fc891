"""How much of a block's attention falls on each token of a text: what poolings by attention weigh the tokens with."""

import torch
from torch import Tensor

from tasks.embedding.attention_measures import MOST_HELD, attention_scores
from tasks.embedding.packed_attention import Sight, allowed


def of_summary_token(q: Tensor, k: Tensor, sight: Sight) -> Tensor:
    """What the token attends to that stands for the text, mean over heads: float32 [n, M], rows that sum to 1.

    q: [n, H, L, d], the queries of the last L of the M tokens of n texts; k: [n, K, M, d], any float dtype; K divides
    H. Where attention is causal it is the last token, which alone has seen the whole text; else the first, `[CLS]` in
    BERT-like encoders: there the last is a `[SEP]`, on which heads park what they have no use for (Clark et al. 2019,
    arXiv 1906.04341). One row of queries is all that is computed.
    """
    at = q.shape[2] - 1 if sight.causal else 0
    return _attention(q, k, sight, slice(at, at + 1)).sum(dim=(1, 2, 3)) / q.shape[1]


def received(q: Tensor, k: Tensor, sight: Sight) -> Tensor:
    """Attention that each token receives, mean over heads and over those of the L tokens that may see it: [n, M], 0–1.

    See `of_summary_token` for the arguments. Over all tokens alike, the sum of a column, it is the significance of
    Goyal et al. 2020 (arXiv 2001.08950) and of Kim et al. 2022 (arXiv 2107.00910), both of encoders. Where attention is
    causal the first tokens are seen by more, and would weigh more for that alone.
    """
    texts, heads, length = q.shape[:3]
    known = k.shape[2]
    at_once = max(MOST_HELD // (heads * length * known), 1)
    rows = max(MOST_HELD // (heads * known), 1)
    found = torch.zeros(texts, known, device=q.device)
    for start in range(0, texts, at_once):
        some = slice(start, start + at_once)
        for first in range(0, length, rows):
            found[some] += _attention(q[some], k[some], sight, slice(first, first + rows)).sum(dim=(1, 2, 3))
    seen_by = allowed(length, known, known, sight.causal, sight.window, q.device).sum(dim=0)
    # What no token of these sees is before a window: none of the text's own.
    return found / (heads * seen_by.clamp_min(1))


def _attention(q: Tensor, k: Tensor, sight: Sight, rows: slice) -> Tensor:
    """Of the queries at `rows`: float32 [n, K, H / K, Q, M]."""
    length, known = q.shape[2], k.shape[2]
    may_see = allowed(length, known, known, sight.causal, sight.window, q.device)[rows]
    return attention_scores(q[:, :, rows], k, sight, may_see).softmax(dim=-1)
