"""Rows in order of time: which become test, which times are read, and what has no order is refused."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tasks.data.splits import TEST_SHARE, split_rows
from tasks.data.times import with_times
from tests.tasks.data.test_splits import read

SHUFFLED = np.random.default_rng(0).permutation(40)
ROWS = pl.DataFrame(
    {
        "text": [f"text {i}" for i in SHUFFLED],
        "label": ["a" if i % 3 else "b" for i in range(40)],
        "day": [(date(2024, 1, 1) + timedelta(days=int(i))).isoformat() for i in SHUFFLED],
        "part": ["train"] * 32 + ["test"] * 8,
        "author": [f"author {i % 4}" for i in range(40)],
    }
)


def test_the_latest_fifth_becomes_the_test_rows_and_rows_stand_in_order(tmp_path: Path) -> None:
    found = read(ROWS, tmp_path, time_column="day")
    assert found["text"].to_list() == [f"text {i}" for i in range(40)]
    assert found["split"].to_list() == ["train"] * 32 + ["test"] * 8
    # The place of each row is that in the file.
    assert [ROWS["text"][place] for place in found["place"]] == found["text"].to_list()
    asked = read_dataset(f"path:{tmp_path / 'all.csv'}", Layout(""), time_column="day")[0]
    assert (asked.test_is_made, asked.time_column) == (True, "day")


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60).filter(lambda each: len(set(each)) > 1))
def test_the_cut_is_the_one_between_two_times_that_is_nearest_to_a_fifth(times: list[int]) -> None:
    rows = pl.DataFrame({"value": ["x"] * len(times), "time": [float(each) for each in times]})
    train, test = split_rows({"train": rows}, 0, "here")
    assert train["time"].max() < test["time"].min()
    assert train.height + test.height == len(times)
    shares = [sum(each >= cut for each in times) / len(times) for cut in sorted(set(times))[1:]]
    nearest = min(abs(each - TEST_SHARE) for each in shares)
    assert abs(test.height / len(times) - TEST_SHARE) == pytest.approx(nearest)


WAYS: dict[str, pl.Series] = {
    "years": pl.Series([2023, 2024, 1999]),
    "years as texts": pl.Series(["2023", " 2024", "1999"]),
    "floats": pl.Series([1.5, 2.25, -3.0]),
    "dates": pl.Series([date(2024, 5, 17), date(2024, 5, 18), date(1969, 1, 1)]),
    "dates as texts": pl.Series(["2024-05-17", "2024-05-18", "1969-01-01"]),
    "months": pl.Series(["2024-05", "2024-06", "1969-01"]),
    "moments": pl.Series([datetime(2024, 5, 17, 8, 30), datetime(2024, 5, 17, 8, 31), datetime(1969, 1, 1)]),
    "moments as texts": pl.Series(["2024-05-17T08:30", "2024-05-17 08:30:01", "1969-01-01"]),
    "time zones": pl.Series(["2024-05-17T08:30+02:00", "2024-05-17T06:31Z", "1969-01-01T00:00Z"]),
    "time zones of Polars": pl.Series(
        [datetime(2024, 5, 17), datetime(2024, 5, 18), datetime(1969, 1, 1)]
    ).dt.replace_time_zone("Europe/Vienna"),
}


@pytest.mark.parametrize("way", WAYS)
def test_times_of_many_kinds_have_their_order(way: str) -> None:
    rows = pl.DataFrame({"text": ["second", "third", "first"]})
    found = with_times({"train": rows}, {"train": WAYS[way]}, "here")["train"]
    assert found.sort("time")["text"].to_list() == ["first", "second", "third"]


def test_texts_and_columns_of_dates_are_the_same_numbers() -> None:
    moment = datetime(2024, 5, 17, 8, 30, 0, 250_000)
    rows = pl.DataFrame({"text": ["a"]})
    found = [
        with_times({"train": rows}, {"train": pl.Series([each])}, "here")["train"]["time"].item()
        for each in (moment, moment.isoformat(), moment.replace(tzinfo=UTC), f"{moment.isoformat()}Z")
    ]
    assert found == [moment.replace(tzinfo=UTC).timestamp()] * 4


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (["2024-05-17", None], "1 rows in train of here are of no time"),
        (["2024-05-17", " "], "1 rows in train of here are of no time"),
        (["2024-05-17", "17/05/2024"], "'17/05/2024' in train of here is no time that can be told"),
        (["2024-05-17", "2024-05-18", "2023"], "'2023' in train of here is no time"),
        (["2024-05-17", "2024-13-01"], "'2024-13-01' in train of here is no time"),
        (["2024-05-17T00:00Z", "2024-05-17"], "some have a time zone and some have none"),
        ([1.0, float("nan")], "A time in train of here is not finite"),
        (["1", "2", "nan"], "'nan' in train of here is no time"),
        ([True, False], "are Boolean, and no order is known of these"),
    ],
)
def test_what_has_no_order_is_refused(times: list[Any], told: str) -> None:
    rows = pl.DataFrame({"text": ["a"] * len(times)})
    with pytest.raises(UserError, match=told):
        with_times({"train": rows}, {"train": pl.Series(times)}, "here")


def test_splits_whose_times_are_of_two_kinds_are_refused() -> None:
    rows = pl.DataFrame({"text": ["a"]})
    columns = {"train": pl.Series(["2024"]), "test": pl.Series(["2024-05-17"])}
    with pytest.raises(UserError, match="numbers in train and dates in test, and have no order"):
        with_times({"train": rows, "test": rows}, columns, "here")


def test_a_test_split_that_is_later_is_taken_and_one_that_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train rows of .*--time-column day.* are later than the first test row"
    ):
        read(ROWS, tmp_path, time_column="day", split_column="part")
    late = pl.col("day") > "2024-01-20"
    later = ROWS.with_columns(part=pl.when(late).then(pl.lit("test")).otherwise(pl.lit("train")))
    found = read(later, tmp_path, time_column="day", split_column="part")
    assert found.filter(split="test")["text"].to_list() == [f"text {i}" for i in range(20, 40)]


def test_one_time_alone_and_groups_beside_times_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are of one time, so that none is later"):
        read(ROWS.with_columns(day=pl.lit("2024-01-01")), tmp_path, time_column="day")
    with pytest.raises(UserError, match=r"each say which rows are test\. Name one"):
        read(ROWS, tmp_path, time_column="day", group_column="author")
    with pytest.raises(UserError, match=r"no column 'when' in every split \(--time-column\)"):
        read(ROWS, tmp_path, time_column="when")


def test_a_class_that_is_only_of_late_is_refused(tmp_path: Path) -> None:
    new = ROWS.with_columns(
        label=pl.when(pl.col("day") > "2024-02-05").then(pl.lit("new")).otherwise("label")
    )
    with pytest.raises(UserError, match=r"4 test rows of .* have a label that no train row has \('new'\)"):
        read(new, tmp_path, time_column="day")
