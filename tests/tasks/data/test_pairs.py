"""Two texts a row that are kept apart: which columns, what is refused, what the fingerprint sees."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from storage.errors import UserError
from tasks.data.in_memory import are_pairs, are_words, as_pairs
from tests.tasks.data.conftest import prepare

ROWS = pl.DataFrame(
    {
        "premise": [f"text {i}" for i in range(20)],
        "hypothesis": [f"other number {i % 7}" for i in range(20)],
        "label": ["yes", "no"] * 10,
    }
)
BOTH = {"text_column": ("premise", "hypothesis"), "text_pairs": "features"}


def written(rows: pl.DataFrame, tmp_path: Path) -> str:
    rows.write_csv(tmp_path / "rows.csv")
    return f"path:{tmp_path / 'rows.csv'}"


def test_the_pair_of_every_row_goes_where_the_row_goes(tmp_path: Path) -> None:
    found, table = prepare(written(ROWS, tmp_path), tmp_path / "out", **BOTH, max_train_rows=10)
    assert (found.text_pairs, found.train_rows) == ("features", 10)
    other = dict(ROWS.select("premise", "hypothesis").iter_rows())
    for one, second in table["pair"]:
        assert other[one] == second
    assert table.schema["pair"] == pl.List(pl.String)


def test_where_one_text_ends_and_the_next_begins_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    moved = ROWS.with_columns(
        premise=pl.col("premise") + " " + pl.col("hypothesis").str.slice(0, 5),
        hypothesis=pl.col("hypothesis").str.slice(6),
    )
    texts = []
    prints = []
    for rows in (ROWS, moved):
        found, table = prepare(written(rows, tmp_path), tmp_path / "out", **BOTH, joined_by=" ")
        texts.append(table["text"].to_list())
        prints.append(found.fingerprint)
    assert texts[0] == texts[1]
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ((), "which column of .* is the text"),
        (("premise",), "the text columns are premise. Name two"),
        (("premise", "hypothesis", "label"), "are premise, hypothesis, label. Name two"),
        (("premise", "premise"), "'premise' was named as both"),
    ],
)
def test_other_than_two_columns_are_refused(columns: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"(?i){told}"):
        prepare(written(ROWS, tmp_path), tmp_path / "out", text_column=columns, text_pairs="features")


def test_saved_states_have_no_two_texts_to_embed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="saved states have one embedding a row"):
        prepare(written(ROWS, tmp_path), tmp_path / "out", **BOTH, of_saved_states=True)


@pytest.mark.parametrize("column", ["premise", "hypothesis"])
def test_an_empty_text_in_either_column_is_refused(column: str, tmp_path: Path) -> None:
    empty = ROWS.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit(" ")).otherwise(pl.col(column)).alias(column)
    )
    with pytest.raises(UserError, match=rf"Row 4 .* has an empty text \(column '{column}'\)"):
        prepare(written(empty, tmp_path), tmp_path / "out", **BOTH)


PAIRS = [("a", "b"), ("c", "d"), ("e", "f")]


@pytest.mark.parametrize(
    "given",
    [
        PAIRS,
        tuple(PAIRS),
        [list(each) for each in PAIRS],
        np.array(PAIRS),
        (["a", "c", "e"], ["b", "d", "f"]),
    ],
    ids=["tuples", "tuple of tuples", "lists", "array", "two columns"],
)
def test_pairs_in_memory_are_rows_or_two_columns(given: Any) -> None:
    assert are_pairs(given)
    assert as_pairs(given) == PAIRS


@pytest.mark.parametrize(
    "given", ["path:rows.csv", ["a", "b"], ("a", "b"), pl.Series(["a"]), iter(PAIRS), [], {"a": 1}, 3]
)
def test_what_is_one_text_a_row_is_not_taken_for_pairs(given: Any) -> None:
    assert not are_pairs(given)
    with pytest.raises(UserError, match="are pairs: give a list of"):
        as_pairs(given)


@pytest.mark.parametrize(
    ("given", "labels", "told"),
    [
        ([["a", "b", "c"], ["d", "e"]], [["O", "O", "X"], ["O", "O"]], True),
        (pl.Series([["a", "b"], ["d"]]), pl.Series([["O", "O"], ["O"]]), True),
        ([["a", "b"], ["c", "d"]], [["sport", "news"], ["news"]], False),  # pairs of several labels each
        ([["a", "b"], ["c", "d"]], ["x", "y"], False),
        (["a", "b"], [["sport", "news"], ["news"]], False),
        (["a", "b"], None, False),
    ],
)
def test_words_with_tags_are_told_from_pairs(given: Any, labels: Any, told: bool) -> None:
    assert are_words(given, labels) is told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([("a", "b"), ("c",)], r"Row 1 of the texts is no pair of two strings but \('c',\)"),
        ([("a", "b"), ("c", None)], "Row 1 of the texts is no pair"),
        ([("a", "b"), "cd"], "Row 1 of the texts is no pair"),
        ((["a"], ["b", "c"]), "There are 1 first and 2 second texts"),
    ],
)
def test_what_is_no_pair_is_named(given: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        as_pairs(given)
