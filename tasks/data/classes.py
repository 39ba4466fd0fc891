"""The classes of a data set: which there are, in which order, and what they are called."""

import logging
from collections.abc import Sequence

import polars as pl

from storage.errors import UserError
from tasks.data.labels import in_order
from tasks.data.splits import LEAST_ROWS_PER_CLASS

log = logging.getLogger(__name__)

MOST_CLASSES = 5_000


def check_classes(
    train: pl.DataFrame,
    test: pl.DataFrame,
    spec: str,
    label: str,
    named: Sequence[str] | None,
    *,
    of_words: bool = False,
) -> pl.Series:
    """The classes in their order, of train rows. Of words, whose tags nobody can spread over the splits evenly, with
    those that test alone has: no probe can tell them, which counts as wrong.

    Raises:
        UserError: one class only, about as many as rows, one that test has and train has not, or fewer than two test
            rows.
    """
    values = in_order(train["value"].unique(), named)
    if not len(values):
        raise UserError(f"{spec} has no rows: column {label!r} says nothing of any.")
    if len(values) < 2:
        raise UserError(
            f"{spec} has one class only ({values[0]!r} in column {label!r}). Layers "
            "can be compared for telling classes apart only where there are two or more; name another --label-column?"
        )
    if len(values) > min(MOST_CLASSES, train.height // LEAST_ROWS_PER_CLASS):
        raise UserError(
            f"Column {label!r} of {spec} has {len(values):,} values in {train.height:,} train rows, so it looks like "
            "an id or a number rather than a class. Name another --label-column."
        )
    unseen = test.filter(~pl.col("value").is_in(values.implode()))
    if of_words and unseen.height:
        more = unseen["value"].unique().sort()
        log.warning(
            "%s of %s test words of %s have a tag that no train word has (%s%s): they count as wrong",
            f"{unseen.height:,}",
            f"{test.height:,}",
            spec,
            ", ".join(map(repr, more.head(5))),
            "" if len(more) < 6 else " …",
        )
        return in_order(pl.concat([values, more]), named)
    if unseen.height:
        some = ", ".join(repr(value) for value in unseen["value"].unique().sort().head(5))
        raise UserError(
            f"{unseen.height:,} test rows of {spec} have a label that no train row has ({some}). A probe cannot "
            "learn it: add train rows of that class, or remove these test rows."
        )
    if not test.height:
        raise UserError(f"{spec} leaves no test row. Add rows: every class keeps its first two for train.")
    if test.height == 1:
        raise UserError(f"{spec} has one test row, and a choice is judged on two at the least. Give more.")
    return values


def class_names(values: pl.Series, rows: pl.DataFrame) -> tuple[str, ...]:
    """The names of a companion column `LABEL_name`, where they are one for one in all rows; else the labels
    themselves."""
    pairs = rows.select("value", "name").unique().drop_nulls()
    if pairs.height == len(values) and pairs["name"].n_unique() == len(values):
        return tuple(values.replace_strict(pairs["value"], pairs["name"]))
    return tuple(values)
