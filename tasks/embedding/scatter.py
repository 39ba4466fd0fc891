"""Which rows the embeddings of a batch are for: equal texts are computed once, and a text may give several rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from storage.errors import UserError
from tasks.embedding.pooled_batch import Key
from tasks.embedding.tokens import Tokens
from tasks.embedding.windows import Part, TextsOfWindows
from tasks.numerics.matrix_rows import all_finite


def distinct_texts(tokens: Tokens) -> tuple[NDArray[np.int64], list[list[int]]]:
    """The first place of each distinct token sequence with its words, and all places of each."""
    places_of: dict[tuple[bytes, bytes], list[int]] = {}
    long = tokens.long or {}
    for place, ids in enumerate(tokens.ids):
        words = b"" if tokens.words is None else tokens.words[place].tobytes()
        places_of.setdefault((long.get(place, ids).tobytes(), words), []).append(place)
    return np.array([places[0] for places in places_of.values()], dtype=np.int64), list(places_of.values())


def rows_of_texts(tokens: Tokens, places_of: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """Of each distinct text, and each embedding that is taken of it, all rows that this is for."""
    starts = tokens.starts.tolist()
    return [
        [
            [starts[place] + word for place in places]
            for word in range(starts[places[0] + 1] - starts[places[0]])
        ]
        for places in places_of
    ]


@dataclass(frozen=True)
class Column:
    """One embedding of a batch: the rows that it is for, and, of a window, which sequence it is."""

    rows: list[int]
    window: int | None


def columns_of(
    members: NDArray[np.int64], parts: Sequence[Part | None] | None, rows_of: Sequence[Sequence[list[int]]]
) -> list[Column]:
    """Of a batch of sequences `members` what each of its embeddings is for. parts: of all sequences."""
    columns = []
    for member in members.tolist():
        part = None if parts is None else parts[member]
        text, window = (member, None) if part is None else (part.text, member)
        columns += [Column(rows, window) for rows in rows_of[text]]
    return columns


def scatter(
    values: Tensor,
    columns: Sequence[Column],
    into: NDArray[np.float32],
    key: Key,
    joining: TextsOfWindows | None,
    texts_a_row: int,
) -> None:
    """values: [layers, B, D]; of a whole text, or a word, they go to every of its rows, of a window to its text's.

    columns: [B]. Refuses non-finite values.
    """
    if not all_finite(values):
        layer, column, _ = (~values.isfinite()).nonzero()[0].tolist()
        raise UserError(
            f"Layer {layer} has a value that is not finite at row {columns[column].rows[0] // texts_a_row} "
            f"(pooling {key[1].value!r}, norm state {key[0].value!r}). The compute dtype is too narrow for this model: "
            "choose float32."
        )
    whole = [place for place, column in enumerate(columns) if column.window is None]
    source = [place for place in whole for _ in columns[place].rows]
    target = [row for place in whole for row in columns[place].rows]
    found = values.numpy()
    into[:, target] = found if len(source) == len(whole) == len(columns) else found[:, source]
    for place, column in enumerate(columns):
        if column.window is not None and joining is not None:
            joining.add(column.window, values[:, place], key)
