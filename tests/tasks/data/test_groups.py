"""Which groups a column names, and columns of types that say nothing of a row."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tasks.data.groups import group_values
from tests.tasks.data.test_splits import ROWS

ROLES = ("split", "group", "weight", "time")


@pytest.mark.parametrize(
    "others",
    [
        pl.Series([2.0, 3.0] * 6),
        pl.Series(["2", "3"] * 6),
        pl.Series(["2.0", "3.0"] * 6),
        pl.Series([b"2", b"3"] * 6),
        pl.Series(["2", "3"] * 6, dtype=pl.Categorical),
        pl.Series(["2", "3"] * 6).cast(pl.Decimal(9, 2)),
    ],
    ids=["floats", "texts", "texts of floats", "bytes", "categories", "decimals"],
)
def test_a_group_is_one_however_a_split_writes_it(others: pl.Series, tmp_path: Path) -> None:
    """A gap makes floats of integers, in Parquet and in what is written as CSV from there."""
    for split, authors in (("train", pl.Series([1, 2] * 6)), ("test", others)):
        ROWS.with_columns(author=authors).write_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=r"1 groups of .* stand in train and in test, such as '2'"):
        read_dataset(f"path:{tmp_path}", Layout(""), group_column="author")


@pytest.mark.parametrize(
    ("values", "read_as"),
    [
        ([1.5, 2.0], ["1.5", "2"]),
        (["1.0", "2.10", "x"], ["1.0", "2.10", "x"]),
        (["01", "1"], ["01", "1"]),
        ([True, None], ["true", None]),
        ([date(2024, 5, 17)], ["2024-05-17"]),
        ([2.0**60, float("nan"), -0.0], [str(2**60), None, "0"]),
        ([1e300, float("inf")], ["1e+300", "inf"]),
        (["", " ", "nan", "a", "1.0"], [None, None, None, "a", "1.0"]),
        ([None, "", "10.0", "-1.0"], [None, None, "10", "-1"]),
        ([None], [None]),
    ],
)
def test_groups_as_they_are_written(values: list[Any], read_as: list[str | None]) -> None:
    assert group_values(pl.Series(values), "here").to_list() == read_as


@pytest.mark.parametrize("missing", [None, "", " "])
def test_rows_of_no_group_are_refused(missing: str | None, tmp_path: Path) -> None:
    rows = ROWS.with_columns(author=pl.Series([missing, *[f"a{i % 4}" for i in range(11)]]))
    rows.write_parquet(tmp_path / "all.parquet")
    with pytest.raises(UserError, match=r"1 rows of .*--group-column author\) are of no group"):
        read_dataset(f"path:{tmp_path / 'all.parquet'}", Layout(""), group_column="author")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pl.Series([["train"]] * 12), r"List\(String\)"),
        (pl.Series([["train"]] * 12, dtype=pl.Array(pl.String, 1)), r"Array\(String"),
        (pl.Series([{"a": "train"}] * 12), r"Struct"),
        (pl.Series([b"\xff"] * 12), r"Binary"),
    ],
    ids=["lists", "arrays", "structs", "bytes"],
)
def test_a_column_of_what_says_nothing_of_a_row_is_refused(
    role: str, values: pl.Series, kind: str, tmp_path: Path
) -> None:
    ROWS.with_columns(author=values).write_parquet(tmp_path / "all.parquet")
    asked: dict[str, Any] = {f"{role}_column": "author"}
    with pytest.raises(UserError, match=kind):
        read_dataset(f"path:{tmp_path / 'all.parquet'}", Layout(""), **asked)


@pytest.mark.parametrize("role", ROLES)
def test_a_column_of_objects_is_refused(role: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2], "author": {"name": [i]}} for i in range(12)]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked: dict[str, Any] = {f"{role}_column": "author"}
    with pytest.raises(UserError, match=r"[Oo]bject"):
        read_dataset(f"path:{tmp_path / 'all.jsonl'}", Layout(""), **asked)
