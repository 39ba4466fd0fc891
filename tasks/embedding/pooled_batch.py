"""One batch of texts on its way through a model: its tokens, and what is pooled of each layer as it comes."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.embedding.forward import Backbone
from tasks.embedding.packed_attention import (
    LastLayerReached,
    LengthGroup,
    Look,
    Sight,
    length_groups,
    text_lengths,
)
from tasks.embedding.pooling import POOLINGS, Joined, pool, pool_windows
from tasks.embedding.segments import REDUCED, REDUCING, Segments
from tasks.embedding.shared_prefix import SharedPrefix
from tasks.embedding.transfer import sent
from tasks.vocabulary import NormState, Pooling

Key = tuple[NormState, Pooling]
Ranges = Mapping[Pooling, Sequence[tuple[int, int] | None]]
"""For each pooling, of each sequence of a batch, the tokens that are pooled: from, and up to; None: a whole text."""
Pooled = tuple[dict[Key, Tensor], torch.cuda.Event | None]
"""Embeddings on the CPU, float32 [layers, texts of the batch, D] for each key, and the event that says that they have
arrived; None where they have."""


class PooledBatch:
    """The tokens of some texts, and their embeddings as far as the layers have come."""

    def __init__(
        self,
        backbone: Backbone,
        ids: Sequence[NDArray[np.int32]],
        keys: Sequence[Key],
        layers: int,
        around: tuple[int, int] = (0, 0),
        prefix: SharedPrefix | None = None,
        ranges: Ranges | None = None,
        words: Sequence[NDArray[np.int32]] | None = None,
    ) -> None:
        """ids: the tokens of each text, longest first; layers: how many are kept, 0 among them; around: of `Tokens`.

        prefix: the first tokens of each text, which are computed already; ids are those that follow.
        ranges: where some are windows of longer texts; they count the tokens of the prefix too.
        words: of `Tokens`, of these texts: the rows are these words then, text by text.
        """
        self._backbone = backbone
        self.prefix = prefix
        self._around = around
        self._ranges = ranges
        self.groups = length_groups([len(each) for each in ids])
        rows = accumulate((group.texts for group in self.groups), initial=0)
        self._row_of = dict(zip(self.groups, rows, strict=False))
        self._words = None if words is None else _word_groups(ids, words, backbone.device)
        embedded = len(ids) if words is None else sum(map(len, words))
        self._pooled = {
            key: torch.empty(layers, embedded, backbone.hidden_size, device=backbone.device) for key in keys
        }
        self._norm_states = list(dict.fromkeys(norm_state for norm_state, _ in keys))
        self._last = layers - 1
        self._weighted = weighted(keys)
        self._segments: dict[tuple[Pooling, torch.device], Segments] = {}
        # The layer taken last, its states where attention is to weigh them, and those of what is before every text.
        self._layer = 0
        self._states: Tensor | None = None
        self._before: dict[NormState, Tensor | None] = {}
        self._weights: dict[tuple[Pooling, LengthGroup], Tensor] = {}
        self.tokens = sent(torch.from_numpy(np.concatenate(ids).astype(np.int64)), backbone.device)
        """int64 [T] on the model's device."""

    @property
    def look(self) -> Look | None:
        """For a forward pass up to `reach`: weighs the layer taken last by the attention of the block that reads it.

        `LastLayerReached` where that layer is the last one kept. None where no pooling asks for attention.
        """
        return self._weigh if self._weighted else None

    def take(self, layer: int, states: Tensor) -> None:
        """Pool one layer's states [T, D]; what is weighted by attention once its block has told of it."""
        self._layer = layer
        for norm_state in self._norm_states:
            of_state = self._in_norm_state(norm_state, states)
            before = None if self.prefix is None else self.prefix.states[layer]
            before = None if before is None else self._in_norm_state(norm_state, before)
            self._before[norm_state] = before
            for key, into in self._pooled.items():
                if key[0] is norm_state and self._words is not None:
                    for of_words, tokens in self._words:
                        pooled = pool(of_state[tokens.to(of_state.device)], None, key[1])
                        into[layer][of_words] = pooled.to(into.device)
                elif key[0] is norm_state and key[1] not in self._weighted:
                    self._pool(of_state, before, key[1], into[layer])
        if self._weighted:
            self._states = states
            if layer == self._backbone.layers:
                # No block reads it: as its own has attended.
                for group in self.groups:
                    self._pool_weighted(group)

    def _pool(self, states: Tensor, before: Tensor | None, pooling: Pooling, into: Tensor) -> None:
        """states: [T, D] → into: [B, D]. before: [P, D], the states of what stands before every text."""
        ranges = None if self._ranges is None else self._ranges[pooling]
        if states.device.type not in REDUCING or POOLINGS[pooling].function not in REDUCED:
            _pool_groups(states, before, self.groups, pooling, self._around, into, ranges)
            return
        there = pooling, states.device  # layers may be spread over several
        if there not in self._segments:
            prefix = 0 if before is None else len(before)
            lengths = text_lengths(self.groups)
            self._segments[there] = Segments(pooling, lengths, prefix, self._around, ranges, states.device)
        into.copy_(self._segments[there].pool(states, before))

    def _in_norm_state(self, norm_state: NormState, states: Tensor) -> Tensor:
        """Of the layer taken last, some tokens' states [..., D] as they are pooled."""
        backbone = self._backbone
        has_passed = self._layer == backbone.layers and backbone.last_is_normed
        if norm_state is NormState.FINAL_NORM and not has_passed and backbone.final_norm:
            normed: Tensor = backbone.final_norm(states)
            return normed
        return states

    def _weigh(self, _: int, group: LengthGroup, q: Tensor, k: Tensor, sight: Sight) -> None:
        for pooling in self._weighted:
            weigh = POOLINGS[pooling].weights
            assert weigh is not None
            self._weights[pooling, group] = weigh(q, k, sight)
        self._pool_weighted(group)
        if self._layer == self._last and group is self.groups[-1]:
            raise LastLayerReached

    def _pool_weighted(self, group: LengthGroup) -> None:
        """A group of the layer taken last."""
        row = self._row_of[group]
        assert self._states is not None
        states = self._states[group.start : group.stop].unflatten(0, (group.texts, group.length))
        for norm_state in self._norm_states:
            texts = _after(self._before[norm_state], self._in_norm_state(norm_state, states))
            for pooling in self._weighted:
                into = self._pooled[norm_state, pooling][self._layer]
                # A block may be on another device than the one that made what it reads.
                weights = self._weights[pooling, group].to(texts.device)
                into[row : row + group.texts] = pool(texts, None, pooling, self._around, weights)

    def start_copy(self) -> Pooled:
        """Embeddings on their way to the CPU. From a GPU on a stream of its own, beside the next batch."""
        device = self._backbone.device
        if device.type != "cuda":
            return {key: values.cpu() for key, values in self._pooled.items()}, None
        stream = _copy_stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        pinned = {key: torch.empty(values.shape, pin_memory=True) for key, values in self._pooled.items()}
        with torch.cuda.stream(stream):
            for key, values in self._pooled.items():
                pinned[key].copy_(values, non_blocking=True)
                # Its memory must not be used again before the other stream has read it.
                values.record_stream(stream)
            copied = torch.cuda.Event()
            copied.record()
        return pinned, copied


def weighted(keys: Sequence[Key]) -> list[Pooling]:
    """Those of the poolings that are weighted by attention, each once."""
    poolings = dict.fromkeys(pooling for _, pooling in keys)
    return [each for each in poolings if POOLINGS[each].weights is not None]


def reach(backbone: Backbone, keys: Sequence[Key], last: int) -> int:
    """The layer that a pass makes for embeddings up to layer `last`: one more where attention on that is asked for.

    Of the last block no more is run than its queries and keys: see `PooledBatch.look`.
    """
    return min(last + 1, backbone.layers) if weighted(keys) else last


def arrived(pooled: Pooled) -> dict[Key, Tensor]:
    """The embeddings, once they are on the CPU."""
    values, copied = pooled
    if copied is not None:
        copied.synchronize()
    return values


def _word_groups(
    ids: Sequence[NDArray[np.int32]], words: Sequence[NDArray[np.int32]], device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Words of one number of tokens together: their rows int64 [n], and their tokens in the batch, [n, length]."""
    starts = np.cumsum([0, *(len(each) for each in ids)])[:-1]
    spans = np.concatenate([each + start for each, start in zip(words, starts, strict=True)])
    lengths = spans[:, 1] - spans[:, 0]
    groups = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        tokens = spans[rows, :1] + np.arange(length)
        groups.append((torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)))
    return groups


def _pool_groups(
    states: Tensor,
    before: Tensor | None,
    groups: Sequence[LengthGroup],
    pooling: Pooling,
    around: tuple[int, int],
    into: Tensor,
    ranges: Sequence[tuple[int, int] | None] | None,
) -> None:
    """states: [T, D] → into: [B, D]. before: [P, D], the states of what stands before every text."""
    if POOLINGS[pooling].joined in (Joined.FIRST, Joined.LAST):
        ranges = None  # a window has the token, or it is left out afterwards
    row = 0
    for group in groups:
        texts = states[group.start : group.stop].unflatten(0, (group.texts, group.length))
        texts = _after(None if pooling is Pooling.LAST else before, texts)
        of_group: Sequence[tuple[int, int] | None] = [None]
        if ranges is not None:
            of_group = ranges[row : row + group.texts]
        if None in of_group:
            into[row : row + group.texts] = pool(texts, None, pooling, around)
        pool_windows(texts, of_group, pooling, into[row : row + group.texts])
        row += group.texts


def _after(before: Tensor | None, texts: Tensor) -> Tensor:
    """before: [P, D] or None, texts: [n, L, D] → [n, P + L, D]."""
    return texts if before is None else torch.cat((before.expand(len(texts), -1, -1), texts), dim=1)


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
