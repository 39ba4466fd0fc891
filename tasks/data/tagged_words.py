"""Texts as lists of words, each word with a tag: their columns, and the words as rows.

A text stays what is split, sampled and read by a model; its words are the rows that are scored.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from storage.errors import UserError
from tasks.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, find_column, reject_rows
from tasks.data.labels import in_each_list, label_values
from tasks.vocabulary import AskedTask, Task, TextPairs

# Tried in this order when no column is named.
WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags", "slots", "labels", "label", "upos", "pos_tags", "chunk_tags")
WORD_KEYS = ("text_id", "at")
"""Columns of the table of words: the number of the word's text, int64 from 0, and its place there, int32 from 0."""


def word_columns(
    train: pl.DataFrame,
    columns: list[str],
    text: Sequence[str],
    label: Sequence[str],
    task: AskedTask,
    spec: str,
) -> tuple[str, str] | None:
    """The columns of words and of tags; None where labels tell something of whole texts.

    columns: that every split has. text and label: those that were asked for. Without a task that was asked for, both
    have to hold lists; where there is a column of texts too, and that of tags has a name for labels of texts, as many
    tags as words.

    Raises:
        UserError: the task was asked for, and there are no such columns.
    """
    if task == "auto":
        if len(text) > 1 or len(label) > 1:
            return None
        words = text[0] if text else _list_column(train, columns, (*WORD_COLUMNS, *TEXT_COLUMNS))
        tags = label[0] if label else _list_column(train, columns, TAG_COLUMNS)
        if words is None or tags is None or not (_is_lists(train, words) and _is_lists(train, tags)):
            return None
        others = {each.lower() for each in columns if not _is_lists(train, each)}
        usual = tags.lower() in LABEL_COLUMNS and bool(others & {*TEXT_COLUMNS})
        is_plain = bool(text) or not usual
        lengths = [train[each].cast(pl.List(_inner(train, each))).list.len() for each in (words, tags)]
        return (words, tags) if is_plain or bool((lengths[0] == lengths[1]).all()) else None
    if Task(task) is not Task.TOKEN_CLASSIFICATION:
        return None
    for role, asked in (("text", text), ("label", label)):
        if len(asked) > 1:
            raise UserError(
                f"Words and their tags are one column each, and {len(asked)} were named ({', '.join(asked)}; "
                f"--{role}-column). Name one, or leave --task out."
            )
    return (
        find_column("text", next(iter(text), None), (*WORD_COLUMNS, *TEXT_COLUMNS), columns, spec),
        find_column("label", next(iter(label), None), (*TAG_COLUMNS, *LABEL_COLUMNS), columns, spec),
    )


def check_of_words(
    spec: str, text_pairs: TextPairs, weight_column: str | None, *, of_saved_states: bool
) -> None:
    """`UserError` where what is asked for is of whole texts, and words have tags."""
    if of_saved_states:
        raise UserError(
            f"{spec} has a tag for each word, and states that somebody saved are of whole texts. Sweep the model that "
            "they were taken from (--model), or say --task."
        )
    if text_pairs == "features":
        raise UserError(
            f"{spec} has a tag for each word, and --text-pairs features are of whole texts. Leave that out, or say "
            "--task."
        )
    if weight_column is not None:
        raise UserError(
            f"{spec} has a tag for each word, and --weight-column {weight_column} weighs whole texts. Leave that out, "
            "or say --task."
        )


def clean_words(frame: pl.DataFrame, words: str, tags: str, where: str) -> pl.DataFrame:
    """The columns `words` and `tags`, List(String) of one length a row, and `value`, null where a row has no tags.

    Raises:
        UserError: a column that holds no such lists, lists of two lengths, no words, an empty word, a word without a
            tag.
    """
    for column, what in ((words, "text"), (tags, "label")):
        if not _is_lists(frame, column):
            raise UserError(
                f"Column {column!r} in {where} is {_kind(frame[column])}, and words and their tags are lists, one of "
                f"each a text. Name another --{what}-column, or another --task."
            )
    if (of_words := _inner(frame, words)) not in (pl.String, pl.Null):
        raise UserError(
            f"Column {words!r} in {where} holds lists of {of_words}, and words are strings. Name another --text-column."
        )
    read = pl.DataFrame(
        {
            "words": frame[words].cast(pl.List(pl.String)),
            "tags": in_each_list(
                frame[tags].cast(pl.List(_inner(frame, tags))),
                lambda each: label_values(each.alias(tags), where),
            ),
        }
    )
    there = pl.col("tags").is_not_null()
    reject_rows(read, pl.col("words").list.len().fill_null(0) == 0, f"no words (column {words!r})", where)
    lengths = pl.col("words").list.len(), pl.col("tags").list.len()
    uneven = read.select(there & (lengths[0] != lengths[1])).to_series()
    if uneven.any():
        row = int(uneven.arg_true()[0])
        raise UserError(
            f"Row {row + 1:,} in {where} has {len(read['words'][row]):,} words (column {words!r}) and "
            f"{len(read['tags'][row]):,} tags (column {tags!r}); {uneven.sum():,} of {len(uneven):,} rows differ in "
            "them. Every word needs a tag of its own."
        )
    empty = pl.element().str.strip_chars().fill_null("") == ""
    reject_rows(read, pl.col("words").list.eval(empty).list.any(), f"an empty word (column {words!r})", where)
    untagged = pl.col("tags").list.eval(pl.element().is_null()).list.any().fill_null(False)
    reject_rows(read, untagged, f"a word without a tag (column {tags!r})", where)
    return read.with_columns(value=pl.when(there).then(pl.lit("")))


def as_words(train: pl.DataFrame, test: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A row a word of the texts of train and of test: `text` (the word), `value` (its tag), WORD_KEYS, `place`, `name`
    and, where texts are of groups, `group`.

    Texts are numbered from 0, those of train first.
    """
    found, first = [], 0
    for rows in (train, test):
        kept = [each for each in ("place", "group") if each in rows.columns]
        numbered = rows.select("words", "tags", *kept).with_columns(
            text_id=first + pl.int_range(pl.len(), dtype=pl.Int64),
            at=pl.int_ranges(0, pl.col("words").list.len(), dtype=pl.Int32),
        )
        exploded = numbered.explode("words", "tags", "at", empty_as_null=True).rename(
            {"words": "text", "tags": "value"}
        )
        found.append(exploded.with_columns(name=pl.lit(None, dtype=pl.String)))
        first += rows.height
    return found[0], found[1]


def word_lists(table: pl.DataFrame) -> pl.DataFrame:
    """The column `words`, List(String), a row a text, of a table of all their words in their order."""
    return table.group_by("text_id", maintain_order=True).agg(words=pl.col("text")).select("words")


def text_rows(table: pl.DataFrame) -> pl.DataFrame:
    """A row a text of a table of all their words: `text`, with spaces between its words; `label`, the number of its
    tags together; `split`."""
    texts = table.group_by("text_id", maintain_order=True).agg(
        pl.col("text").str.join(" "), pl.col("label").cast(pl.String).str.join(" "), pl.col("split").first()
    )
    return texts.select("text", pl.col("label").rank("dense").cast(pl.Int32), "split")


def fingerprint_words(table: pl.DataFrame) -> str:
    """32 hex digits of a SHA-256 over which text and place each word is of, and over the words."""
    whole = hashlib.sha256()
    for key in WORD_KEYS:
        whole.update(np.ascontiguousarray(table[key].to_numpy()).tobytes())
    whole.update(fingerprint_lists(word_lists(table)).encode())
    return whole.hexdigest()[:32]


def fingerprint_lists(texts: pl.DataFrame) -> str:
    """32 hex digits of a SHA-256 over the words of each text (`word_lists`)."""
    whole = hashlib.sha256()
    for words in texts["words"]:
        whole.update(b"|" + b" ".join(f"{len(word)}:{word}".encode() for word in words))
    return whole.hexdigest()[:32]


def _is_lists(frame: pl.DataFrame, column: str) -> bool:
    return column in frame.columns and isinstance(frame.schema[column], pl.List | pl.Array)


def _inner(frame: pl.DataFrame, column: str) -> Any:
    """The type of what the lists of a column hold, which Polars has no public name for."""
    kind = frame.schema[column]
    assert isinstance(kind, pl.List | pl.Array)
    return kind.inner


def _list_column(frame: pl.DataFrame, columns: Sequence[str], known: Sequence[str]) -> str | None:
    by_name = {column.lower(): column for column in columns if _is_lists(frame, column)}
    return next((by_name[name] for name in known if name in by_name), None)


def _kind(column: pl.Series) -> str:
    return "of objects" if column.dtype == pl.Object else str(column.dtype)
