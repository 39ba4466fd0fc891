"""How much each row counts."""

import polars as pl

from storage.errors import UserError

# The smallest weight over the largest: far above a double's precision, so that sums keep what the smallest adds.
LEAST_RATIO = 1e-12
# Between them and these, sums and squares of weights stay numbers.
LEAST, MOST = 1e-100, 1e100


def row_weights(column: pl.Series, where: str) -> pl.Series:
    """Weights as float64 [N], above 0; also of strings that are numbers, as text files have them.

    Raises:
        UserError: a column of another type; a row without a weight, or with one that is no number above 0: the first
            one is named; weights that no sum can hold beside each other.
    """
    kind = column.dtype
    written = column.cast(pl.String) if kind == pl.Categorical or kind == pl.Enum else column
    if not (kind.is_numeric() or written.dtype == pl.String):
        raise UserError(
            f"Column {column.name!r} in {where} is {kind}, and weights are numbers above 0. Name another "
            "--weight-column."
        )
    try:
        weights = (
            written.str.strip_chars().cast(pl.Float64)
            if written.dtype == pl.String
            else written.cast(pl.Float64)
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
    if len(weights):
        least, most = float(weights.to_numpy().min()), float(weights.to_numpy().max())
        if least < LEAST or most > MOST or least / most < LEAST_RATIO:
            raise UserError(
                f"The weights of {where} go from {least:g} to {most:g} (column {column.name!r}), and are reckoned with "
                f"from {LEAST:g} to {MOST:g}, the smallest no less than {LEAST_RATIO:g} of the largest. Scale them, or "
                "leave out the rows that count next to nothing."
            )
    return weights
