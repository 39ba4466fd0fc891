"""A label column → strings, one a class, as they are written; and the order and the names of the classes."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from storage.errors import UserError

# Without a leading zero or a plus: `01`, `1` and `+1` are three labels.
PLAIN_INTEGER = r"^(0|-?[1-9]\d{0,17})$"
# What pandas writes for a missing value where it writes something.
MISSING = ("nan", "NaN")
# Up to here every integer is a float of its own.
_EXACT_FLOAT = 2**53


def label_values(column: pl.Series, where: str) -> pl.Series:
    """The column as strings, null where a label is missing: integers and booleans as people write them.

    Raises:
        UserError: the column is of a type that is no label, such as a float with a fraction, a date or a list.
    """
    kind = column.dtype
    if kind.is_float():
        column = column.fill_nan(None)
        values = column.drop_nulls()
        if len(values) and ((values % 1 != 0) | (values.abs() > _EXACT_FLOAT)).any():
            raise UserError(_no_label(column, where))
        # Integers beside an empty cell, as pandas writes them.
        column = column.cast(pl.Int64)
    elif not (
        kind.is_integer() or kind in (pl.String, pl.Boolean, pl.Categorical, pl.Null) or kind == pl.Enum
    ):
        raise UserError(_no_label(column, where))
    values = column.cast(pl.String)
    missing = (values.str.strip_chars() == "") | values.is_in(MISSING)
    return values.set(missing.fill_null(True), None)


def in_each_list(lists: pl.Series, read: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """A column of lists with what `read` makes of all their elements, each in its place; null stays null."""
    read_all = read(lists.explode(empty_as_null=True, keep_nulls=True))
    frame = pl.DataFrame({"row": np.repeat(np.arange(len(lists)), _lengths(lists)), "value": read_all})
    values = frame.group_by("row", maintain_order=True).agg("value")["value"]
    empty = pl.Series([[]], dtype=values.dtype)
    values = pl.select(pl.when(lists.list.len() == 0).then(pl.lit(empty)).otherwise(values)).to_series()
    return values.set(lists.is_null(), None).alias(lists.name)


def in_lists(lists: pl.Series, read: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """A column of lists with what `read` makes of all their elements, each once; null stays null, and has no list."""
    rows = np.repeat(np.arange(len(lists)), _lengths(lists))
    frame = pl.DataFrame({"row": rows, "value": read(lists.explode(empty_as_null=True))})
    values = frame.group_by("row", maintain_order=True).agg(
        pl.col("value").drop_nulls().unique(maintain_order=True)
    )
    return values["value"].set(lists.is_null(), None).alias(lists.name)


def _lengths(lists: pl.Series) -> np.ndarray:
    """Of each list when all are laid end to end, where one without elements leaves one null."""
    return lists.list.len().fill_null(0).clip(lower_bound=1).to_numpy()


def _no_label(column: pl.Series, where: str) -> str:
    kind = "a list or an object" if column.dtype == pl.Object else str(column.dtype)
    return (
        f"Column {column.name!r} in {where} is {kind}; a label is an integer or a string. Name another "
        "--label-column, or cast it."
    )


def are_plain_integers(values: pl.Series) -> bool:
    """Whether every value is an integer as people write it."""
    return values.str.contains(PLAIN_INTEGER).all()


def in_order(values: pl.Series, named: Sequence[str] | None) -> pl.Series:
    """Distinct labels: as their source lists them, else integers by size (2 before 10), else by the alphabet."""
    if named is not None and set(values) <= set(named):
        place = {name: number for number, name in enumerate(named)}
        return pl.Series(values.name, sorted(values, key=place.__getitem__), dtype=pl.String)
    if are_plain_integers(values):
        return values.to_frame("value").sort(pl.col("value").cast(pl.Int64))["value"]
    return values.sort()


def alike(values: Sequence[str]) -> list[str]:
    """The labels that look like another but for case and white space, together in the order of what they share.

    Letters may be composed in two ways (Unicode's NFC), and marks such as a zero-width space are not seen.
    """
    frame = pl.DataFrame({"value": list(values)}, schema={"value": pl.String})
    seen = pl.col("value").str.normalize("NFC").str.replace_all(r"\p{Cf}", "")
    shared = seen.str.strip_chars().str.replace_all(r"\s+", " ").str.to_lowercase()
    doubled = frame.with_columns(shared=shared).filter(pl.len().over("shared") > 1)
    return doubled.sort("shared", "value")["value"].to_list()
