"""What the attention of a block looks like: one number a text and measure, from its queries and keys.

Fused attention never writes its probabilities down. Of a few texts they are computed once more here, in float32, and
looked at as they are made: a part of the texts and tokens at a time, so that long texts need no more memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.embedding.packed_attention import Sight, allowed

# Probabilities of all heads that are held at a time: 64 MiB.
MOST_HELD = 1 << 24


@dataclass(frozen=True)
class Seen:
    """What Q tokens of n texts of L tokens attend to in one block of H heads, of those tokens that see more than one.

    Means over heads, float32: `attention` [n, Q, L], rows that sum to 1; `entropy` [n, Q] in nats. `visible`: [Q], how
    many tokens each may see; `distance`: [Q, L], tokens that lie between, the other one counted; `marks`: bool [n, L],
    the tokens that carry no content of their own.
    """

    attention: Tensor
    entropy: Tensor
    heads: int
    visible: Tensor
    distance: Tensor
    marks: Tensor


Measure = Callable[[Seen], Tensor]

MEASURES: dict[str, Measure] = {}
"""Name → function to float32 [n, Q], whose mean over all tokens that see more than one is the text's value."""


def measure(function: Measure) -> Measure:
    """Enter a function into MEASURES under its own name."""
    MEASURES[function.__name__] = function
    return function


@measure
def entropy(seen: Seen) -> Tensor:
    """Entropy of a head's attention over the logarithm of how many tokens it may fall on, 0–1; 1: on all alike."""
    return seen.entropy.clamp_min(0.0) / seen.visible.log()


@measure
def sink_mass(seen: Seen) -> Tensor:
    """Share of attention on the text's first token, 0–1 (attention sinks: Xiao et al. 2024, arXiv 2309.17453)."""
    return seen.attention[:, :, 0]


@measure
def distance(seen: Seen) -> Tensor:
    """Mean distance of what is attended to, in tokens; back alone where attention is causal, else both ways."""
    return (seen.attention * seen.distance).sum(dim=-1)


@measure
def distance_share(seen: Seen) -> Tensor:
    """The same as a share of the longest distance in the text, 0–1."""
    return distance(seen) / (seen.attention.shape[-1] - 1)


@measure
def function_words(seen: Seen) -> Tensor:
    """Share of attention on punctuation and English function words, 0–1; the texts' own share of them is no part."""
    return (seen.attention * seen.marks[:, None]).sum(dim=-1)


@measure
def head_divergence(seen: Seen) -> Tensor:
    """How differently heads attend: their Jensen–Shannon divergence (Lin 1991, doi 10.1109/18.61115), 0–1.

    Entropy of the heads' mean less the mean of their entropies, over the most that it can be: the logarithm of how many
    heads there are, or of how many tokens a head may see where these are fewer. One head: 0.
    """
    most = seen.visible.clamp_max(seen.heads).log()
    spread = torch.special.entr(seen.attention).sum(dim=-1) - seen.entropy
    return torch.where(most > 0, spread / most, 0.0).clamp_min(0.0)


def measure_texts(q: Tensor, k: Tensor, sight: Sight, marks: Tensor) -> Tensor:
    """Every measure of n texts of L tokens, in the order of MEASURES: float64 [measures, n].

    q: [n, H, L, d], k: [n, K, L, d], any float dtype; K divides H. marks: bool [n, L]. A text is the mean over those of
    its tokens that see more than one; NaN where none does, as of a text of one token.
    """
    texts, heads, length = q.shape[:3]
    may_see = allowed(length, length, length, sight.causal, sight.window, q.device)
    looking = (may_see.sum(dim=1) > 1).nonzero()[:, 0]
    at_once = max(MOST_HELD // (heads * length * length), 1)
    tokens = max(MOST_HELD // (heads * length), 1)
    totals = torch.zeros(len(MEASURES), texts, dtype=torch.float64, device=q.device)
    for start in range(0, texts, at_once):
        some = slice(start, start + at_once)
        for rows in looking.split(tokens):
            seen = _seen(q[some, :, rows], k[some], sight, may_see[rows], marks[some], rows)
            for place, function in enumerate(MEASURES.values()):
                totals[place, some] += function(seen).sum(dim=1, dtype=torch.float64)
    return totals / len(looking) if len(looking) else totals.fill_(math.nan)


def _seen(q: Tensor, k: Tensor, sight: Sight, may_see: Tensor, marks: Tensor, rows: Tensor) -> Seen:
    """q: [n, H, Q, d], the queries of the tokens at `rows` [Q]; may_see: bool [Q, L]."""
    heads, length = q.shape[1], k.shape[2]
    scores = attention_scores(q, k, sight, may_see)
    probabilities = scores.softmax(dim=-1)
    # −Σ p log p, where log p = score − log Σ exp(score).
    told = scores.logsumexp(dim=-1) - (probabilities * scores).sum(dim=-1)
    places = torch.arange(length, device=q.device)
    return Seen(
        attention=probabilities.mean(dim=(1, 2)),
        entropy=told.mean(dim=(1, 2)),
        heads=heads,
        visible=may_see.sum(dim=1).float(),
        distance=(rows[:, None] - places).abs().float(),
        marks=marks,
    )


def attention_scores(q: Tensor, k: Tensor, sight: Sight, may_see: Tensor) -> Tensor:
    """What a softmax makes attention of, in float32: [n, K, H / K, Q, M].

    q: [n, H, Q, d], k: [n, K, M, d], any float dtype; K divides H. may_see: bool [Q, M], of each query a token at the
    least.
    """
    heads, kv_heads = q.shape[1], k.shape[1]
    queries = q.float().unflatten(1, (kv_heads, heads // kv_heads))
    scores = (queries @ k.float()[:, :, None].transpose(-1, -2)).mul_(sight.scale)
    if sight.softcap is not None:
        scores = scores.div_(sight.softcap).tanh_().mul_(sight.softcap)
    # Finite: 0 · −∞ would be no number.
    return scores.masked_fill_(~may_see, torch.finfo(scores.dtype).min)
