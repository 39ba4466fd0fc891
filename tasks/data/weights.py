"""How much each row counts."""

import polars as pl

from storage.errors import UserError


def row_weights(column: pl.Series, where: str) -> pl.Series:
    """Weights as float64 [N], above 0; also of strings that are numbers, as text files have them.

    Raises:
        UserError: a row without a weight, or with one that is no number above 0: the first one is named.
    """
    try:
        weights = (
            column.str.strip_chars().cast(pl.Float64)
            if column.dtype == pl.String
            else column.cast(pl.Float64)
        )
    except pl.exceptions.PolarsError as error:
        told = str(error).splitlines()[0]
        raise UserError(
            f"Column {column.name!r} in {where} holds what is no number ({told}), and weights are numbers above 0. "
            "Name another --weight-column."
        ) from error
    bad = ~(weights.is_finite() & (weights > 0)).fill_null(False)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise UserError(
            f"Row {row + 1:,} in {where} has the weight {column[row]!r} (column {column.name!r}); {bad.sum():,} of "
            f"{len(bad):,} rows have none above 0. Leave such rows out, or give each a weight above 0."
        )
    return weights
