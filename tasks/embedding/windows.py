"""Texts longer than the model is given at once: windows that overlap, and one embedding of all their tokens.

Each window is a sequence of its own, with the special tokens and the prompt of every text around it. Of a text's tokens
each is taken from one window alone, so that a pooling sees the tokens of the text once each, in their order, with the
first window's tokens before the text and the last window's after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from storage.errors import UserError
from tasks.embedding.pooled_batch import Key
from tasks.embedding.pooling import POOLINGS, Joined, counted
from tasks.embedding.tokens import Tokens, window_starts
from tasks.vocabulary import Pooling


@dataclass(frozen=True)
class Window:
    """One of a text's windows: its token i is the text's token i + shift, and tokens `start` to `stop` of the text are
    taken from it. A text's tokens include those around it."""

    shift: int
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """A window among the sequences that are computed: of text `text`, which has `length` tokens in all."""

    text: int
    length: int
    window: Window

    def pooled(self, pooling: Pooling, around: tuple[int, int]) -> tuple[int, int]:
        """The window's tokens that the pooling is over: from, and up to; none where both are the same."""
        first, end = counted(pooling, self.length, around)
        start = max(self.window.start, first)
        return start - self.window.shift, max(start, min(self.window.stop, end)) - self.window.shift


def windows_of(length: int, around: tuple[int, int], max_length: int, *, causal: bool) -> list[Window]:
    """The windows of a text that is longer than `max_length`, each of that many tokens.

    length: its tokens with those around it. A token that lies in two windows is taken from the one where the model sees
    more around it: the earlier one in a causal model, which sees nothing of what follows, else the one whose edge is
    farther.
    """
    before, after = around
    room = max_length - before - after
    starts = window_starts(length - before - after, room)
    # Where one window's tokens end and the next one's begin.
    seams = [
        before + (one + room if causal else (one + room + other) // 2) for one, other in pairwise(starts)
    ]
    ends = pairwise([0, *seams, length])
    return [Window(shift, start, stop) for shift, (start, stop) in zip(starts, ends, strict=True)]


def in_windows(tokens: Tokens, *, causal: bool) -> tuple[Tokens, list[Part | None]]:
    """All sequences that are computed for N texts, and what each is of its text; None where it is the whole of it.

    The first N are those of the texts in their order, whole or their first windows. tokens: with `long`. causal: as of
    `windows_of`.
    """
    assert tokens.long is not None
    assert tokens.around is not None
    before, after = tokens.around
    ids, parts = list(tokens.ids), list[Part | None]([None] * len(tokens.ids))
    for text, whole in tokens.long.items():
        max_length = len(tokens.ids[text])
        room = max_length - before - after
        windows = windows_of(len(whole), tokens.around, max_length, causal=causal)
        parts[text] = Part(text, len(whole), windows[0])
        for window in windows[1:]:
            body = whole[before + window.shift :][:room]
            ids.append(np.concatenate((whole[:before], body, whole[len(whole) - after :])))
            parts.append(Part(text, len(whole), window))
    counts = np.array([len(each) for each in ids], dtype=np.int32)
    return replace(tokens, ids=ids, counts=counts, long=None), parts


def check_joined(poolings: Sequence[Pooling]) -> None:
    """`UserError` where a pooling cannot be put together from the windows of a text."""
    for pooling in poolings:
        if POOLINGS[pooling].joined is None:
            raise UserError(
                f"Pooling {pooling.value} cannot be put together from the windows of a long text (--long-texts split). "
                "Take another pooling, or --long-texts cut."
            )


class TextsOfWindows:
    """Embeddings of texts that are put together as their windows come."""

    def __init__(
        self,
        parts: Sequence[Part | None],
        around: tuple[int, int],
        rows_of: Sequence[Sequence[int]],
        states: Mapping[Key, NDArray[np.float32]],
    ) -> None:
        """parts: of every sequence. rows_of: of each text the rows that are its. states: [layers, rows, D] of each key,
        into which embeddings are put."""
        self._parts, self._around, self._rows_of, self._states = parts, around, rows_of, states
        self._rows = {part.text: rows_of[part.text][0] for part in parts if part is not None}
        for (_, pooling), into in states.items():
            how = POOLINGS[pooling].joined
            into[:, list(self._rows.values())] = -np.inf if how is Joined.MAXIMUM else 0

    def add(self, sequence: int, values: Tensor, key: Key) -> None:
        """values: [layers, D], what was pooled of one sequence."""
        part, pooling = self._parts[sequence], key[1]
        assert part is not None
        into = self._states[key][:, self._rows[part.text]]
        how = POOLINGS[pooling].joined
        first, end = counted(pooling, part.length, self._around)
        start, stop = part.pooled(pooling, self._around)
        if how is Joined.MEAN and stop > start:
            into += values.numpy() * np.float32((stop - start) / (end - first))
        elif how is Joined.MAXIMUM and stop > start:
            np.maximum(into, values.numpy(), out=into)
        elif (how is Joined.FIRST and part.window.start == 0) or (
            how is Joined.LAST and part.window.stop == part.length
        ):
            into[:] = values.numpy()

    def finish(self) -> None:
        """Give what the first of equal texts has got to the others."""
        for text, row in self._rows.items():
            for into in self._states.values():
                into[:, self._rows_of[text][1:]] = into[:, [row]]
