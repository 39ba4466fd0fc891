"""Columns and tables that somebody has in memory: what is kept of them, and what is refused in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from storage.errors import UserError
from tasks.data.in_memory import (
    are_pairs,
    are_words,
    as_pairs,
    as_texts,
    as_word_lists,
    keep_columns,
    keep_tables,
)

TEXTS = ["a", "b"]


def kept(folder: Path, labels: Any) -> list[Any]:
    made = keep_columns(folder, "given", {"train": (TEXTS, labels)})
    return pl.read_parquet(made / "train.parquet")["label"].to_list()


@pytest.mark.parametrize(
    ("labels", "read_as"),
    [
        (["x", "y"], ["x", "y"]),
        ([2.5, 1], [2.5, 1.0]),
        ([True, None], [True, None]),
        # As pandas marks what is missing, which is told of its row where labels are read.
        (pd.Series(["x", float("nan")]), ["x", None]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series(["x", pd.NA], dtype="string"), ["x", None]),
        (np.array([True, False]), [True, False]),
        # One column of a table, and not a list of one label each.
        (np.array([["x"], ["y"]]), ["x", "y"]),
        ([np.int64(3), 4], [3, 4]),
        # A set of labels has no order of its own.
        ([{"y", "x"}, frozenset()], [["x", "y"], []]),
        ([["x", "y"], None], [["x", "y"], None]),
        # Rows as another library gives them, beside lists.
        ([np.array(["x", "y"]), ["z"]], [["x", "y"], ["z"]]),
        ([np.array([1, 2]), np.array([3])], [[1, 2], [3]]),
    ],
)
def test_labels_are_kept_as_they_are(labels: Any, read_as: list[Any], tmp_path: Path) -> None:
    assert kept(tmp_path, labels) == read_as


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["x", 1], "labels of train are of several types"),
        ([1, True], r"labels of train are True in row 1 and numbers, .*all booleans or all numbers"),
        ([True, 1.5], "labels of train are True in row 0 and numbers"),
        ([np.int64(0), np.bool_(False)], "labels of train are False in row 1 and numbers"),
        ([[1], [0, True]], "labels of train are True in row 1 and numbers"),
        ([2**200, 1], "labels of train are of several types, or too large"),
        ([np.datetime64("2020"), 1], "labels of train are of several types"),
        ([np.array([1]), np.array([[1]])], "labels of train are of several types"),
        ([object(), object()], r"Column 'label' of train holds Python objects \(object\)"),
        (["x", "y\ud800"], r"labels of train hold '\\ud800', half of a character.* 'y\\ud800'"),
        ([["x"], ["y\ud800"]], r"labels of train hold '\\ud800', half of a character"),
    ],
)
def test_labels_that_no_column_holds_are_refused(labels: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        kept(tmp_path, labels)


def test_a_text_with_half_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"texts of train hold '\\ud800', half of a character"):
        keep_columns(tmp_path, "given", {"train": (["a\ud800", "b"], [1, 2])})


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pd.DataFrame({"text": ["a", 1], "label": [0, 1]}), "Column 'text' of train is of several types"),
        (pd.DataFrame({"text": TEXTS, "label": [1, "x"]}), "Column 'label' of train is of several types"),
        (pd.DataFrame({"text": TEXTS, "label": [1, True]}), "Column 'label' of train is of several types"),
        (pd.DataFrame({"text": TEXTS, "label": [object(), 1]}), "Column 'label' of train is of several"),
        (pd.DataFrame({"text": TEXTS, "label": [1j, 2j]}), "Column 'label' of train is of several types"),
        (
            pd.DataFrame({"text": ["a\ud800", "b"]}, dtype=object),
            r"Column 'text' of train holds '\\ud800', half of a",
        ),
        (
            pd.DataFrame([["a", 1, 2]], columns=["text", "label", "label"]),
            r"table of train has several columns of one name \('label'\)",
        ),
        (
            pl.DataFrame({"text": TEXTS, "label": pl.Series([{1}, {2}], dtype=pl.Object)}),
            r"Column 'label' of train holds Python objects \(set\)",
        ),
        (pd.Series(TEXTS), "given as train is no table but Series"),
    ],
)
def test_tables_that_cannot_be_kept_are_refused(table: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        keep_tables(tmp_path, "given", {"train": table})


def test_a_table_of_pandas_is_kept(tmp_path: Path) -> None:
    table = pd.DataFrame({"text": ["a", None], "label": [{1}, {2}], 3: [1.5, 2.5]})
    made = keep_tables(tmp_path, "given", {"train": table})
    assert pl.read_parquet(made / "train.parquet").to_dict(as_series=False) == {
        "text": ["a", None],
        "label": [[1], [2]],
        "3": [1.5, 2.5],
    }


@pytest.mark.parametrize(
    "column",
    [
        pd.DataFrame({"wave": TEXTS}),
        pl.DataFrame({"wave": TEXTS}),
        np.array([["a"], ["b"]], dtype=object),
        pd.Series(TEXTS),
        (each for each in TEXTS),
    ],
    ids=["pandas", "Polars", "array", "series", "iterator"],
)
def test_one_column_in_whatever_form_is_the_texts(column: Any) -> None:
    assert not are_pairs(column)
    assert not are_words(column, [["x"], ["y"]])
    assert as_texts(column) == TEXTS


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ({"a", "b"}, "The texts are a set, whose order says nothing: give a list"),
        (np.array("wave"), "The texts are no column but a single value, 'wave'"),
        (
            pd.DataFrame({"text": TEXTS, "label": [0, 1]}),
            r"a table of 2 columns \('text', 'label'\): give one",
        ),
        (
            pl.DataFrame({"text": TEXTS, "label": [0, 1]}),
            r"a table of 2 columns \('text', 'label'\): give one",
        ),
        (["a", "\ud800"], r"Text 1 holds '\\ud800', half of a character that no file can hold"),
    ],
)
def test_what_is_no_column_of_texts_is_refused(column: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        as_texts(column)


def test_half_a_character_in_a_word_or_a_pair_is_refused() -> None:
    with pytest.raises(UserError, match=r"Text 0 holds '\\ud800'"):
        as_word_lists([["a", "\ud800"]])
    with pytest.raises(UserError, match=r"Row 0 of the texts holds '\\ud800'"):
        as_pairs([("a", "\ud800")])


@pytest.mark.parametrize("name", ["a/b", "../up", "a" * 101, "a\x00b", "", ".hidden", None, 3])
def test_a_name_that_no_folder_can_have_is_refused(name: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is to name a folder"):
        keep_columns(tmp_path / "given", name, {"train": (TEXTS, [1, 2])})
    assert list(tmp_path.iterdir()) == []


def test_rows_without_words_or_texts_are_no_reason_to_stop() -> None:
    assert are_words([["a", "b", "c"], None], [["X", "Y", "X"], ["Z"]])
    assert not are_words([["a", "b"], None], [["X", "Y"], ["Z"]])
    assert not are_words([["a", "b"], 3], [["X", "Y"], ["Z"]])
    for row in (None, 3):
        with pytest.raises(UserError, match=f"Row 1 of the texts is no pair of two strings but {row}"):
            as_pairs([["a", "b"], row])
