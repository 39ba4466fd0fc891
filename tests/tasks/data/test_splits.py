"""Which rows are train and which are test, where a column or groups say it."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tasks.data.splits import split_rows, stratified_sample

ROWS = pl.DataFrame(
    {
        "text": [f"text {i}" for i in range(12)],
        "label": ["a", "b"] * 6,
        "part": ["test", "train", "TRAIN", " dev", "Test", "training"] * 2,
        "author": [f"author {i % 4}" for i in range(12)],
    }
)


def read(rows: pl.DataFrame, folder: Path, **asked: Any) -> pl.DataFrame:
    rows.write_csv(folder / "all.csv")
    return read_dataset(f"path:{folder / 'all.csv'}", Layout(""), **asked)[1]


def test_a_column_says_of_each_row_which_split_it_is_of(tmp_path: Path) -> None:
    found = read(ROWS, tmp_path, split_column="part")
    expected = [f"text {i}" for i in (0, 4, 6, 10)]
    assert found.filter(split="test")["text"].to_list() == expected
    train = found.filter(split="train")
    # Train, then validation, each in the order of the file; places are those in the file.
    assert train["text"].to_list() == [f"text {i}" for i in (1, 2, 5, 7, 8, 11, 3, 9)]
    assert [f"text {place}" for place in found["place"]] == found["text"].to_list()


def test_without_a_row_of_test_a_part_is_set_aside(tmp_path: Path) -> None:
    found, _ = read_dataset(
        f"path:{write(ROWS.with_columns(part=pl.lit('train')), tmp_path)}", Layout(""), split_column="part"
    )
    assert (found.train_rows, found.test_rows, found.test_is_made) == (10, 2, True)


def write(rows: pl.DataFrame, folder: Path) -> Path:
    rows.write_csv(folder / "all.csv")
    return folder / "all.csv"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (["train", "other"] * 6, r"of 'other', and rows are of train, training, validation"),
        (["train", None] * 6, "of None, and rows are of"),
        (["test", "dev"] * 6, "No row of .* is of train"),
    ],
)
def test_a_column_that_says_something_else_is_refused(
    part: list[str | None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read(ROWS.with_columns(part=pl.Series(part)), tmp_path, split_column="part")


def test_a_column_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'fold' in every split \(--split-column\)"):
        read(ROWS, tmp_path, split_column="fold")
    with pytest.raises(UserError, match=r"no column 'film' in every split \(--group-column\)"):
        read(ROWS, tmp_path, group_column="film")


@given(
    groups=st.lists(st.integers(0, 9), min_size=40, max_size=120).filter(lambda each: len(set(each)) > 4),
    seed=st.integers(0, 99),
)
@settings(deadline=None)  # the first one imports scikit-learn
def test_no_group_is_on_both_sides(groups: list[int], seed: int) -> None:
    rows = pl.DataFrame(
        {"value": ["a", "b"] * (len(groups) // 2) + ["a"] * (len(groups) % 2), "group": map(str, groups)}
    ).with_row_index("row")
    train, test = split_rows({"train": rows}, seed, "x")
    assert sorted([*train["row"], *test["row"]]) == rows["row"].to_list()
    assert not set(train["group"]) & set(test["group"])
    assert train["group"].n_unique() > 1
    assert test["group"].n_unique() > 1
    again = split_rows({"train": rows}, seed, "x")
    assert train.equals(again[0])


def test_the_share_of_test_and_its_classes_are_about_those_of_all_rows() -> None:
    rows = pl.DataFrame({"value": ["a", "a", "b"] * 400, "group": [str(i // 6) for i in range(1_200)]})
    _, test = split_rows({"train": rows}, 0, "x")
    assert test.height == pytest.approx(240, abs=12)
    assert (test["value"] == "a").mean() == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["x", "y"], ["y", "z"], r"1 groups of it stand in train and in test, such as 'y'"),
        (["x", None], ["z", "z"], "1 rows of it are of no group"),
        (["x", "x"], None, "it has 1 group, and"),
    ],
)
def test_groups_that_do_not_part_the_rows_are_refused(
    train: list[str | None], test: list[str] | None, message: str
) -> None:
    splits = {"train": pl.DataFrame({"value": ["a", "b"], "group": train})}
    if test is not None:
        splits["test"] = pl.DataFrame({"value": ["a", "b"], "group": test})
    with pytest.raises(UserError, match=message):
        split_rows(splits, 0, "it")


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (
            ["x"] * 12,
            ["y", "z"] * 6,
            r"All train rows of .*all \(--group-column author\) are of the group 'x'",
        ),
        (["y", "z"] * 6, ["x"] * 12, r"All test rows of .* are of the group 'x'.* leave --group-column out"),
    ],
)
def test_a_split_of_one_group_is_refused(
    train: list[str], test: list[str], told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    for split, authors in (("train", train), ("test", test)):
        ROWS.with_columns(author=pl.Series(authors)).write_csv(folder / f"{split}.csv")
    with pytest.raises(UserError, match=told):
        read_dataset(f"path:{folder}", Layout(""), group_column="author")


def test_groups_that_a_sample_leaves_out_are_missed(tmp_path: Path) -> None:
    ROWS.write_csv(tmp_path / "train.csv")
    # The sample of four takes other rows than the first.
    ROWS.with_columns(author=pl.Series(["y"] + ["x"] * 11)).write_csv(tmp_path / "test.csv")
    with pytest.raises(UserError, match=r"All test rows .* of the group 'x'.*raise --max-test-rows"):
        read_dataset(f"path:{tmp_path}", Layout(""), group_column="author", max_test_rows=4)


@pytest.mark.parametrize("count", [2, 3])
def test_groups_too_few_for_two_on_either_side_are_refused(count: int, tmp_path: Path) -> None:
    rows = ROWS.with_columns(author=pl.Series([f"a{i // 2 % count}" for i in range(12)]))
    with pytest.raises(
        UserError, match=rf"has {count} groups.* four are the least.*leave --group-column out"
    ):
        read(rows, tmp_path, group_column="author")


@pytest.mark.parametrize("count", [4, 5, 6, 9])
@pytest.mark.parametrize("most", [2, 40])
def test_few_groups_have_two_on_either_side(count: int, most: int) -> None:
    """Also where one of them has most of the rows."""
    groups = [f"g{i}" for i in range(count) for _ in range(most if i == 0 else 2)]
    rows = pl.DataFrame({"value": ["a", "b"] * (len(groups) // 2), "group": groups})
    for seed in range(5):
        train, test = split_rows({"train": rows}, seed, "x")
        assert train["group"].n_unique() > 1
        assert test["group"].n_unique() > 1
        assert train.height + test.height == rows.height


@pytest.mark.parametrize(("of_each", "share"), [(3, 1 / 3), (4, 1 / 4), (5, 1 / 5), (6, 1 / 5)])
def test_classes_of_few_rows_make_a_larger_part_of_groups(of_each: int, share: float, tmp_path: Path) -> None:
    """Of fewer rows than there are folds each fold would have a class less."""
    rows = ROWS[:0].vstack(pl.concat([ROWS] * 3)[: 4 * of_each])
    rows = rows.with_columns(
        label=pl.Series([f"c{i % 4}" for i in range(4 * of_each)]),
        author=pl.Series([f"a{i}" for i in range(4 * of_each)]),
    )
    found = read(rows, tmp_path, group_column="author")
    assert (found["split"] == "test").mean() == pytest.approx(share, abs=0.1)
    for split in ("train", "test"):
        assert found.filter(split=split)["label"].n_unique() == 4


def test_classes_of_one_row_are_refused(tmp_path: Path) -> None:
    rows = ROWS.with_columns(label=pl.col("text"), author=pl.col("text"))
    with pytest.raises(UserError, match=r"No class of .*--group-column author\) has two rows"):
        read(rows, tmp_path, group_column="author")


def test_two_rows_of_a_class_at_most_that_no_two_folds_part(tmp_path: Path) -> None:
    rows = pl.DataFrame({"value": [f"c{i // 2}" for i in range(12)], "group": list("aaaaaaaaabcd")})
    train, test = split_rows({"train": rows}, 0, "x")
    assert train["group"].n_unique() > 1
    assert test["group"].n_unique() > 1


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=8, max_size=60), seed=st.integers(0, 5), data=st.data()
)
def test_rows_in_turn_begin_with_every_smaller_sample(
    labels: list[str], seed: int, data: st.DataObject
) -> None:
    rows = pl.DataFrame({"value": labels, "place": range(len(labels))})
    whole = stratified_sample(rows, None, seed, in_turn=True)
    assert sorted(whole["place"]) == list(range(len(labels)))
    most = data.draw(st.integers(6, len(labels)))
    first = stratified_sample(rows, most, seed, in_turn=True)
    assert first.equals(whole.head(most))
    # The same rows as without turns, which are in the order of the source.
    assert stratified_sample(rows, most, seed).equals(first.sort("place"))
