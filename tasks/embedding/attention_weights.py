"""How much of a block's attention falls on each token of a text: what poolings by attention weigh the tokens with."""

import torch
from torch import Tensor

from tasks.embedding.attention_measures import MOST_HELD, attention_scores
from tasks.embedding.packed_attention import Sight, visible


def of_summary_token(q: Tensor, k: Tensor, sight: Sight) -> Tensor:
    """What the token attends to that stands for the text, mean over heads: float32 [n, M], rows that sum to 1.

    q: [n, H, L, d], the queries of the last L of the M tokens of n texts; k: [n, K, M, d], any float dtype; K divides
    H. Where attention is causal it is the last token, which alone has seen the whole text; else the first, `[CLS]` in
    BERT-like encoders: there the last is a `[SEP]`, on which heads park what they have no use for (Clark et al. 2019,
    arXiv 1906.04341). One row of queries is all that is computed.
    """
    at = q.shape[2] - 1 if sight.causal else 0
    attention, _ = _attention(q, k, sight, at, at + 1)
    return attention.sum(dim=(1, 2, 3)) / q.shape[1]


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
        seen_by = torch.zeros(known, dtype=torch.int64, device=q.device)
        for first in range(0, length, rows):
            attention, may_see = _attention(q[some], k[some], sight, first, min(first + rows, length))
            found[some] += attention.sum(dim=(1, 2, 3))
            seen_by += may_see.sum(dim=0)
        # What none of these tokens sees lies before a window, and is none of the text's own.
        found[some] /= heads * seen_by.clamp_min(1)
    return found


def _attention(q: Tensor, k: Tensor, sight: Sight, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Of queries `start` to `stop`, Q of them: float32 [n, K, H / K, Q, M], and what each may see, bool [Q, M]."""
    known = k.shape[2]
    places = torch.arange(start, stop, device=q.device) + (known - q.shape[2])
    may_see = visible(places, known, known, sight.causal, sight.window)
    return attention_scores(q[:, :, start:stop], k, sight, may_see).softmax(dim=-1), may_see
