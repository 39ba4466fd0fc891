"""Attention over texts that are laid end to end: each is attended to by itself, whatever lies beside it."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tasks.embedding.shared_prefix import SharedPrefix
from tasks.embedding.varlen_attention import HALF, Ends, attend_in_one_call

log = logging.getLogger(__name__)

PACKED = "layerscout_packed"
"""The name that transformers knows `attend` by."""

# Tokens up to which two products are faster on a CPU than torch's fused kernel.
_SHORT = 256
# Values that an AVX-512 register holds in bfloat16.
_VECTOR = 32
# A call for all lengths may differ by so much of the largest value: rounding in half precision.
_CLOSE = 2e-2
# It is tried with more tokens than it looks at at a time, and a window of as many.
_TRIED, _TRIED_WINDOW = (300, 9, 9, 1), 150
# Keys of a prefix, repeated for each text, that it may be given for each token.
_MOST_REPEATED = 4


@dataclass(frozen=True)
class LengthGroup:
    """`texts` texts of `length` tokens each, laid end to end from token `start`."""

    start: int
    texts: int
    length: int

    @property
    def stop(self) -> int:
        """One past the last token."""
        return self.start + self.texts * self.length


def length_groups(counts: Sequence[int]) -> list[LengthGroup]:
    """Neighbours of one length make a group."""
    groups: list[LengthGroup] = []
    for count in counts:
        if groups and groups[-1].length == count:
            groups[-1] = LengthGroup(groups[-1].start, groups[-1].texts + 1, count)
        else:
            groups.append(LengthGroup(groups[-1].stop if groups else 0, 1, count))
    return groups


def text_lengths(groups: Sequence[LengthGroup]) -> list[int]:
    """The other way round: of each text, in order."""
    return [group.length for group in groups for _ in range(group.texts)]


class LastLayerReached(BaseException):
    """Ends a forward pass whose further blocks nobody asked for. No error, so that no handler of errors takes it."""


@dataclass(frozen=True)
class Sight:
    """How an attention weighs what its tokens see: the scale of its scores, and what of a text a token may see."""

    scale: float
    causal: bool
    window: int | None
    softcap: float | None


Look = Callable[[int, LengthGroup, Tensor, Tensor, Sight], None]
"""Is given how many blocks have run, and of each group of texts the queries [n, H, L, d] and keys [n, K, M, d] of the
block that runs now. M is L, or more by the tokens of a shared prefix: the queries are of the last L tokens."""


@dataclass(frozen=True)
class ForwardPass:
    """What hooks and attention have to know of the forward pass that their thread is in.

    `take(layer, states)` is handed each layer up to `last`, states [T, D] of the `groups` end to end. `prefix`: what
    every text sees before its own tokens; `records`: what the tokens of this pass leave for others to see. `look`:
    who looks at what texts attend to.
    """

    groups: Sequence[LengthGroup]
    take: Callable[[int, Tensor], None]
    last: int
    calls: Counter[nn.Module] = field(default_factory=Counter)
    """How often each block has run."""
    prefix: SharedPrefix | None = None
    records: SharedPrefix | None = None
    look: Look | None = None
    ends: dict[torch.device, Ends] = field(default_factory=dict)

    def ends_on(self, device: torch.device) -> Ends:
        """Of the texts of this pass, made once."""
        if device not in self.ends:
            self.ends[device] = Ends.of(
                text_lengths(self.groups), 0 if self.prefix is None else self.prefix.length, device
            )
        return self.ends[device]

    def reached(self, layer: int, states: Tensor) -> None:
        """Hand out a layer's states [..., D]; `LastLayerReached` where it is the last."""
        if states.dim() == 3 and states.shape[0] == self.groups[0].texts and len(self.groups) == 1:
            # Some families fill texts up to whole blocks of attention inside.
            states = states[:, : self.groups[0].length]
        self.take(layer, states.reshape(-1, states.shape[-1]))
        if layer == self.last:
            raise LastLayerReached


current_pass: ContextVar[ForwardPass] = ContextVar("current_pass")
"""Of this thread: each computes a batch of its own."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside each text of the packed sequence. query: [1, H, T, d]; key, value: [1, H or fewer, T, d]."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    sight = Sight(scale, causal, sliding_window, softcap)
    current = current_pass.get()
    if current.records is not None:
        if not causal:
            raise ValueError("tokens that see what follows them are not the same in every text")
        current.records.keep_attention(module, key, value)
    before = None if current.prefix is None else current.prefix.keys_and_values[module]
    repeated = 0 if before is None else before[0].shape[1] * sum(group.texts for group in current.groups)
    few_keys = repeated <= _MOST_REPEATED * query.shape[2]
    if current.look is None and few_keys and _serves_all_lengths(query, key, sight):
        ends = current.ends_on(query.device)
        return attend_in_one_call(query, key, value, before, ends, scale, causal, sliding_window), None
    blocks_run = current.calls.total()
    look = None if current.look is None else partial(current.look, blocks_run)
    return _attend_by_length(query, key, value, before, current.groups, sight, look), None


def _attend_by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    before: tuple[Tensor, Tensor] | None,
    groups: Sequence[LengthGroup],
    sight: Sight,
    look: Callable[[LengthGroup, Tensor, Tensor, Sight], None] | None = None,
) -> Tensor:
    """[1, T, H, d], the layout that a model goes on with. before: keys and values [K, P, d] of a prefix."""
    out = torch.empty_like(query.transpose(1, 2))
    scale, causal, softcap = sight.scale, sight.causal, sight.softcap
    for group in groups:
        q, k, v, into = (_texts_of(group, x) for x in (query, key, value, out.transpose(1, 2)))
        if before is not None:
            k, v = (
                torch.cat((old.expand(group.texts, -1, -1, -1), new), dim=2)
                for old, new in zip(before, (k, v), strict=True)
            )
        if look is not None:
            look(group, q, k, sight)
        keys = k.shape[2]
        window = sight.window if sight.window is not None and keys > sight.window else None
        if softcap is not None or (q.device.type == "cpu" and keys <= _SHORT):
            _attend_by_products(q, k, v, into, scale, causal, window, softcap)
        elif window is not None or keys > group.length:
            seen = allowed(group.length, keys, keys, causal, window, q.device)
            into.copy_(scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True))
        else:
            causal_now = causal and group.length > 1
            into.copy_(
                scaled_dot_product_attention(q, k, v, is_causal=causal_now, scale=scale, enable_gqa=True)
            )
    return out


def _serves_all_lengths(query: Tensor, key: Tensor, sight: Sight) -> bool:
    """Whether one call may attend to texts of all lengths: on a GPU whose kernel for it was seen to be right."""
    if query.device.type != "cuda" or query.dtype not in HALF or sight.softcap is not None:
        return False
    windowed = sight.window is not None
    return _is_right(
        query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3], sight.causal, windowed
    )


@cache
def _is_right(
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    size: int,
    causal: bool,
    windowed: bool,
) -> bool:
    """Whether one call gives what a call a length gives, on a few texts of random numbers."""
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype)

    sight = Sight(size**-0.5, causal, _TRIED_WINDOW if windowed else None, None)
    groups, tokens, prefix = length_groups(_TRIED), sum(_TRIED), 5
    query, key, value = (numbers(1, count, tokens, size) for count in (heads, kv_heads, kv_heads))
    befores: list[tuple[Tensor, Tensor] | None] = [None]
    if causal:  # only then is there a prefix
        befores += [(numbers(kv_heads, prefix, size), numbers(kv_heads, prefix, size))]
    for before in befores:
        ends = Ends.of(_TRIED, 0 if before is None else prefix, device)
        try:
            found = attend_in_one_call(query, key, value, before, ends, sight.scale, causal, sight.window)
        except torch.OutOfMemoryError:
            raise  # it says nothing of the kernel
        except RuntimeError as error:
            log.warning("Attention is computed length by length: %s", error)
            return False
        wanted = _attend_by_length(query, key, value, before, groups, sight)
        if not bool((found - wanted).abs().max() <= _CLOSE * wanted.abs().max()):
            log.warning("Attention is computed length by length: torch's call for all of them differs here")
            return False
    return True


def _texts_of(group: LengthGroup, packed: Tensor) -> Tensor:
    """[1, H, T, d] → a view [texts, H, length, d]."""
    return packed[0, :, group.start : group.stop].unflatten(1, (group.texts, group.length)).transpose(0, 1)


def _attend_by_products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    into: Tensor,
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
) -> None:
    """Attention of short texts as two batched matrix products. q, into: [n, H, L, d]; k, v: [n, K, M, d], K divides H.

    The queries are of the last L of M tokens.
    On a CPU torch's fused kernel takes longer for texts as short as `_SHORT`. The query heads that share a key head
    are rows of one product; keys are padded to whole vectors, without which softmax is slow.
    """
    texts, heads, length, size = q.shape
    kv_heads, known = k.shape[1:3]
    group = heads // kv_heads
    padded = -(-known // _VECTOR) * _VECTOR
    queries = q.unflatten(1, (kv_heads, group)).transpose(2, 3).reshape(-1, length * group, size)
    keys = k.new_zeros(texts, kv_heads, padded, size)
    values = torch.zeros_like(keys)
    keys[:, :, :known] = k
    values[:, :, :known] = v
    bias = _bias(length, known, padded, group, causal, window, q.dtype, q.device)
    if softcap is None:
        scores = torch.baddbmm(bias, queries, keys.flatten(0, 1).transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(queries, keys.flatten(0, 1).transpose(1, 2)).mul_(scale / softcap)
        scores = scores.tanh_().mul_(softcap).add_(bias)
    attended = torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1))
    into.unflatten(1, (kv_heads, group)).copy_(
        attended.view(texts, kv_heads, length, group, size).transpose(2, 3)
    )


@lru_cache(maxsize=64)
def _bias(
    length: int,
    known: int,
    padded: int,
    group: int,
    causal: bool,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """0 where a query may see a key, else −∞: [1, length · group, padded], each query's row `group` times."""
    seen = allowed(length, known, padded, causal, window, device)
    bias = torch.zeros(length, padded, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))
    return bias.repeat_interleave(group, dim=0)[None]


def allowed(
    length: int, known: int, padded: int, causal: bool, window: int | None, device: torch.device
) -> Tensor:
    """Which key (column) each query (row) may see: bool [length, padded]. A window holds the query's own token.

    The queries are of the last `length` of `known` tokens.
    """
    return visible(torch.arange(known - length, known, device=device), known, padded, causal, window)


def visible(places: Tensor, known: int, padded: int, causal: bool, window: int | None) -> Tensor:
    """The same of the queries at `places`, int64 [Q], counted from the first of `known` tokens: bool [Q, padded]."""
    keys = torch.arange(padded, device=places.device)
    back = places[:, None] - keys
    seen = (back >= 0) if causal else (keys < known).expand(len(places), padded)
    return seen if window is None else seen & (back.abs() < window)
