"""Texts and labels that somebody has in memory → a folder that `path:` reads."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from storage.errors import UserError
from storage.given import keep_given

COLUMNS = ("text", "label")
_MANY = {"text": "texts", "label": "labels"}


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
        UserError: one of them is no table.
    """
    if all(hasattr(each, "save_to_disk") for each in splits.values()):
        from datasets import DatasetDict  # it knows the names of its classes

        return keep_given(folder, name, lambda into: DatasetDict(dict(splits)).save_to_disk(into))
    frames = {split: _as_polars(table, split) for split, table in splits.items()}

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
    return values


def _as_polars(table: Any, split: str) -> pl.DataFrame:
    if isinstance(table, pl.DataFrame):
        return table
    if type(table).__module__.partition(".")[0] == "pandas":
        return pl.from_pandas(table)
    raise UserError(
        f"What was given as {split} is no table but {type(table).__name__}: give a DataFrame or a datasets.Dataset, or "
        "texts and labels as two columns."
    )


def _frame(given: Mapping[str, Any], split: str) -> pl.DataFrame:
    found = {name: _values(column, f"{_MANY[name]} of {split}") for name, column in given.items()}
    if len({len(values) for values in found.values()}) > 1:
        counts = " and ".join(f"{len(values):,} {_MANY[name]}" for name, values in found.items())
        raise UserError(f"There are {counts} of {split}: every text needs one.")
    try:
        return pl.DataFrame([pl.Series(name, values) for name, values in found.items()])
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise UserError(
            f"The texts or the labels of {split} are of several types ({error}). Make all texts strings, and all "
            "labels strings or integers."
        ) from error


def _values(column: Any, what: str) -> list[Any]:
    if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
        raise UserError(f"The {what} are no column but {type(column).__name__} {str(column)[:40]!r}.")
    for way in ("to_list", "tolist"):  # of pandas and Polars; of arrays and tensors
        if hasattr(column, way):
            values: list[Any] = getattr(column, way)()
            return values
    return list(column)
