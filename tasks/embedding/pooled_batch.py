"""One batch of texts on its way through a model: its tokens, and what is pooled of each layer as it comes."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.embedding.forward import Backbone
from tasks.embedding.packed_attention import LengthGroup
from tasks.embedding.pooling import POOLINGS, Joined, pool, pool_windows
from tasks.embedding.shared_prefix import SharedPrefix
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
    ) -> None:
        """ids: the tokens of each text, longest first; layers: how many are kept, 0 among them; around: of `Tokens`.

        prefix: the first tokens of each text, which are computed already; ids are those that follow.
        ranges: where some are windows of longer texts; they count the tokens of the prefix too.
        """
        self._backbone = backbone
        self.prefix = prefix
        self._around = around
        self._ranges = ranges
        self.groups = length_groups([len(each) for each in ids])
        self._pooled = {
            key: torch.empty(layers, len(ids), backbone.hidden_size, device=backbone.device) for key in keys
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
                if key[0] is norm_state:
                    ranges = None if self._ranges is None else self._ranges[key[1]]
                    _pool_groups(of_state, before, self.groups, key[1], self._around, into[layer], ranges)

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
    ranges: Sequence[tuple[int, int] | None] | None,
) -> None:
    """states: [T, D] → into: [B, D]. before: [P, D], the states of what stands before every text."""
    if POOLINGS[pooling].joined in (Joined.FIRST, Joined.LAST):
        ranges = None  # a window has the token, or it is left out afterwards
    row = 0
    for group in groups:
        texts = states[group.start : group.stop].unflatten(0, (group.texts, group.length))
        if before is not None and pooling is not Pooling.LAST:
            texts = torch.cat((before.expand(group.texts, -1, -1), texts), dim=1)
        of_group: Sequence[tuple[int, int] | None] = [None]
        if ranges is not None:
            of_group = ranges[row : row + group.texts]
        if None in of_group:
            into[row : row + group.texts] = pool(texts, None, pooling, around)
        pool_windows(texts, of_group, pooling, into[row : row + group.texts])
        row += group.texts


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
