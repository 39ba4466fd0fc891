"""Texts and labels that somebody has in memory → a folder that `path:` reads."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from storage.errors import UserError
from storage.given import keep_given
from tasks.data.half_characters import check_whole, half_character

COLUMNS = ("text", "label")
PAIR_COLUMNS = ("first_text", "second_text")
# What Polars and Arrow raise for values that no column of theirs holds.
_NO_COLUMN = (TypeError, ValueError, NotImplementedError, OverflowError, pl.exceptions.PolarsError)
_MANY = {"text": "texts", "label": "labels"} | dict(
    zip(PAIR_COLUMNS, ("first texts", "second texts"), strict=True)
)


def keep_columns(
    folder: Path, name: str, splits: Mapping[str, Sequence[Any]], columns: Sequence[str] = COLUMNS
) -> Path:
    """Keep texts and labels of each split (`train`, and perhaps `test`) below `folder`; where they lie.

    splits: lists, arrays, or columns of pandas, Polars or `datasets`. columns: which they are, `text` and
    `label` or one of them.

    Raises:
        UserError: a column is no column, is of several types, or is not as long as the other.
    """
    frames = {}
    for split, given in splits.items():
        if not isinstance(given, tuple | list) or len(given) != len(columns):
            wanted = ", ".join(_MANY[each] for each in columns)
            raise UserError(f"The rows of {split} are a pair ({wanted}), not {type(given).__name__}.")
        frames[split] = _frame(dict(zip(columns, given, strict=True)), split)
    return keep_tables(folder, name, frames)


def keep_tables(folder: Path, name: str, splits: Mapping[str, Any]) -> Path:
    """As `keep_columns`, of whole tables: data frames of pandas or Polars, or `datasets.Dataset`s.

    Raises:
        UserError: one of them is no table, or has a column that cannot be kept.
    """
    if all(hasattr(each, "save_to_disk") for each in splits.values()):
        from datasets import DatasetDict  # it knows the names of its classes

        return keep_given(folder, name, lambda into: DatasetDict(dict(splits)).save_to_disk(into))
    frames = {split: _as_polars(table, split) for split, table in splits.items()}
    for split, frame in frames.items():
        _check_no_objects(frame, split)

    def write(into: Path) -> None:
        for split, frame in frames.items():
            frame.write_parquet(into / f"{split}.parquet")

    return keep_given(folder, name, write)


def as_texts(column: Any) -> list[str]:
    """A column of strings as a list.

    Raises:
        UserError: it is no column, or holds something else.
    """
    values = _values(column, "texts")
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"Text {place} is no string but {type(value).__name__} {value!r:.40}.")
        check_whole(value, f"Text {place}")
    return values


def as_word_lists(column: Any) -> list[list[str]]:
    """A column of lists of words as lists.

    Raises:
        UserError: it is no column, or a row is no list of strings, or none.
    """
    rows = _values(column, "texts")
    for place, row in enumerate(rows):
        words = [] if isinstance(row, str) or not isinstance(row, Iterable) else list(row)
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise UserError(
                f"Text {place} is no list of words but {row!r:.60}: words have tags, not whole texts."
            )
        for word in words:
            check_whole(word, f"Text {place}")
    return [list(row) for row in rows]


def are_pairs(given: Any) -> bool:
    """Whether these are two texts a row: a sequence of pairs, by the first of them, or a tuple of two columns.

    An iterator is none: looking at it would take from it.
    """
    if isinstance(given, str | bytes | Mapping | Iterator) or not isinstance(given, Iterable):
        return False
    if _is_frame(given) or _is_one_column(given):
        return False
    if _are_two_columns(given):
        return True
    return isinstance(next(iter(given), None), tuple | list | np.ndarray)


def _are_two_columns(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and not any(isinstance(each, str) for each in given)


def are_words(given: Any, labels: Any) -> bool:
    """Whether these are the words of each text and their tags: lists beside lists, by the first of them, but not two
    words in every row, which are a pair of texts with several labels each."""
    for each in (given, labels):
        if isinstance(each, str | bytes | Mapping | Iterator) or not isinstance(each, Iterable):
            return False
        if _is_frame(each) or _is_one_column(each):
            return False
        if not isinstance(next(iter(each), None), list | np.ndarray | pl.Series):
            return False
    rows = [row for row in given if isinstance(row, Sized)]  # what is no row is named where it is read
    return any(len(row) != 2 for row in rows)


def as_pairs(given: Any, what: str = "texts") -> list[tuple[str, str]]:
    """Two texts a row, from a sequence of pairs or a tuple of two columns.

    Raises:
        UserError: these are no pairs of strings, or columns of other lengths.
    """
    if not are_pairs(given):
        raise UserError(
            f"The {what} are pairs: give a list of (one text, other text), or both columns as a tuple of two lists."
        )
    if _are_two_columns(given):
        first, second = (_values(each, what) for each in given)
        if len(first) != len(second):
            raise UserError(
                f"There are {len(first):,} first and {len(second):,} second texts: every row needs both."
            )
        rows = list(zip(first, second, strict=True))
    else:
        rows = _values(given, what)
    for place, row in enumerate(rows):
        are_two = isinstance(row, Sized) and not isinstance(row, str) and len(row) == 2
        if not are_two or not all(isinstance(text, str) for text in row):
            raise UserError(f"Row {place} of the {what} is no pair of two strings but {row!r:.60}.")
        for text in row:
            check_whole(text, f"Row {place} of the {what}")
    return [(first, second) for first, second in rows]


def _is_frame(given: Any) -> bool:
    of_pandas = type(given).__module__.partition(".")[0] == "pandas"
    return isinstance(given, pl.DataFrame) or (of_pandas and hasattr(given, "columns"))


def _is_one_column(given: Any) -> bool:
    """Whether this is an array [N, 1], as scikit-learn cuts one column out of a table."""
    shape: tuple[int, ...] = getattr(given, "shape", ())
    return hasattr(given, "reshape") and len(shape) == 2 and shape[1] == 1


def _as_polars(table: Any, split: str) -> pl.DataFrame:
    if isinstance(table, pl.DataFrame):
        return table
    if _is_frame(table):
        return _of_pandas(table, split)
    raise UserError(
        f"What was given as {split} is no table but {type(table).__name__}: give a DataFrame or a datasets.Dataset, or "
        "texts and labels as two columns."
    )


def _of_pandas(table: Any, split: str) -> pl.DataFrame:
    names = [str(each) for each in table.columns]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"The table of {split} has several columns of one name ({', '.join(map(repr, doubled))}). Give each a name "
            "of its own, or leave the others out."
        )
    try:
        whole: pl.DataFrame = pl.from_pandas(table)
    except _NO_COLUMN:
        for place, name in enumerate(names):
            try:
                pl.from_pandas(table.iloc[:, [place]])
            except _NO_COLUMN as error:
                raise _no_column(f"Column {name!r} of {split}", error, "is", "holds") from error
        raise
    return whole


def _frame(given: Mapping[str, Any], split: str) -> pl.DataFrame:
    found = {name: _values(column, f"{_MANY[name]} of {split}") for name, column in given.items()}
    if len({len(values) for values in found.values()}) > 1:
        counts = " and ".join(f"{len(values):,} {_MANY[name]}" for name, values in found.items())
        raise UserError(f"There are {counts} of {split}: every text needs one.")
    columns = []
    for name, values in found.items():
        what = f"The {_MANY[name]} of {split}"
        _check_booleans(values, what)
        try:
            columns.append(pl.Series(name, _without_marks([_as_list(each) for each in values])))
        except _NO_COLUMN as error:
            raise _no_column(what, error, "are", "hold") from error
    return pl.DataFrame(columns)


def _without_marks(rows: list[Any]) -> list[Any]:
    """None in the place of what pandas marks a missing value with: NA, and NaN among strings, which no column of one
    type holds."""
    has_text = any(isinstance(each, str) for each in rows)

    def is_mark(value: Any) -> bool:
        is_nan = has_text and isinstance(value, float) and math.isnan(value)
        return is_nan or type(value).__name__ in ("NAType", "NaTType")

    return [None if is_mark(each) else each for each in rows]


def _as_list(value: Any) -> Any:
    """A row of several as a list, since a column of sets is none, and one of arrays wants arrays all."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _check_booleans(values: list[Any], what: str) -> None:
    """`UserError` where some are booleans and some numbers: a column of both would make 1 of True without a word."""
    first: dict[bool, tuple[int, Any]] = {}
    for row, value in enumerate(values):
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, bool | int | float | np.bool_ | np.number):
                first.setdefault(isinstance(each, bool | np.bool_), (row, each))
    if len(first) > 1:
        row, value = first[True]
        raise UserError(
            f"{what} are {value} in row {row} and numbers, such as {first[False][1]}, in row {first[False][0]}. Make "
            "them all booleans or all numbers."
        )


def _check_no_objects(frame: pl.DataFrame, split: str) -> None:
    for name, kind in frame.schema.items():
        if kind == pl.Object:
            held = next((type(each).__name__ for each in frame[name] if each is not None), "None")
            raise UserError(
                f"Column {name!r} of {split} holds Python objects ({held}), and strings, numbers or lists of them are "
                "wanted. Make such of them, or leave it out."
            )


def _no_column(what: str, error: Exception, are: str, hold: str) -> UserError:
    """Why values are no column, in words; what: which they are, with its verbs."""
    if isinstance(error, UnicodeEncodeError):
        return half_character(f"{what} {hold}", error)
    told = " ".join(str(error).split())
    return UserError(
        f"{what} {are} of several types, or too large ({told:.200}). Make all texts strings, and all labels strings or "
        "integers."
    )


def _values(column: Any, what: str) -> list[Any]:
    if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
        raise UserError(f"The {what} are no column but {type(column).__name__} {str(column)[:40]!r}.")
    if isinstance(column, set | frozenset):
        raise UserError(
            f"The {what} are a set, whose order says nothing: give a list, in the order of the rows."
        )
    if getattr(column, "shape", None) == ():
        raise UserError(f"The {what} are no column but a single value, {str(column)[:40]!r}.")
    shaped: Any = column
    names = list(shaped.columns) if _is_frame(column) else []
    if len(names) > 1:
        told = ", ".join(map(repr, names[:6]))
        raise UserError(f"The {what} are a table of {len(names)} columns ({told}): give one of them.")
    if names:
        column = shaped[names[0]]
    elif _is_one_column(column):
        column = shaped.reshape(-1)
    for way in ("to_list", "tolist"):  # of pandas and Polars; of arrays and tensors
        if hasattr(column, way):
            values: list[Any] = getattr(column, way)()
            return values
    return list(column)
