"""Pooling texts of all lengths at once: one reduction over the tokens of a batch, in the place of one a length.

On a GPU every call costs a launch, and a batch has some hundred lengths. On a CPU a call a length is as fast, and what
it gives does not depend on the other texts.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from tasks.embedding.pooling import POOLINGS, Joined, counted, first, last, maximum, mean, mean_tail
from tasks.embedding.transfer import sent
from tasks.vocabulary import Pooling

REDUCING = ("cuda", "meta")
"""Devices that have such a reduction and gain by it; Apple's has none."""
REDUCED = (mean, mean_tail, maximum, first, last)
"""The functions of `POOLINGS` that are done so. Every other one is called length by length, whatever the device."""

Span = tuple[int, int]
"""Of a text's tokens, those from, and up to; what stands before all texts is counted too."""


class Segments:
    """Which tokens of each of B texts, that lie end to end, one pooling is over."""

    def __init__(
        self,
        pooling: Pooling,
        lengths: Sequence[int],
        prefix: int,
        around: tuple[int, int],
        ranges: Sequence[Span | None] | None,
        device: torch.device,
    ) -> None:
        """lengths: of each text without the `prefix` tokens that stand before every one; around: as of `pool`.

        ranges: of each text, where some are windows of longer ones, the tokens that are pooled; None: what is usual.
        """
        self.pooling = pooling
        self._lengths, self._prefix, self._device = lengths, prefix, device
        record = POOLINGS[pooling]
        usual = [_usual(pooling, prefix + length, around) for length in lengths]
        if ranges is None or record.joined in (Joined.FIRST, Joined.LAST):
            ranges = [None] * len(lengths)  # a window has the token, or it is left out afterwards
        self._spans = [own if asked is None else asked for own, asked in zip(usual, ranges, strict=True)]

    def pool(self, states: Tensor, before: Tensor | None) -> Tensor:
        """float32 [B, D] of states [T, D] and of those of the prefix, [P, D]; 0 where no token is pooled."""
        if self.pooling is Pooling.FIRST and before is not None:
            return before[:1].float().expand(len(self._lengths), -1)
        if self.pooling in (Pooling.FIRST, Pooling.LAST):
            return states[self._places].float()
        highest = POOLINGS[self.pooling].joined is Joined.MAXIMUM
        # A gap, a text's tokens, the next gap …: every other row is a text's.
        reduced = torch.segment_reduce(
            states.float(), "max" if highest else "sum", lengths=self._parts, axis=0, unsafe=True
        )[1::2]
        for (start, stop), rows in self._of_prefix:
            assert before is not None
            of_prefix = before[start:stop].float()
            if highest:
                reduced[rows] = torch.maximum(reduced[rows], of_prefix.amax(dim=0))
            else:
                reduced[rows] += of_prefix.sum(dim=0)
        return reduced.masked_fill(self._empty, 0.0) if highest else reduced / self._counts

    @cached_property
    def _places(self) -> Tensor:
        """int64 [B]: the first token of each text, or its last one."""
        ends = list(accumulate(self._lengths))
        if self.pooling is Pooling.FIRST:
            ends = [end - length + 1 for end, length in zip(ends, self._lengths, strict=True)]
        return sent(torch.tensor(ends).sub_(1), self._device)

    @cached_property
    def _parts(self) -> Tensor:
        """int64 [2 · B + 1]: how many tokens are in no text's span, in the first one's, in none …; T in all."""
        parts, read, start = [], 0, 0
        for (begin, stop), length in zip(self._spans, self._lengths, strict=True):
            own_first, own_stop = max(begin - self._prefix, 0), max(stop - self._prefix, 0)
            own_stop = max(own_stop, own_first)
            parts += [start + own_first - read, own_stop - own_first]
            read = start + own_stop
            start += length
        return sent(torch.tensor([*parts, start - read]), self._device)

    @cached_property
    def _of_prefix(self) -> list[tuple[Span, Tensor]]:
        """Which tokens of the prefix are pooled too, and for which texts, int64 [n]."""
        rows: dict[Span, list[int]] = {}
        for row, (start, stop) in enumerate(self._spans):
            if start < min(stop, self._prefix):
                rows.setdefault((start, min(stop, self._prefix)), []).append(row)
        return [(span, sent(torch.tensor(of_span), self._device)) for span, of_span in rows.items()]

    @cached_property
    def _counts(self) -> Tensor:
        """float32 [B, 1]: how many tokens are pooled; 1 where none is."""
        counts = [max(stop - start, 1) for start, stop in self._spans]
        return sent(torch.tensor(counts, dtype=torch.float32)[:, None], self._device)

    @cached_property
    def _empty(self) -> Tensor:
        """bool [B, 1]."""
        return sent(torch.tensor([stop <= start for start, stop in self._spans])[:, None], self._device)


def _usual(pooling: Pooling, length: int, around: tuple[int, int]) -> Span:
    span = counted(pooling, length, around)
    return span if span[0] < span[1] else (0, length)
