"""What a column says of each row besides its label: the group that it is of, or the split."""

import polars as pl

from storage.errors import UserError
from tasks.data.labels import MISSING

# An integer as it is written where a gap has made floats of its column.
_WHOLE = r"^(-?\d+)\.0+$"


def group_values(column: pl.Series, where: str) -> pl.Series:
    """The column as strings, null where a row is of no group.

    Whole numbers are written as integers, whatever type each split has them in, and so are texts that are whole floats
    all: 1.0 in one split and 1 in the other are one group.

    Raises:
        UserError: the column is of a type that names no group.
    """
    written = plain_strings(column, "group", where)
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        is_whole = (whole.cast(pl.Float64) == column.cast(pl.Float64)).fill_null(False)
        written = whole.cast(pl.String).zip_with(is_whole, written)
    written = written.set(((written.str.strip_chars() == "") | written.is_in(MISSING)).fill_null(True), None)
    if written.str.contains(_WHOLE).all():
        written = written.str.replace(_WHOLE, "$1")
    return written


def plain_strings(column: pl.Series, role: str, where: str) -> pl.Series:
    """The column as strings as they are written.

    Raises:
        UserError: a row holds something of several parts, or bytes that are no text.
    """
    kind = column.dtype
    try:
        written = None if kind.is_nested() or kind == pl.Object else column.cast(pl.String)
    except pl.exceptions.PolarsError:  # of bytes that are no text
        written = None
    if written is None:
        held = "of lists or objects" if kind == pl.Object else str(kind)
        raise UserError(
            f"Column {column.name!r} in {where} is {held}, and the {role} of a row is a text or a number. Name another "
            f"--{role}-column, or cast it."
        )
    return written
