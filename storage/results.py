"""The results database: merged, rebuilt and queried here, and written nowhere else."""

import itertools
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from storage.database_file import is_damage, open_to_read, set_aside_damaged, write_by_copy
from storage.errors import UserError
from storage.files import exists
from storage.layout import Layout
from storage.migrations import check_known, migrate, result_tables
from storage.shared_object import SharedObject, is_shared
from storage.staged import ended_runs

# How soon a long query ends after Ctrl-C.
INTERRUPT_SECONDS = 0.2
# Days of Python's dates, counted from 1970.
_FIRST_DAY, _LAST_DAY = ((day - date(1970, 1, 1)).days for day in (date.min, date.max))
# Types of DuckDB that Polars makes no column of, also inside a list or a struct.
_FOREIGN = re.compile(r"\b(INTERVAL|UNION|BIGNUM)\b")
_SURROGATE = re.compile("[\ud800-\udfff]")

# Nothing is fetched from the network unasked: with --allow-files a query may INSTALL what it needs.
_WITH_FILES = {"autoinstall_known_extensions": "false"}
_WITHOUT_FILES = {**_WITH_FILES, "enable_external_access": "false", "lock_configuration": "true"}

_REBUILD = "`layerscout rebuild` sets it aside and writes a new one from the staged rows."


class ImpossibleRowError(ValueError):
    """Rows of a run contradict each other, such as a layer that its model does not have."""


def merge(database: str, run_id: str, rows: Mapping[str, pl.DataFrame]) -> None:
    """Replace the rows of one run and no others, in one short transaction.

    Args:
        database: place of the DuckDB file, a path or a URI; made when absent.
        run_id: whose rows are replaced, in every table whose rows belong to one run.
        rows: a frame a table; its columns are named as the table's and may be in any order.

    Raises:
        UserError: the database was written by a newer version, or is no database.
        duckdb.ConstraintException: a row that cannot be, such as an accuracy outside 0 to 1.
        ImpossibleRowError: a row that another row contradicts, such as a layer that the model does not have.
    """
    try:
        write_by_copy(database, lambda connection: _replace_run(connection, run_id, rows))
    except duckdb.Error as error:
        if is_damage(error):
            raise UserError(f"{database} is damaged ({error}). {_REBUILD}") from error
        raise


@dataclass(frozen=True)
class Rebuild:
    """What became of the database that lay there, and of runs that could not be merged."""

    aside: str | None
    """Where a file lies now that DuckDB could not open; None where it could."""
    refused: Mapping[str, str]
    """run_id → why its rows cannot be."""


def rebuild(database: str, runs: Callable[[], Iterable[tuple[str, Mapping[str, pl.DataFrame]]]]) -> Rebuild:
    """Replace all rows of ours by those of these runs, each as `merge` takes it, in their order.

    `runs` is asked while the writer's lock is held, so that no run is merged between its being read and written; on an
    object store it is asked again when another machine merged meanwhile. Tables that others made are kept; a run that
    cannot be merged does not keep the others from it.
    """
    aside = set_aside_damaged(database)

    def replace_all(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        refused: dict[str, str] = {}
        with duckdb.connect() as trial:
            migrate(trial)
            for table in result_tables():
                connection.execute(f"DELETE FROM {table}")
            for run_id, rows in runs():
                trial.begin()
                try:
                    _replace_run(trial, run_id, rows)
                except (duckdb.Error, ImpossibleRowError) as error:
                    refused[run_id] = str(error)
                else:
                    _replace_run(connection, run_id, rows)
                trial.rollback()
        return refused

    return Rebuild(aside, write_by_copy(database, replace_all))


def check_database(database: str) -> None:
    """Find out before any work that a run can be merged; nothing is changed.

    Raises:
        UserError: what lies there is no database, a newer version wrote it, or a store's keys cannot be read.
    """
    if is_shared(database):
        SharedObject(database)
    if not exists(database):
        return
    try:
        applied = query(database, "SELECT number FROM schema_migration")["number"].to_list()
    except UserError as error:
        if "schema_migration does not exist" in str(error):
            return  # somebody else's database, which gets our tables
        if _REBUILD in str(error):
            raise
        raise UserError(
            f"{database} is not a database that results can be merged into: {error} `layerscout rebuild` sets it aside "
            "and writes a new one from the staged rows; or name another --storage."
        ) from error
    check_known(applied)


def query(database: str, sql: str, *, allow_files: bool = False) -> pl.DataFrame:
    """Run one read-only query and return its rows; Ctrl-C ends it.

    allow_files: let the query itself read and write files and fetch extensions, as plain DuckDB does.

    Raises:
        UserError: there is no database yet, it is damaged, or the query is wrong; DuckDB's own words are kept.
    """
    if not exists(database):
        way_out = "Run `layerscout sweep` first, or name --storage."
        if ended_runs(Layout(database.rpartition("/")[0])):
            way_out = "The rows of finished runs are there: `layerscout rebuild` writes it anew."
        raise UserError(f"There is no results database at {database}. {way_out}")
    with tempfile.TemporaryDirectory(prefix="layerscout-") as scratch:
        try:
            copy, asked = Path(scratch) / "results.duckdb", _WITH_FILES if allow_files else _WITHOUT_FILES
            with closing(open_to_read(database, copy, asked)) as connection:
                return _rows(connection, sql)
        except duckdb.PermissionException as error:
            raise UserError(
                f"DuckDB cannot answer that: {error}\nA query reads the result tables and no files; --allow-files lets "
                "it read and write them, and --out writes its rows."
            ) from error
        except duckdb.Error as error:
            if is_damage(error):
                raise UserError(f"{database} is damaged ({error}). {_REBUILD}") from error
            raise UserError(f"DuckDB cannot answer that: {error}") from error


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> pl.DataFrame:
    """The rows of the last statement; none of one that has none, such as SET."""
    # Bytes of a command line that are no UTF-8 come in as lone halves of surrogate pairs.
    if odd := _SURROGATE.search(sql):
        raise UserError(f"The query is not text in UTF-8: its character {odd.start() + 1:,} is {odd[0]!r}.")
    if not duckdb.extract_statements(sql):
        raise UserError('There is no query. Give one, such as: layerscout sql "SELECT * FROM leaderboard"')

    def answer() -> pl.DataFrame:
        found = connection.sql(sql)
        return (
            pl.DataFrame() if found is None else pl.DataFrame(_told_dates(_readable(found).to_arrow_table()))
        )

    # Computed by a thread of its own, since Python hears of Ctrl-C between steps of its main thread alone.
    with ThreadPoolExecutor(1) as executor:
        answering = executor.submit(answer)
        try:
            while not wait([answering], timeout=INTERRUPT_SECONDS).done:
                pass
        except KeyboardInterrupt:
            connection.interrupt()
            raise
        return answering.result()


def _readable(found: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The same rows, with DuckDB's own words for the values of types that Polars has not."""
    foreign = [_FOREIGN.search(str(kind)) is not None for kind in found.types]
    unique = _apart(found.columns)
    if not any(foreign) and unique == found.columns:
        return found
    # By their places: names may be the same of two.
    told = [
        f'#{place}{"::VARCHAR" if odd else ""} AS "{name.replace(chr(34), 2 * chr(34))}"'
        for place, (name, odd) in enumerate(zip(unique, foreign, strict=True), start=1)
    ]
    return found.project(", ".join(told))


def _apart(names: Sequence[str]) -> list[str]:
    """The names of columns, those that an earlier one has with a number behind them, as DuckDB itself gives it."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        found.append(
            name if name not in found else next(each for each in numbered if each not in (*found, *names))
        )
    return found


def _told_dates(table: pa.Table) -> pa.Table:
    """The same rows; columns with a date that Python has not, such as infinity or a year BC, in DuckDB's words."""
    odd = [name for name, column in zip(table.column_names, table.columns, strict=True) if _is_odd(column)]
    if not odd:
        return table
    with duckdb.connect() as connection:
        connection.register("found", table)
        names = [each.replace('"', '""') for each in odd]
        told = ", ".join(f'"{name}"::VARCHAR AS "{name}"' for name in names)
        return connection.sql(f"SELECT * REPLACE ({told}) FROM found").to_arrow_table()


def _is_odd(column: pa.ChunkedArray) -> bool:
    kind = column.type
    if pa.types.is_date32(kind):
        a_day, whole = 1, pa.int32()
    elif pa.types.is_timestamp(kind):
        a_day, whole = 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit], pa.int64()
    else:
        return False
    ends = pc.min_max(column.cast(whole)).as_py()
    return ends["min"] is not None and not (
        _FIRST_DAY * a_day <= ends["min"] and ends["max"] < (_LAST_DAY + 1) * a_day
    )


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
