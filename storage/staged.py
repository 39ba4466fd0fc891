"""Result rows as each task wrote them: a killed run loses none, and the database can be rebuilt from them."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import polars as pl

from storage.files import exists, list_files, read_bytes, write_atomically
from storage.layout import Layout
from storage.migrations import result_tables


def stage(layout: Layout, run_id: str, table: str, part: str, rows: pl.DataFrame) -> None:
    """Write the rows of one part of a table; they appear whole or not at all, and replace the part's old rows."""
    write_atomically(layout.staged(run_id, table, part), rows.write_parquet)


def keyed(key: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` after the columns of `key`, which has one row."""
    # Not by an expression: Polars' own threads evaluate it, and wait for a core beside layers that are being scored.
    return pl.DataFrame([each.new_from_index(0, rows.height) for each in key] + rows.get_columns())


def rows_of(table: str, key: pl.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of a result table after the columns of `key`, each column of the table's own type.

    Without rows the columns are there all the same: a curve without a turn has an empty frame.
    """
    types = result_tables()[table].columns
    named = rows[0] if rows else [name for name in types if name not in key.columns]
    return keyed(key, pl.DataFrame(rows, schema={name: types[name] for name in named}))


def is_staged(layout: Layout, run_id: str, table: str, part: str) -> bool:
    """Whether a part's rows are there."""
    return exists(layout.staged(run_id, table, part))


def read_part(layout: Layout, run_id: str, table: str, part: str) -> pl.DataFrame | None:
    """The rows of one part; None where they are not there."""
    try:
        return pl.read_parquet(BytesIO(read_bytes(layout.staged(run_id, table, part))))
    except FileNotFoundError:
        return None


def read_staged(layout: Layout, run_id: str, table: str, prefix: str = "") -> pl.DataFrame:
    """The rows of every part of a table whose name begins with `prefix`, in the order of the names.

    A column that some parts lack, since an older version staged them, is null there.

    Raises:
        FileNotFoundError: nothing is staged there.
    """
    folder = layout.staged_table(run_id, table)
    parts = [each for each in list_files(folder, ".parquet") if each.rsplit("/", 1)[1].startswith(prefix)]
    if not parts:
        raise FileNotFoundError(f"No staged rows of {table} ({prefix}*) in {folder}.")
    # Collected as one: Polars starts a query a part otherwise.
    return pl.concat([pl.scan_parquet(BytesIO(read_bytes(part))) for part in parts], how="diagonal").collect()
