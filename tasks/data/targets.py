"""Labels that are not one class a text: several labels, or a number. And classes made of them.

What is chosen and audited looks at the labels themselves. Silhouettes, strata and pictures want classes: those of
numbers are parts of equally many train rows, those of several labels are sets of labels that are frequent.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from storage.errors import UserError
from tasks.data.labels import in_each_list, in_lists, in_order, label_values
from tasks.vocabulary import Task

MOST_VALUES = 10
"""Up to so many different numbers, such as stars, each is a class of its own."""
PARTS = 5
"""Classes of more numbers."""
OWN_CLASS = 10
"""Train rows of a set of labels that is a class of its own; rows of a rarer one go with its most frequent label."""
NO_LABEL = "no label"
_LEAST_SPREAD = 1e-100
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class Classed:
    """Splits whose rows have a class (`value`) and a target, List(Float64) of as many numbers as there are names."""

    splits: dict[str, pl.DataFrame]
    classes: list[str]
    """In their order."""
    names: tuple[str, ...]
    """Of the labels; of a number none."""


def task_of(columns: Sequence[pl.Series]) -> Task:
    """What columns are for: lists, and several columns, for several labels; fractions for a number; else a class."""
    if len(columns) > 1 or isinstance(columns[0].dtype, pl.List | pl.Array):
        return Task.MULTI_LABEL
    (column,) = columns
    if column.dtype.is_float() or column.dtype == pl.String:
        written = column.drop_nulls()
        if written.dtype == pl.String:
            written = written.filter(written.str.strip_chars() != "")
        numbers = written.cast(pl.Float64, strict=False)
        known = numbers.fill_nan(None).drop_nulls()
        if numbers.null_count() == 0 and known.is_finite().all() and (known % 1 != 0).any():
            return Task.REGRESSION
    return Task.SINGLE_LABEL


def read_targets(columns: Sequence[pl.Series], task: Task, where: str) -> pl.Series:
    """The column `target`: labels, List(String), or numbers, Float64; null where a row has none.

    Raises:
        UserError: a column that cannot be read as such.
    """
    names = [column.name for column in columns]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"Column {doubled!r} of {where} is named as a label column more than once. Name it once."
        )
    if task is Task.REGRESSION:
        if len(columns) > 1:
            raise UserError(f"One number a text is told, and {len(columns)} columns of {where} were named.")
        return _numbers(columns[0], where)
    if len(columns) > 1:
        flags = pl.DataFrame([_flags(column, where) for column in columns])
        named = pl.concat_list(
            pl.when(pl.col(each)).then(pl.lit(each)).otherwise(None) for each in flags.columns
        ).list.drop_nulls()
        return flags.select(
            pl.when(pl.any_horizontal(pl.all().is_null())).then(None).otherwise(named).alias("target")
        )["target"]
    (column,) = columns
    if not isinstance(column.dtype, pl.List | pl.Array):
        raise UserError(
            f"Column {column.name!r} in {where} is {column.dtype}; several labels a text are a column of lists, or "
            "several columns of 0 and 1 (--label-column for each)."
        )
    lists = column.cast(pl.List(column.dtype.inner))
    _check_no_flags(lists, where)
    return in_lists(lists, lambda each: label_values(each, where)).alias("target")


def _check_no_flags(lists: pl.Series, where: str) -> None:
    """`UserError` where lists say of every label whether a row has it: as names they would be the labels 0 and 1."""
    there = lists.drop_nulls()
    lengths = there.list.len().unique()
    if len(lengths) != 1:
        return
    said = in_each_list(there, lambda each: label_values(each, where).str.to_lowercase())
    are_flags = said.list.eval(pl.element().is_in(list(_FLAGS)).fill_null(False)).list.all()
    if are_flags.all() and (said.list.n_unique() < lengths[0]).any():
        raise UserError(
            f"Column {lists.name!r} in {where} holds lists of {lengths[0]}, each 0 or 1, which say of every label "
            "whether a text has it, and no names. Make a column of 0 and 1 of each label (--label-column for each), or "
            "lists of the names of a text's labels."
        )


def _numbers(column: pl.Series, where: str) -> pl.Series:
    written = column
    if column.dtype == pl.String:
        written = column.set((column.str.strip_chars() == "").fill_null(True), None)
    elif not column.dtype.is_numeric():
        raise UserError(f"Column {column.name!r} in {where} is {column.dtype}, and no number.")
    numbers = written.cast(pl.Float64, strict=False)
    bad = numbers.is_null() & written.is_not_null() | numbers.is_infinite().fill_null(False)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise UserError(
            f"Row {row + 1:,} in {where} has {written[row]!r} in column {column.name!r}, which is no number to be told."
        )
    return numbers.fill_nan(None).alias("target")


def _flags(column: pl.Series, where: str) -> pl.Series:
    said = label_values(column, where).str.to_lowercase()
    strange = said.drop_nulls().filter(~said.drop_nulls().is_in(list(_FLAGS)))
    if len(strange):
        raise UserError(
            f"Column {column.name!r} in {where} holds {strange[0]!r}; of several label columns each says 0 or 1."
        )
    return said.replace_strict(_FLAGS, return_dtype=pl.Boolean).alias(column.name)


def with_classes(
    splits: dict[str, pl.DataFrame], task: Task, named: Sequence[str] | None, where: str
) -> Classed:
    """Classes and numbers for the column `target` of each split, by what train and validation rows hold.

    named: the labels in the source's own order, where it tells them.

    Raises:
        UserError: a test row has a label that no train row has.
    """
    train = pl.concat([splits[name] for name in ("train", "validation") if name in splits])["target"]
    if task is Task.REGRESSION:
        _check_spread(train.to_numpy(), where)
        edges, classes = _parts(train.to_numpy())
        found = {
            split: rows.with_columns(
                value=pl.Series(
                    [classes[at] for at in np.searchsorted(edges, rows["target"].to_numpy())], dtype=pl.String
                ),
                target=pl.concat_list("target"),
            )
            for split, rows in splits.items()
        }
        return Classed(found, classes, ())
    labels = in_order(train.explode(empty_as_null=True).drop_nulls().unique(), named).to_list()
    known = set(labels)
    unseen = {each for rows in splits.values() for row in rows["target"] for each in row} - known
    if unseen:
        raise UserError(
            f"Test rows of {where} have labels that no train row has ({', '.join(map(repr, sorted(unseen)[:5]))}): add "
            "train rows with them, or remove these."
        )
    rows_of = Counter(each for row in train for each in row)
    # What every row has tells none apart: no row goes with it where it has another.
    frequent = Counter({each: count for each, count in rows_of.items() if count < len(train)})
    sets = Counter(map(frozenset, train))
    named_sets = _names_of(sets, labels)
    found = {}
    for split, rows in splits.items():
        values = [_class_of(row, frequent, sets, named_sets) for row in rows["target"]]
        flags = [[float(each in row) for each in labels] for row in map(set, rows["target"])]
        found[split] = rows.with_columns(
            value=pl.Series(values, dtype=pl.String),
            target=pl.Series(flags, dtype=pl.List(pl.Float64)),
        )
    there = pl.concat([found[name] for name in ("train", "validation") if name in found])["value"]
    common = there.mode().sort()[0]
    for (
        split,
        rows,
    ) in found.items():  # of a test row whose set is rare nothing but its picture is drawn by it
        kept = rows["value"].is_in(there.unique().to_list())
        found[split] = rows.with_columns(value=rows["value"].set(~kept, common))
    return Classed(found, there.unique().sort().to_list(), tuple(labels))


def check_order(test: pl.DataFrame, column: str, where: str) -> None:
    """`UserError` where all numbers of test rows, the column `target`, are the same: no two can be put in order."""
    if test["target"].n_unique() == 1:
        (number,) = test["target"][0]
        raise UserError(
            f"All {test.height:,} test rows of {where} have the number {number:g} in column {column!r}, and numbers "
            "are judged by the order that they are put in. Take more test rows (--max-test-rows), or others."
        )


def _parts(numbers: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Upper ends of all classes but the last, each within its class, and the names of the classes."""
    distinct = np.unique(numbers)
    if len(distinct) <= MOST_VALUES:
        short = [f"{each:g}" for each in distinct]
        shared = Counter(short)
        names = [
            name if shared[name] == 1 else repr(each).removesuffix(".0")
            for name, each in zip(short, distinct.tolist(), strict=True)
        ]
        return (distinct[1:] + distinct[:-1]) / 2, names
    edges = np.unique(np.quantile(numbers, np.arange(1, PARTS) / PARTS))
    edges = edges[edges < distinct[-1]]
    if not len(edges):  # more than four fifths are the largest
        edges = distinct[-2:-1]
    count = len(edges) + 1
    ends = [f"up to {each:.4g}" for each in edges] + [f"over {edges[-1]:.4g}"]
    return edges, [f"part {place + 1} of {count}, {end}" for place, end in enumerate(ends)]


def _check_spread(numbers: npt.NDArray[np.float64], where: str) -> None:
    """`UserError` where squares of the numbers' differences are no float64 any more: errors could not be told."""
    distance = float(numbers.max() - numbers.min())
    if distance > 0 and not _LEAST_SPREAD < distance < 1 / _LEAST_SPREAD:
        raise UserError(
            f"The numbers of {where} lie {distance:g} apart, and their squared errors are beyond what a computer's "
            "numbers hold. Give them in another unit."
        )


def _names_of(sets: Collection[frozenset[str]], labels: Sequence[str]) -> dict[frozenset[str], str]:
    """A name for each set of labels that no other set has; of a set of one it is the label's own."""
    named = {frozenset([each]): each for each in labels}
    taken = set(labels)
    for held in sorted(set(sets) - set(named), key=sorted):
        name = " + ".join(each for each in labels if each in held) or NO_LABEL
        while name in taken:
            name = f"({name})"
        named[held] = name
        taken.add(name)
    return named


def _class_of(
    row: Sequence[str],
    frequent: Counter[str],
    sets: Counter[frozenset[str]],
    named: Mapping[frozenset[str], str],
) -> str:
    whole = frozenset(row)
    if whole in named and (len(whole) < 2 or sets[whole] >= OWN_CLASS):
        return named[whole]
    # Of a row without any, where no train row is: any class, which only its picture is drawn by.
    return max(row, key=lambda each: (frequent[each], each), default=NO_LABEL)
