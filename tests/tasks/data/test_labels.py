from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from storage.errors import UserError
from tasks.data.labels import alike, in_order, label_values


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([3, 1]), ["3", "1"]),
        (pl.Series([2**64 - 1, 0], dtype=pl.UInt64), ["18446744073709551615", "0"]),
        (pl.Series([3.0, None, float("nan")]), ["3", None, None]),
        (pl.Series([True, False, None]), ["true", "false", None]),
        (
            pl.Series(["01", "1", " ", "nan", "NaN", "None", "NA"]),
            ["01", "1", None, None, None, "None", "NA"],
        ),
        (pl.Series(["b", "a"], dtype=pl.Categorical), ["b", "a"]),
        (pl.Series(["b", "a"], dtype=pl.Enum(["a", "b"])), ["b", "a"]),
        (pl.Series([None, None]), [None, None]),
    ],
)
def test_labels_are_strings_as_people_write_them(column: pl.Series, expected: list[str | None]) -> None:
    assert label_values(column, "train").to_list() == expected


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 1.0],
        [1e30, 1.0],
        [float("inf"), 1.0],
        [date(2020, 1, 1)],
        [timedelta(1)],
        [["a"], ["b"]],
        [{"a": 1}],
    ],
)
def test_what_is_no_label_is_refused(values: list[Any]) -> None:
    with pytest.raises(UserError, match=r"Column 'stars' in train is .*a label is an integer or a string"):
        label_values(pl.Series("stars", values), "train")


@pytest.mark.parametrize(
    ("values", "named", "expected"),
    [
        (["10", "2", "-1", "0"], None, ["-1", "0", "2", "10"]),
        (["10", "2", "01"], None, ["01", "10", "2"]),
        (["10", "2", "1" * 20], None, ["10", "1" * 20, "2"]),
        (["10", "2", "1E2"], None, ["10", "1E2", "2"]),
        (["b", "a"], ["z", "b", "a"], ["b", "a"]),
        (["b", "a"], ["b"], ["a", "b"]),
    ],
)
def test_classes_come_in_the_order_of_their_source_or_in_that_people_count_in(
    values: list[str], named: list[str] | None, expected: list[str]
) -> None:
    assert in_order(pl.Series(values), named).to_list() == expected


def test_labels_that_look_the_same_are_found() -> None:
    assert alike(["food", "Food ", "drink", "new  york", "New York"]) == [
        "Food ",
        "food",
        "New York",
        "new  york",
    ]
    assert alike(["1", "01", "+1", "m2", "m²"]) == []
    # Composed in two ways, and with a space that has no width.
    assert alike(["caf\u00e9", "cafe\u0301", "a", "a\u200b", "b"]) == [
        "a",
        "a\u200b",
        "cafe\u0301",
        "caf\u00e9",
    ]
