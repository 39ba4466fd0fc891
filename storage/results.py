"""The results database: opened, migrated, merged and queried here, and written nowhere else.

DuckDB locks a whole file for one writing process. So a merge works on a copy under an OS file lock, which the
kernel frees when its holder dies, and replaces the file atomically: a reader keeps the file that it opened, blocks
nobody, and is blocked by nobody.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import duckdb
import polars as pl
from filelock import FileLock, Timeout

from storage.errors import UserError
from storage.files import exists, read_bytes, write_atomically
from storage.layout import writer_lock
from storage.migrations import migrate, result_tables

# A merge takes seconds; a writer that is stopped must not stop every later run for ever, without a word.
WRITER_SECONDS = 600


class ImpossibleRowError(ValueError):
    """Rows of a run contradict each other, such as a layer that its model does not have."""


def merge(database: str, run_id: str, rows: Mapping[str, pl.DataFrame]) -> None:
    """Replace the rows of one run and no others, in one short transaction.

    Args:
        database: place of the DuckDB file, a path or a URI; made when absent.
        run_id: whose rows are replaced, in every table whose rows belong to one run.
        rows: a frame a table; its columns are named as the table's and may be in any order.

    Raises:
        UserError: the database was written by a newer version.
        duckdb.ConstraintException: a row that cannot be, such as an accuracy outside 0 to 1.
        ImpossibleRowError: a row that another row contradicts, such as a layer that the model does not have.
    """
    with _copy_to_write(database, begin_empty=False) as connection:
        _replace_run(connection, run_id, rows)


def rebuild(database: str, runs: Iterable[tuple[str, Mapping[str, pl.DataFrame]]]) -> None:
    """Replace the whole database by one with these runs, each as `merge` takes it, in their order.

    `runs` is read while the writer's lock is held, so that no run is merged between its being read and written.
    """
    with _copy_to_write(database, begin_empty=True) as connection:
        for run_id, rows in runs:
            _replace_run(connection, run_id, rows)


@contextmanager
def _copy_to_write(database: str, *, begin_empty: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """One transaction on a copy of the database, which takes the database's place when the block ends well."""
    with _writer_lock(database) as lock:
        # Its name is fixed, since one writer alone is here: what a killed one left is cleared by the next.
        scratch = Path(lock.lock_file).with_suffix(".merging")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            copy = scratch / "results.duckdb"
            if exists(database) and not begin_empty:
                copy.write_bytes(read_bytes(database))
            with closing(duckdb.connect(str(copy))) as connection:
                migrate(connection)
                connection.begin()
                yield connection
                connection.commit()
                connection.execute("CHECKPOINT")
            write_atomically(database, lambda sink: _copy(copy, sink))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _writer_lock(database: str) -> Iterator[FileLock]:
    place = writer_lock(database)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place, timeout=WRITER_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"Another process has been writing {database} for {WRITER_SECONDS} s (it holds {place}). Is one stopped? "
            "End it, then give the same command again: the scores are staged, and only the merge is repeated."
        ) from error
    try:
        yield lock
    finally:
        lock.release()


def _replace_run(
    connection: duckdb.DuckDBPyConnection, run_id: str, rows: Mapping[str, pl.DataFrame]
) -> None:
    for known in result_tables().values():
        if known.belongs_to_run:
            connection.execute(f"DELETE FROM {known.name} WHERE run_id = ?", [run_id])
    for table, frame in rows.items():
        _insert(connection, table, frame)
    # What a CHECK cannot see, since it reads one row of one table.
    wrong = connection.execute(
        "SELECT DISTINCT table_name, layer, why FROM impossible_row WHERE run_id = ? ORDER BY ALL", [run_id]
    ).fetchall()
    if wrong:
        told = "; ".join(
            f"{table}{'' if layer is None else f' at layer {layer}'}: {why}"
            for table, layer, why in wrong[:5]
        )
        raise ImpossibleRowError(f"run {run_id} has rows that cannot be, and was not merged: {told}")


def _copy(file: Path, sink: BinaryIO) -> None:
    with file.open("rb") as source:
        shutil.copyfileobj(source, sink, 1 << 20)


def _insert(connection: duckdb.DuckDBPyConnection, table: str, frame: pl.DataFrame) -> None:
    known = result_tables().get(table)
    if known is None:
        raise ValueError(f"no result table {table!r}")
    if frame.is_empty():
        return
    verb = "INSERT INTO" if known.belongs_to_run else "INSERT OR REPLACE INTO"
    connection.register("incoming", frame.to_arrow())
    connection.execute(f"{verb} {table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def query(database: str, sql: str) -> pl.DataFrame:
    """Run one read-only query and return its rows.

    Raises:
        UserError: there is no database yet, or the query is wrong; DuckDB's own words are kept.
    """
    if not exists(database):
        raise UserError(
            f"There is no results database at {database}. Run `layerscout sweep` first, or name --storage."
        )
    with tempfile.TemporaryDirectory(prefix="layerscout-") as scratch:
        try:
            with closing(_connect_to_read(database, Path(scratch) / "results.duckdb")) as connection:
                return connection.sql(sql).pl()
        except duckdb.Error as error:
            raise UserError(f"DuckDB cannot answer that: {error}") from error


def _connect_to_read(database: str, copy: Path) -> duckdb.DuckDBPyConnection:
    """On a copy where the file is remote, or locked by somebody who opened it for writing, as plain DuckDB does."""
    if "://" not in database:
        try:
            return duckdb.connect(database, read_only=True)
        except duckdb.IOException as error:
            if "lock" not in str(error):
                raise
    copy.write_bytes(read_bytes(database))
    return duckdb.connect(str(copy), read_only=True)
