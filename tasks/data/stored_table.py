"""The table of a clean data set where it is stored: one Parquet file `row_id, text, label, split`, train rows first."""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.files import exists, filesystem, write_atomically
from tasks.data.tagged_words import fingerprint_words

log = logging.getLogger(__name__)

ROWS_PER_GROUP = 1_000


def store_table(uri: str, table: pl.DataFrame) -> None:
    """Write a table, unless it lies there already, whole."""
    there = stored_table(uri)
    if there is None or not there.equals(table):
        if exists(uri):
            log.warning("The data set's table %s is damaged, and is written anew", uri)
        write_atomically(uri, partial(table.write_parquet, row_group_size=ROWS_PER_GROUP))


def read_table(uri: str, rows: range | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The stored table `row_id int64, text string, label int32, split string`, train rows first.

    rows: a range in steps of one, which is read without the row groups that hold none of it; None is all. columns:
    those that are read; None is all.
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
        read = file.read_row_groups(groups, columns).slice(rows.start - first, len(rows))
    return pl.DataFrame(read)


def stored_table(uri: str) -> pl.DataFrame | None:
    """`read_table` of all rows; None where there is no table, or one that cannot be read."""
    try:
        return read_table(uri)
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError):
        return None


def targets_of(table: pl.DataFrame) -> NDArray[np.float64]:
    """The targets of some rows of the stored table, [N, T]."""
    return table["target"].explode(empty_as_null=False).to_numpy().reshape(len(table), -1)


def fingerprint_table(
    table: pl.DataFrame, classes: tuple[str, ...], target_names: tuple[str, ...] = ()
) -> str:
    """32 hex digits of a SHA-256 over every text, label, pair, target, word and split in order, and class names."""
    whole = hashlib.sha256()
    for name in (*classes, *target_names):
        whole.update(f"{len(name)}:{name}".encode())
    for text, label, split in table.select("text", "label", "split").iter_rows():
        encoded = text.encode()
        whole.update(f"|{split}:{label}:{len(encoded)}:".encode() + encoded)
    if "pair" in table.columns:
        for texts in table["pair"]:
            for text in texts:
                encoded = text.encode()
                whole.update(f"|{len(encoded)}:".encode() + encoded)
    if "target" in table.columns:
        whole.update(targets_of(table).tobytes())
    if "text_id" in table.columns:
        whole.update(fingerprint_words(table).encode())
    if "group_id" in table.columns:
        whole.update(table["group_id"].to_numpy().tobytes())
    if "weight" in table.columns:
        whole.update(table["weight"].to_numpy().tobytes())
    return whole.hexdigest()[:32]
