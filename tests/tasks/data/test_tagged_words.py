"""Lists of words and of tags: which columns they are, what is refused, and the words as rows."""

from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import prepare_dataset, read_dataset
from tasks.data.stored_table import read_table
from tasks.data.tagged_words import text_rows, word_lists
from tasks.vocabulary import Task

WORDS = [["the", "sea"], ["a", "ship", "a"], ["wind"], ["the", "wave", "of"]] * 5
TAGS = [["D", "N"], ["D", "N", "D"], ["N"], ["D", "N", "P"]] * 5


def write(folder: Path, **columns: Any) -> str:
    pl.DataFrame(columns).write_parquet(folder / "rows.parquet")
    return f"path:{folder / 'rows.parquet'}"


def read(spec: str, folder: Path, **asked: Any) -> Any:
    return read_dataset(spec, Layout(str(folder)), **asked)


def test_words_are_rows_of_their_texts(tmp_path: Path) -> None:
    found = prepare_dataset(write(tmp_path, tokens=WORDS, tags=TAGS), Layout(str(tmp_path / "out")))
    assert found.task is Task.TOKEN_CLASSIFICATION
    assert found.classes == ("D", "N", "P")
    assert found.texts == 20
    table = read_table(found.uri)
    assert table.columns == ["row_id", "text", "label", "split", "text_id", "at"]
    assert found.words is not None
    texts = read_table(found.words)["words"].to_list()
    # Train texts first, each as it was in the source.
    assert sorted(texts) == sorted(WORDS)
    for row in table.iter_rows(named=True):
        words = texts[row["text_id"]]
        assert words[row["at"]] == row["text"]
        assert found.classes[row["label"]] == TAGS[WORDS.index(words)][row["at"]]
    assert text_rows(table)["text"].to_list() == [" ".join(each) for each in texts]


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        ({"tokens": WORDS, "ner_tags": TAGS}, Task.TOKEN_CLASSIFICATION),
        ({"words": WORDS, "labels": TAGS}, Task.TOKEN_CLASSIFICATION),
        ({"text": WORDS, "label": TAGS}, Task.TOKEN_CLASSIFICATION),
        ({"text": ["a text"] * 20, "tokens": WORDS, "ner_tags": TAGS}, Task.TOKEN_CLASSIFICATION),
        # One list of labels a text, whatever its words are.
        ({"text": ["a text"] * 20, "tokens": WORDS, "labels": [["x"], ["y"]] * 10}, Task.MULTI_LABEL),
        ({"text": ["a text"] * 20, "tokens": WORDS, "label": ["x", "y"] * 10}, Task.SINGLE_LABEL),
    ],
)
def test_task_is_told_by_the_columns(columns: dict[str, Any], task: Task, tmp_path: Path) -> None:
    assert read(write(tmp_path, **columns), tmp_path)[0].task is task


def test_arrays_are_lists(tmp_path: Path) -> None:
    def arrays(rows: list[list[Any]]) -> pl.Series:
        return pl.Series(rows, dtype=pl.Array(pl.String, 2))

    texts = {"text": ["a text"] * 20, "tokens": WORDS}
    spec = write(tmp_path, **texts, label=arrays([["x", "y"], ["y", "z"]] * 10))
    assert read(spec, tmp_path)[0].task is Task.MULTI_LABEL
    words, tags = arrays([["the", "sea"]] * 20), arrays([["D", "N"]] * 20)
    found, table = read(write(tmp_path, tokens=words, tags=tags), tmp_path)
    assert (found.task, found.classes) == (Task.TOKEN_CLASSIFICATION, ("D", "N"))
    assert table["text"].to_list() == ["the", "sea"] * 20


def test_caps_count_texts_and_groups_stay_whole(tmp_path: Path) -> None:
    spec = write(tmp_path, tokens=WORDS, tags=TAGS, who=[str(i % 5) for i in range(20)])
    found, table = read(spec, tmp_path, max_train_rows=6, max_test_rows=3, group_column="who")
    assert found.texts == 9
    splits = table.group_by("text_id").agg(pl.col("split").n_unique(), pl.col("place").first())
    assert splits["split"].to_list() == [1] * 9
    who = {split: {place % 5 for place in table.filter(split=split)["place"]} for split in ("train", "test")}
    assert not who["train"] & who["test"]


def test_numbered_tags_of_the_hub_keep_their_names_and_places(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-X", "I-X"])),
        }
    )
    rows = {"tokens": [["a", "b", "a", "c"]] * 12, "ner_tags": [[1, 2, 1, 0]] * 12}
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "set")
    found, table = read(f"path:{tmp_path / 'set'}", tmp_path)
    assert found.classes == ("O", "B-X", "I-X")
    assert table["label"].to_list() == [1, 2, 1, 0] * 12
    assert word_lists(table)["words"].to_list() == rows["tokens"]


def test_numbers_are_tags_as_they_are_written(tmp_path: Path) -> None:
    numbers = [[len(word) for word in words] for words in WORDS]
    assert read(write(tmp_path, tokens=WORDS, tags=numbers), tmp_path)[0].classes == ("1", "2", "3", "4")


def test_tags_that_train_lacks_count_as_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, tags in (("train", TAGS), ("test", [*TAGS[:-1], ["D", "N", "Z"]])):
        pl.DataFrame({"tokens": WORDS, "tags": tags}).write_parquet(tmp_path / f"{split}.parquet")
    found, table = read(f"path:{tmp_path}", tmp_path)
    assert found.classes == ("D", "N", "P", "Z")
    assert table["label"].to_list()[-1] == 3
    assert "1 of 45 test words" in caplog.text
    assert "('Z'): they count as wrong" in caplog.text


@pytest.mark.parametrize(
    ("words", "tags", "said"),
    [
        ([["a", "b"]], [["O"]], r"Row 21 .* has 2 words .* and 1 tags .*; 1 of 21 rows"),
        ([["a", " "]], [["O", "X"]], r"Row 21 .* an empty word"),
        ([["a", None]], [["O", "X"]], r"Row 21 .* an empty word"),
        ([[]], [[]], r"Row 21 .* no words"),
        ([["a", "b"]], [["O", None]], r"Row 21 .* a word without a tag"),
        ([["a", "b"]], [["O", ""]], r"Row 21 .* a word without a tag"),
    ],
)
def test_what_is_no_tagged_text_is_refused(words: Any, tags: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read(write(tmp_path, tokens=[*WORDS, *words], tags=[*TAGS, *tags]), tmp_path)


def test_columns_that_are_none_are_refused(tmp_path: Path) -> None:
    half = [[len(word) / 3 for word in words] for words in WORDS]
    with pytest.raises(UserError, match=r"'tags' .* a label is an integer or a string"):
        read(write(tmp_path, tokens=WORDS, tags=half), tmp_path)
    with pytest.raises(UserError, match=r"'tags' .* is String, and words and their tags are lists"):
        read(write(tmp_path, tokens=WORDS, tags=["x", "y"] * 10), tmp_path, task="token-classification")
    numbers = [[len(word) for word in words] for words in WORDS]
    with pytest.raises(UserError, match=r"'tokens' .* lists of Int64, and words are strings"):
        read(write(tmp_path, tokens=numbers, tags=TAGS), tmp_path)
    with pytest.raises(UserError, match="one column each, and 2 were named"):
        read(
            write(tmp_path, tokens=WORDS, tags=TAGS, more=TAGS),
            tmp_path,
            task="token-classification",
            label_column=["tags", "more"],
        )
    with pytest.raises(UserError, match="states that somebody saved are of whole texts"):
        read(write(tmp_path, tokens=WORDS, tags=TAGS), tmp_path, of_saved_states=True)


@pytest.mark.parametrize(("train", "test"), [(20, 1), (1, 20), (7, 0)])
def test_a_split_of_one_text_is_refused(train: int, test: int, tmp_path: Path) -> None:
    long = [[word for words in each for word in words] for each in (WORDS, TAGS)]
    for split, count in (("train", train), ("test", test)):
        rows = {"tokens": WORDS, "tags": TAGS} if count > 1 else {"tokens": long[:1], "tags": long[1:]}
        if count:
            pl.DataFrame(rows)[:count].write_parquet(tmp_path / f"{split}.parquet")
    side = "train" if train == 1 else "test"
    with pytest.raises(UserError, match=rf"{side} of path:.* has one text.*at least two.*'tokens'"):
        read(f"path:{tmp_path}", tmp_path)
