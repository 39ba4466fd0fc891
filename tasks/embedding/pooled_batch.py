"""One batch of texts on its way through a model: its tokens, and what is pooled of each layer as it comes."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.embedding.forward import Backbone
from tasks.embedding.packed_attention import LengthGroup
from tasks.embedding.pooling import pool
from tasks.embedding.shared_prefix import SharedPrefix
from tasks.vocabulary import NormState, Pooling

Key = tuple[NormState, Pooling]
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
        words: Sequence[NDArray[np.int32]] | None = None,
    ) -> None:
        """ids: the tokens of each text, longest first; layers: how many are kept, 0 among them; around: of `Tokens`.

        prefix: the first tokens of each text, which are computed already; ids are those that follow.
        words: of `Tokens`, of these texts: the rows are these words then, text by text.
        """
        self._backbone = backbone
        self.prefix = prefix
        self._around = around
        self.groups = length_groups([len(each) for each in ids])
        self._words = None if words is None else _word_groups(ids, words, backbone.device)
        rows = len(ids) if words is None else sum(map(len, words))
        self._pooled = {
            key: torch.empty(layers, rows, backbone.hidden_size, device=backbone.device) for key in keys
        }
        self._norm_states = list(dict.fromkeys(norm_state for norm_state, _ in keys))
        packed = torch.from_numpy(np.concatenate(ids).astype(np.int64))
        if backbone.device.type == "cuda":
            packed = packed.pin_memory().to(backbone.device, non_blocking=True)
        self.tokens = packed.to(backbone.device)
        """int64 [T] on the model's device."""

    def take(self, layer: int, states: Tensor) -> None:
        """Pool one layer's states [T, D]."""
        backbone = self._backbone
        for norm_state in self._norm_states:
            has_passed = layer == backbone.layers and backbone.last_is_normed
            again = norm_state is NormState.FINAL_NORM and not has_passed
            of_state, before = states, None if self.prefix is None else self.prefix.states[layer]
            if again and backbone.final_norm:
                of_state = backbone.final_norm(states)
                before = None if before is None else backbone.final_norm(before)
            for key, into in self._pooled.items():
                if key[0] is norm_state and self._words is not None:
                    for rows, tokens in self._words:
                        into[layer][rows] = pool(of_state[tokens], None, key[1])
                elif key[0] is norm_state:
                    _pool_groups(of_state, before, self.groups, key[1], self._around, into[layer])

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


def length_groups(counts: Sequence[int]) -> list[LengthGroup]:
    """Neighbours of one length make a group."""
    groups: list[LengthGroup] = []
    for count in counts:
        if groups and groups[-1].length == count:
            groups[-1] = LengthGroup(groups[-1].start, groups[-1].texts + 1, count)
        else:
            groups.append(LengthGroup(groups[-1].stop if groups else 0, 1, count))
    return groups


def _pool_groups(
    states: Tensor,
    before: Tensor | None,
    groups: Sequence[LengthGroup],
    pooling: Pooling,
    around: tuple[int, int],
    into: Tensor,
) -> None:
    """states: [T, D] → into: [B, D]. before: [P, D], the states of what stands before every text."""
    row = 0
    for group in groups:
        texts = states[group.start : group.stop].unflatten(0, (group.texts, group.length))
        if before is not None and pooling is not Pooling.LAST:
            texts = torch.cat((before.expand(group.texts, -1, -1), texts), dim=1)
        into[row : row + group.texts] = pool(texts, None, pooling, around)
        row += group.texts


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
