"""Which columns are weights, and which say nothing of how much a row counts."""

from datetime import date, time, timedelta
from typing import Any

import polars as pl
import pytest

from storage.errors import UserError
from tasks.data.weights import row_weights


@pytest.mark.parametrize(
    ("column", "weights"),
    [
        (pl.Series([1, 3], dtype=pl.UInt8), [1.0, 3.0]),
        (pl.Series([0.5, 2.0], dtype=pl.Float32), [0.5, 2.0]),
        (pl.Series(["0.5", " 3"]), [0.5, 3.0]),
        (pl.Series(["1.5", "2"]).cast(pl.Decimal(10, 2)), [1.5, 2.0]),
        # The numbers that are written, and not those of the categories.
        (pl.Series(["9", "3", "9"], dtype=pl.Categorical), [9.0, 3.0, 9.0]),
        (pl.Series(["3", "9"], dtype=pl.Enum(["1", "3", "9"])), [3.0, 9.0]),
        (pl.Series([1e-9, 100.0]), [1e-9, 100.0]),
    ],
)
def test_numbers_and_texts_of_numbers_are_weights(column: pl.Series, weights: list[float]) -> None:
    found = row_weights(column, "here")
    assert found.dtype == pl.Float64
    assert found.to_list() == weights


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pl.Series("w", [date(2024, 1, 1)]), "Date"),
        (pl.Series("w", [date(2024, 1, 1)]).cast(pl.Datetime("us")), "Datetime"),
        (pl.Series("w", [time(1)]), "Time"),
        (pl.Series("w", [timedelta(1)]), "Duration"),
        (pl.Series("w", [True]), "Boolean"),
        (pl.Series("w", [b"1"]), "Binary"),
        (pl.Series("w", [{"a": 1.0}]), "Struct"),
        (pl.Series("w", [[1.0]]), "List"),
        (pl.Series("w", [[1.0]], dtype=pl.Array(pl.Float64, 1)), "Array"),
        (pl.Series("w", [{1}], dtype=pl.Object), "Object"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_columns_of_other_types_are_refused(values: pl.Series, kind: str) -> None:
    with pytest.raises(UserError, match=rf"'w' in here is {kind}.*Name another --weight-column"):
        row_weights(values, "here")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["1", "1,5"], "holds what is no number"),
        ([1.0, 0.0], "Row 2 in here has the weight 0.0"),
        ([1.0, None], "Row 2 in here has the weight None"),
        ([1.0, float("nan")], "Row 2 in here has the weight nan"),
        (["1", "1e400"], "Row 2 in here has the weight '1e400'"),
        ([1.0, 1e-13], r"from 1e-13 to 1 \(column 'w'\)"),
        ([1e308, 1e308], r"from 1e\+308 to 1e\+308"),
        ([1e-200, 1e-200], "from 1e-200 to 1e-200"),
        ([1e7, 1e-6], r"from 1e-06 to 1e\+07"),
    ],
)
def test_weights_that_cannot_be_reckoned_with_are_refused(values: list[Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        row_weights(pl.Series("w", values), "here")


def test_no_rows_have_no_weights() -> None:
    assert row_weights(pl.Series("w", [], dtype=pl.Float64), "here").to_list() == []
