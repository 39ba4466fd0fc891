"""Several labels a text, and numbers: what columns are taken for, how they are read, the classes made of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tasks.data.stored_table import fingerprint_table, targets_of
from tasks.data.targets import MOST_VALUES, NO_LABEL, PARTS, read_targets, task_of, with_classes
from tasks.vocabulary import Task

TEXTS = [f"text number {i}" for i in range(60)]


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        ([pl.Series([["a"], []])], Task.MULTI_LABEL),
        ([pl.Series("x", ["0"]), pl.Series("y", ["1"])], Task.MULTI_LABEL),
        ([pl.Series([0.5, 1.0, None])], Task.REGRESSION),
        ([pl.Series(["0.5", " ", "1"])], Task.REGRESSION),
        ([pl.Series([1.0, 2.0])], Task.SINGLE_LABEL),
        ([pl.Series([1, 2])], Task.SINGLE_LABEL),
        ([pl.Series(["1.5", "two"])], Task.SINGLE_LABEL),
        ([pl.Series(["1.5", "inf"])], Task.SINGLE_LABEL),
    ],
)
def test_what_columns_are_for(columns: list[pl.Series], task: Task) -> None:
    assert task_of(columns) is task


def test_several_labels_are_lists_or_columns_of_0_and_1() -> None:
    lists = pl.Series("labels", [["b", "a", "b"], [], None, ["a", None]])
    assert read_targets([lists], Task.MULTI_LABEL, "here").to_list() == [["b", "a"], [], None, ["a"]]
    numbered = pl.Series("labels", [[3, 1], [2]])
    assert read_targets([numbered], Task.MULTI_LABEL, "here").to_list() == [["3", "1"], ["2"]]
    flags = [pl.Series("x", ["1", "0", None]), pl.Series("y", ["true", "1", "0"])]
    assert read_targets(flags, Task.MULTI_LABEL, "here").to_list() == [["x", "y"], ["y"], None]


@given(st.lists(st.none() | st.lists(st.none() | st.sampled_from("abc"), max_size=4), max_size=12))
def test_lists_are_read_as_python_reads_them(rows: list[list[str | None] | None]) -> None:
    got = read_targets(
        [pl.Series("labels", rows, dtype=pl.List(pl.String))], Task.MULTI_LABEL, "here"
    ).to_list()
    assert got == [
        row if row is None else list(dict.fromkeys(each for each in row if each is not None)) for row in rows
    ]


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        (
            [pl.Series("x", [0, 1]), pl.Series("x", [0, 1])],
            Task.MULTI_LABEL,
            "Column 'x' of here is named as a label column more than once. Name it once.",
        ),
        ([pl.Series("n", ["1.5", "abc"])], Task.REGRESSION, "Row 2 in here has 'abc' in column 'n'"),
        ([pl.Series("n", [1.0, np.inf])], Task.REGRESSION, "Row 2 in here has inf"),
        ([pl.Series("n", [["a"]])], Task.REGRESSION, "'n' in here is List"),
        ([pl.Series("n", [1.0]), pl.Series("m", [1.0])], Task.REGRESSION, "2 columns of here"),
        ([pl.Series("n", ["a"])], Task.MULTI_LABEL, "a column of lists"),
        ([pl.Series("n", ["1"]), pl.Series("m", ["maybe"])], Task.MULTI_LABEL, "'m' in here holds 'maybe'"),
    ],
)
def test_what_cannot_be_read_is_said(columns: list[pl.Series], task: Task, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_targets(columns, task, "here")


ONE_HOT = [[0, 0, 1], [1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("labels", ONE_HOT),
        pl.Series("labels", [*ONE_HOT, None]),
        pl.Series("labels", ONE_HOT, dtype=pl.Array(pl.Float64, 3)),
        pl.Series("labels", [[str(each) for each in row] for row in ONE_HOT]),
        pl.Series("labels", [[bool(each) for each in row] for row in ONE_HOT]),
        pl.Series("labels", [[0, 1], [0, 0]]),
    ],
    ids=["integers", "a row without", "arrays", "texts", "booleans", "two"],
)
def test_lists_that_say_of_each_label_whether_a_row_has_it_are_refused(column: pl.Series) -> None:
    with pytest.raises(
        UserError, match=r"'labels' in here holds lists of (2|3), each 0 or 1.*--label-column"
    ):
        read_targets([column], Task.MULTI_LABEL, "here")


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 1], [1, 0]],  # two labels a row, each once
        [[0, 0, 1], [1, 1]],  # of no one length
        [[0, 0, 2], [1, 0, 1]],
        [["a", "a"], ["b", "a"]],
        [[1], [0]],
        [[], []],
        [[None, None], [0, 1]],
    ],
)
def test_other_lists_are_sets_of_labels(rows: list[list[Any]]) -> None:
    found = read_targets([pl.Series("labels", rows)], Task.MULTI_LABEL, "here")
    assert [set(row) for row in found] == [{str(each) for each in row if each is not None} for row in rows]


def test_few_numbers_are_classes_of_their_own_and_many_are_parts() -> None:
    stars = pl.DataFrame({"target": [1.0, 3.0, 2.0, 3.0]})
    test = pl.DataFrame({"target": [2.4, 9.0, -9.0]})
    found = with_classes({"train": stars, "test": test}, Task.REGRESSION, None, "here")
    assert found.classes == ["1", "2", "3"]
    assert found.splits["train"]["value"].to_list() == ["1", "3", "2", "3"]
    assert found.splits["test"]["value"].to_list() == ["2", "3", "1"]
    assert targets_of(found.splits["test"]).tolist() == [[2.4], [9.0], [-9.0]]
    many = pl.DataFrame({"target": np.random.default_rng(0).normal(size=20 * MOST_VALUES)})
    parts = with_classes({"train": many}, Task.REGRESSION, None, "here").splits["train"]
    counts = parts.group_by("value").agg(pl.len(), pl.col("target").list.first().mean()).sort("value")
    assert counts["len"].to_list() == [len(many) // PARTS] * PARTS
    assert counts["target"].is_sorted()


def test_numbers_most_of_which_are_the_largest_are_two_parts() -> None:
    capped = pl.DataFrame({"target": [5.0] * 90 + [i / 10 for i in range(12)]})
    found = with_classes({"train": capped}, Task.REGRESSION, None, "here")
    assert found.classes == ["part 1 of 2, up to 1.1", "part 2 of 2, over 1.1"]
    assert found.splits["train"]["value"].to_list() == [found.classes[1]] * 90 + [found.classes[0]] * 12


@pytest.mark.parametrize("unit", [1e-120, 1e120])
def test_numbers_whose_squares_are_beyond_float64_are_refused(unit: float) -> None:
    rows = pl.DataFrame({"target": [unit * i for i in range(20)]})
    with pytest.raises(UserError, match=r"The numbers of here lie 1.9e.* apart.* Give them in another unit"):
        with_classes({"train": rows}, Task.REGRESSION, None, "here")


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ([20200101.0, 20200102.0, 3.0], ["3", "20200101", "20200102"]),
        ([0.12345678, 0.12345679, 1e6], ["0.12345678", "0.12345679", "1e+06"]),
        ([1e20, 1e20 + 2**14, 1e-7], ["1e-07", "1e+20", "1.0000000000000002e+20"]),
        ([1234567.0, 1e-5, 2.50], ["1e-05", "2.5", "1.23457e+06"]),
    ],
)
def test_names_of_few_numbers_differ(numbers: list[float], names: list[str]) -> None:
    rows = pl.DataFrame({"target": numbers})
    found = with_classes({"train": rows}, Task.REGRESSION, None, "here")
    assert found.classes == names
    in_order = [names[place] for place in np.argsort(np.argsort(numbers))]
    assert found.splits["train"]["value"].to_list() == in_order


def test_rare_sets_of_labels_go_with_their_most_frequent_label() -> None:
    rows = [["a"]] * 12 + [["a", "b"]] * 10 + [["b", "c"]] * 2 + [[]]
    train = pl.DataFrame({"target": rows})
    test = pl.DataFrame({"target": [["c", "a"], []]})
    found = with_classes({"train": train, "test": test}, Task.MULTI_LABEL, None, "here")
    assert found.names == ("a", "b", "c")
    values = found.splits["train"]["value"]
    assert values.unique().sort().to_list() == found.classes == ["a", "a + b", "b", NO_LABEL]
    assert values.to_list() == ["a"] * 12 + ["a + b"] * 10 + ["b"] * 2 + [NO_LABEL]
    assert found.splits["test"]["value"].to_list() == ["a", NO_LABEL]
    assert targets_of(found.splits["test"]).tolist() == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(UserError, match=r"labels that no train row has \('d'\)"):
        with_classes(
            {"train": train, "test": pl.DataFrame({"target": [["d"]]})}, Task.MULTI_LABEL, None, "here"
        )


@pytest.mark.parametrize(
    ("sets", "classes"),
    [
        ([[], [NO_LABEL], ["a"]], ["(no label)", "a", "no label"]),
        ([["a", "b"], ["a + b"], ["a"]], ["(a + b)", "a", "a + b"]),
        ([["a", "b + c"], ["a + b", "c"]], ["(a + b + c)", "a + b + c"]),
    ],
)
def test_sets_of_labels_are_never_taken_for_another(sets: list[list[str]], classes: list[str]) -> None:
    train = pl.DataFrame({"target": sets * 10}, schema={"target": pl.List(pl.String)})
    found = with_classes({"train": train}, Task.MULTI_LABEL, None, "here")
    assert found.classes == classes
    told = set(zip(map(frozenset, train["target"]), found.splits["train"]["value"], strict=True))
    assert len(told) == len(sets)


def test_a_label_that_all_rows_have_leaves_them_their_other_labels() -> None:
    train = pl.DataFrame(
        {"target": [["en", "a", str(i)] if i % 2 else ["en", "b", str(i)] for i in range(40)]}
    )
    found = with_classes({"train": train}, Task.MULTI_LABEL, None, "here")
    assert found.classes == ["a", "b"]


def write(folder: Path, **columns: list[object]) -> str:
    pl.DataFrame({"text": TEXTS} | columns).write_parquet(folder / "all.parquet")
    return f"path:{folder / 'all.parquet'}"


def test_a_data_set_of_numbers(tmp_path: Path) -> None:
    scores = [i / 7 for i in range(60)]
    found, table = read_dataset(write(tmp_path, label=scores), Layout(""))
    assert found.task is Task.REGRESSION
    assert (found.target_names, len(found.classes)) == ((), PARTS)
    told = dict(zip(TEXTS, scores, strict=True))
    assert targets_of(table)[:, 0].tolist() == [told[text] for text in table["text"]]
    # A fifth of each part.
    assert table.filter(split="test").group_by("label").len()["len"].to_list() == [12 // 5] * PARTS
    other, _ = read_dataset(write(tmp_path, label=[*scores[:-1], 9.0]), Layout(""))
    assert other.fingerprint != found.fingerprint
    classes, plain = read_dataset(write(tmp_path, label=[f"{i % 3}" for i in range(60)]), Layout(""))
    assert classes.task is Task.SINGLE_LABEL
    assert "target" not in plain.columns
    assert fingerprint_table(plain, classes.classes) == classes.fingerprint


def test_integers_are_classes_unless_a_number_is_asked_for(tmp_path: Path) -> None:
    spec = write(tmp_path, label=[i % 5 for i in range(60)])
    assert read_dataset(spec, Layout(""))[0].task is Task.SINGLE_LABEL
    found, _ = read_dataset(spec, Layout(""), task="regression")
    assert (found.task, found.classes) == (Task.REGRESSION, ("0", "1", "2", "3", "4"))


def test_a_data_set_of_several_labels_in_columns_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd, third = [i % 2 for i in range(60)], [i % 3 == 0 for i in range(60)]
    spec = write(tmp_path, odd=odd, third=third)
    found, table = read_dataset(spec, Layout(""), label_column=("odd", "third"))
    assert (found.task, found.target_names, found.label_column) == (
        Task.MULTI_LABEL,
        ("odd", "third"),
        "odd + third",
    )
    numbers = [TEXTS.index(text) for text in table["text"]]
    assert targets_of(table).tolist() == [[odd[i], third[i]] for i in numbers]
    never = write(tmp_path, odd=odd, third=third, never=[0] * 60)
    found, _ = read_dataset(never, Layout(""), label_column=("odd", "third", "never"))
    assert found.target_names == ("odd", "third")
    assert "has never, which is left out" in caplog.text
    with pytest.raises(UserError, match="A text has one class, and 2 label columns were named"):
        read_dataset(spec, Layout(""), label_column=("odd", "third"), task="single-label")


def test_lists_of_class_labels_have_their_names(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["joy", "anger", "fear"]))})
    rows = {"text": TEXTS, "labels": [[0, 2] if i % 2 else [1] for i in range(60)]}
    saved = Dataset.from_dict(rows, features=features)
    saved.save_to_disk(tmp_path / "saved")
    saved.to_parquet(tmp_path / "train.parquet")
    assert b"ClassLabel" in pq.read_schema(tmp_path / "train.parquet").metadata[b"huggingface"]
    for spec in (f"path:{tmp_path / 'saved'}", f"path:{tmp_path / 'train.parquet'}"):
        found, _ = read_dataset(spec, Layout(""))
        assert found.target_names == ("joy", "anger", "fear")
        assert found.classes == ("anger", "joy + fear")


def test_lists_without_any_label_are_lists_all_the_same(tmp_path: Path) -> None:
    rows = [{"text": text, "labels": [["a"], ["b"]][i % 2]} for i, text in enumerate(TEXTS)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    none = [{"text": f"other {i}", "labels": []} for i in range(10)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, none)))
    assert read_dataset(f"path:{tmp_path}", Layout(""))[0].target_names == ("a", "b")


def test_lists_in_json_are_several_labels(tmp_path: Path) -> None:
    rows = [{"text": text, "labels": [["a", 1], [], ["b"]][i % 3]} for i, text in enumerate(TEXTS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, _ = read_dataset(f"path:{tmp_path / 'rows.jsonl'}", Layout(""))
    assert found.target_names == ("1", "a", "b")
    assert found.classes == ("1 + a", "b", NO_LABEL)


def test_a_row_without_a_label_is_named(tmp_path: Path) -> None:
    spec = write(tmp_path, label=[None, *(i / 7 for i in range(59))])
    with pytest.raises(UserError, match=r"Row 1 in train of .* has no label"):
        read_dataset(spec, Layout(""))
