"""The results database: opened, migrated, merged and queried here, and written nowhere else.

DuckDB locks a whole file for one writing process. So a merge works on a copy under an OS file lock, which the
kernel frees when its holder dies, and replaces the file atomically: a reader keeps the file that it opened, blocks
nobody, and is blocked by nobody.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import duckdb
import polars as pl
from filelock import FileLock, Timeout

from storage.errors import UserError
from storage.files import exists, read_bytes, write_atomically
from storage.layout import writer_lock

# A merge takes seconds; a writer that is stopped must not stop every later run for ever, without a word.
WRITER_SECONDS = 600
# Tables whose rows belong to one run and are replaced with it, as against rows that several runs share.
RUN_TABLES = (
    "silhouette",
    "silhouette_by_class",
    "probe",
    "criterion",
    "inflection_point",
    "trend",
    "layer_choice",
    "audit",
    "curve_audit",
    "zone_audit",
    "score_audit",
)
# Written with a run but keyed by their own content: an equal row replaces itself.
SHARED_TABLES = ("run", "execution", "model", "dataset", "embedding_set")


class ImpossibleRowError(ValueError):
    """Rows of a run contradict each other, such as a layer that its model does not have."""


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (number, name, SQL), in the order of their numbers."""
    found = []
    for file in resources.files("storage.schema").iterdir():
        if matched := re.fullmatch(r"(\d{3})_(\w+)\.sql", file.name):
            found.append((int(matched[1]), matched[2], file.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Apply the migrations that a database lacks, each in a transaction of its own.

    Raises:
        UserError: the database was written by a newer version.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration "
        "(number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
    )
    applied = {number for (number,) in connection.execute("SELECT number FROM schema_migration").fetchall()}
    known = migrations()
    if newer := applied - {number for number, _, _ in known}:
        raise UserError(
            f"The results database has migration {max(newer)}, which this version of layerscout does not know. "
            "Upgrade layerscout, or use another --storage folder."
        )
    for number, name, sql in known:
        if number not in applied:
            connection.begin()
            connection.execute(sql)
            connection.execute("INSERT INTO schema_migration (number, name) VALUES (?, ?)", [number, name])
            connection.commit()


def merge(database: str, run_id: str, rows: Mapping[str, pl.DataFrame]) -> None:
    """Replace the rows of one run and no others, in one short transaction.

    Args:
        database: place of the DuckDB file, a path or a URI; made when absent.
        run_id: whose rows in the tables of `RUN_TABLES` are replaced.
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
    for table in RUN_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
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
    if table not in RUN_TABLES + SHARED_TABLES:
        raise ValueError(f"no result table {table!r}")
    if frame.is_empty():
        return
    verb = "INSERT OR REPLACE INTO" if table in SHARED_TABLES else "INSERT INTO"
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
