"""Entities: runs of words whose tags say where one begins and goes on, and how many of them a probe finds."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

OUTSIDE = "O"
_TAG = re.compile(r"[BIES](-.+)?$")
# Tags that an entity goes on after, and tags that go on with one.
_OPEN, _GOES_ON = frozenset("BI"), frozenset("IE")

Span = tuple[str, int, int]
"""What an entity is, its first word and its last."""


def are_entity_tags(tags: Sequence[str]) -> bool:
    """Whether all of them are `O`, or one of B, I, E, S with a type behind a dash; and some are not `O`."""
    others = [tag for tag in tags if tag != OUTSIDE]
    return bool(others) and all(_TAG.match(tag) for tag in others)


def spans_of(tags: Sequence[str]) -> set[Span]:
    """The entities of one text, as seqeval without its strict mode reads IOB1, IOB2 and BIOES, which is conlleval.

    An entity goes on where the word before is its B or I, and this one an I or E of the same type; with every other tag
    that is not `O` one begins. github.com/chakki-works/seqeval
    """
    found: set[Span] = set()
    begin = 0
    for place, tag in enumerate(tags):
        before = tags[place - 1] if place else OUTSIDE
        if tag == OUTSIDE:
            continue
        if not (before[0] in _OPEN and tag[0] in _GOES_ON and before[2:] == tag[2:] and before != OUTSIDE):
            begin = place
        ends = place + 1 == len(tags) or not (
            tag[0] in _OPEN and tags[place + 1][0] in _GOES_ON and tags[place + 1][2:] == tag[2:]
        )
        if ends:
            found.add((tag[2:], begin, place))
    return found


def entity_f1(true: Sequence[Sequence[str]], told: Sequence[Sequence[str]]) -> float:
    """Micro F1 of the entities of some texts, 0–1: one is found where its type, its first and its last word are told.

    0 where neither has an entity. As `seqeval.metrics.f1_score(true, told)`.
    """
    hits = wanted = named = 0
    for own, others in zip(true, told, strict=True):
        a, b = spans_of(own), spans_of(others)
        hits, wanted, named = hits + len(a & b), wanted + len(a), named + len(b)
    return 2 * hits / (wanted + named) if wanted + named else 0.0


def entity_f1_of(
    classes: Sequence[str],
    words: pl.DataFrame,
    label: npt.NDArray[np.integer],
    predicted: npt.NDArray[np.integer],
) -> float | None:
    """`entity_f1` of words in their order; None where the classes are no tags of entities.

    words: the column `text_id` says which text each is of, `at` its place there. label and predicted: [N], indices into
    the classes. An entity ends before a word that is missing, since a model reads no token of it.
    """
    if not are_entity_tags(classes):
        return None
    follows = (pl.col("text_id").diff() == 0) & (pl.col("at").diff() == 1)
    told = words.select(run=(~follows).fill_null(True).cum_sum()).with_columns(
        label=label, predicted=predicted
    )
    runs = told.group_by("run", maintain_order=True).agg("label", "predicted")
    as_tags = [
        [[classes[each] for each in run] for run in runs[column].to_list()]
        for column in ("label", "predicted")
    ]
    return entity_f1(*as_tags)
