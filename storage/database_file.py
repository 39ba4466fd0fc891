"""The results database as a file: copied, written, put back whole, and never taken from anybody who uses it.

DuckDB locks a whole file for one writing process. So a merge works on a copy under an OS file lock, which the kernel
frees when its holder dies, and replaces the file atomically: a reader keeps the file that it opened, blocks nobody, and
is blocked by nobody. What other programs have written to the file, tables of their own too, is in the copy, also what
still lies in DuckDB's write-ahead log beside it. An object store has no locks: there the copy takes its place only
while the object is the one that was copied, and else the merge is done again.
"""

import glob
import itertools
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import duckdb
from filelock import FileLock, Timeout

from storage.errors import UserError
from storage.files import exists, read_bytes, write_atomically
from storage.layout import writer_lock
from storage.migrations import migrate
from storage.shared_object import SharedObject, is_shared

log = logging.getLogger(__name__)

_R = TypeVar("_R")

# A merge takes seconds; a writer that is stopped must not stop every later run for ever, without a word.
WRITER_SECONDS = 600
# A merge that lost against another machine waits up to so long, times the number of times that it lost.
LOST_SECONDS = 0.25
# How long a merge waits for another program that has the file open for writing.
CLIENT_SECONDS = 20


def write_by_copy(database: str, work: Callable[[duckdb.DuckDBPyConnection], _R]) -> _R:
    """Let `work` change a migrated copy of the database in one transaction; then the copy takes the database's place.

    On an object store `work` may be asked again, of a newer copy, when another machine was faster.

    Raises:
        UserError: another merge does not end, a newer version wrote it, or it is no database.
    """
    with _writer_lock(database) as lock:
        # Its name is fixed, since one writer alone is here: what a killed one left is cleared by the next.
        scratch = Path(lock.lock_file).with_suffix(".merging")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            if is_shared(database):
                return _write_shared(database, scratch / "results.duckdb", work)
            return _write_here(database, scratch / "results.duckdb", work)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _write_here(database: str, copy: Path, work: Callable[[duckdb.DuckDBPyConnection], _R]) -> _R:
    """Of a file that the lock keeps from everybody else."""
    with _no_other_writer(database) as is_written:
        merged_log = _copy_with_log(database, copy)
        done = _changed(copy, work)
        kept = _keep_for_its_writer(database) if is_written else None
        write_atomically(database, lambda sink: _copy(copy, sink))
        # What it held is in the new file, which it does not fit: nobody could open the two together.
        if merged_log is not None and kept is None:
            merged_log.unlink(missing_ok=True)
        elif merged_log is not None:
            os.replace(merged_log, f"{kept}.wal")
    return done


def _write_shared(database: str, copy: Path, work: Callable[[duckdb.DuckDBPyConnection], _R]) -> _R:
    """Of an object that other machines replace too: the first is in, the others work on what it wrote."""
    shared = SharedObject(database)
    deadline = time.monotonic() + WRITER_SECONDS
    for attempt in itertools.count(1):
        copy.unlink(missing_ok=True)
        content, version = shared.read()
        if content is not None:
            copy.write_bytes(content)
            _check_opens(database, copy)
        done = _changed(copy, work)
        if shared.replace(copy, version):
            return done
        if time.monotonic() > deadline:
            break
        log.info(
            "Another machine has merged into %s meanwhile: merging again, for time %s", database, attempt
        )
        # At random, so that those who lost together do not meet again; a merge takes about as long.
        time.sleep(random.uniform(0, LOST_SECONDS * min(attempt, 8)))
    raise UserError(
        f"Other machines have been faster to merge into {database} for {WRITER_SECONDS} s. Give the same command again "
        "when fewer of them finish: the scores are staged, and only the merge is repeated."
    )


def _changed(copy: Path, work: Callable[[duckdb.DuckDBPyConnection], _R]) -> _R:
    with closing(duckdb.connect(str(copy))) as connection:
        migrate(connection)
        connection.begin()
        done = work(connection)
        connection.commit()
        connection.execute("CHECKPOINT")
    return done


def open_to_read(database: str, copy: Path, config: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """A connection that reads: of a copy, at `copy`, where the file is remote, or open for writing elsewhere, or beside
    a log that does not fit it; or where this process has it open already with another configuration, as a notebook may:
    all connections of a process to a file share what one of them sets."""
    if "://" not in database:
        try:
            return _connect_to_read(database, config)
        except duckdb.Error as error:
            if not (_is_locked(error) or _is_about_the_log(error, database)):
                raise
    copy.write_bytes(read_bytes(database))
    return duckdb.connect(str(copy), read_only=True, config=dict(config))


def _connect_to_read(database: str, config: Mapping[str, str] | None = None) -> duckdb.DuckDBPyConnection:
    """A connection to one and the same file.

    DuckDB opens a file by its name more than once while it connects. A merge that puts another in its place meanwhile
    gives it the header of one and the blocks of the other: then it connects again.
    """
    while True:
        before = _which_file(database)
        try:
            connection = duckdb.connect(database, read_only=True, config=dict(config or {}))
        except duckdb.Error as error:
            # Who writes in place holds a lock, and changes the file all the time.
            if _is_locked(error) or _which_file(database) == before:
                raise
            continue
        if _which_file(database) == before:
            return connection
        connection.close()


def _which_file(database: str) -> tuple[int, int, int] | None:
    """Tells a file from the next of its name, also where that has its inode; None where there is none."""
    with suppress(FileNotFoundError):
        of = os.stat(database)
        return of.st_ino, of.st_mtime_ns, of.st_size
    return None


def set_aside_damaged(database: str) -> str | None:
    """Rename a database that DuckDB cannot open and read through, and its log, so that a new one can be written; the
    new name.

    None where it can be opened, where there is none, or where it is on an object store: there nothing is renamed.
    """
    if "://" in database or not exists(database):
        return None
    try:
        _connect_to_read(database).close()
        _read_through(database)
        return None
    except duckdb.Error as error:
        if _is_locked(error) or _is_about_the_log(error, database):
            return None
        log.warning("%s cannot be read: %s", database, error)
    aside = _free_name(f"{database}.damaged")
    os.replace(database, aside)
    if (beside := _log_of(database)) is not None:
        os.replace(beside, f"{aside}.wal")
    return aside


def is_damage(error: duckdb.Error) -> bool:
    """Whether the file or a block of it is not what DuckDB wrote; it looks at a block when it first reads it."""
    kinds = (duckdb.SerializationException, duckdb.InternalException, duckdb.FatalException)
    words = ("Corrupt database file", "is not a valid DuckDB database", "Could not read")
    return isinstance(error, kinds) or any(each in str(error) for each in words)


def _read_through(database: str) -> None:
    """Every table and every index, in a copy; `duckdb.Error` where a block cannot be read."""
    with tempfile.TemporaryDirectory(prefix="layerscout-") as scratch:
        copy = Path(scratch) / "results.duckdb"
        shutil.copyfile(database, copy)
        if (beside := _log_of(database)) is not None:
            shutil.copyfile(beside, f"{copy}.wal")
        with closing(duckdb.connect(str(copy))) as connection:
            tables = connection.sql("SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal")
            for schema, name in tables.fetchall():
                table = ".".join(f'"{each.replace(chr(34), 2 * chr(34))}"' for each in (schema, name))
                connection.execute(f"SELECT max(hash(each)) FROM {table} AS each").fetchall()
                connection.execute(f"DELETE FROM {table}")


def _copy_with_log(database: str, copy: Path) -> Path | None:
    """Copy the database, with its write-ahead log if that fits; the log that was copied, None where there is none."""
    if not exists(database):
        return None
    copy.write_bytes(read_bytes(database))
    beside = _log_of(database)
    if beside is not None:
        shutil.copyfile(beside, f"{copy}.wal")
    if beside is None:
        _check_opens(database, copy)
        return None
    try:
        duckdb.connect(str(copy)).close()
        return beside
    except duckdb.Error as error:
        if not _is_about_the_log(error, str(copy)):
            raise _not_opened(database, error) from error
    # Of a file that was replaced under the program which wrote it: it is kept, with that file where there is one.
    kept = [name for name in glob.glob(f"{glob.escape(database)}.kept-*[0-9]") if not exists(f"{name}.wal")]
    stale = f"{max(kept, key=_number)}.wal" if kept else _free_name(f"{beside}.stale")
    os.replace(beside, stale)
    log.warning("The log %s does not belong to %s, and is kept as %s", beside, database, stale)
    Path(f"{copy}.wal").unlink()
    copy.write_bytes(read_bytes(database))
    return None


def _check_opens(database: str, copy: Path) -> None:
    try:
        duckdb.connect(str(copy)).close()
    except duckdb.Error as error:
        raise _not_opened(database, error) from error


def _not_opened(database: str, error: duckdb.Error) -> UserError:
    return UserError(
        f"{database} is not a database that DuckDB can open ({str(error).splitlines()[0]}). `layerscout rebuild` sets "
        "it aside and writes a new one from the staged rows."
    )


def _keep_for_its_writer(database: str) -> str:
    """A second name for the file that is about to be replaced: what its writer commits from now on is found there."""
    kept = _free_name(f"{database}.kept")
    os.link(database, kept)
    log.warning("What the other program writes from now on is in %s", kept)
    return kept


def _log_of(database: str) -> Path | None:
    """DuckDB's write-ahead log beside a local database, if there is one."""
    place = Path(f"{database}.wal")
    return place if "://" not in database and place.is_file() else None


def _free_name(stem: str) -> str:
    return next(name for number in itertools.count(1) if not exists(name := f"{stem}-{number}"))


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


@contextmanager
def _no_other_writer(database: str) -> Iterator[bool]:
    """Keep other programs from opening a local database for writing meanwhile: what they committed would be lost.

    Yields whether one has it open all the same, after `CLIENT_SECONDS` of waiting for it.
    """
    guard: duckdb.DuckDBPyConnection | None = None
    deadline = time.monotonic() + CLIENT_SECONDS
    while "://" not in database and exists(database):
        try:
            guard = _connect_to_read(database)
        except duckdb.Error as error:
            # Anything else is told by whoever opens the copy.
            if not _is_locked(error):
                break
            if time.monotonic() > deadline:
                log.warning("Another program has %s open for writing: %s", database, error)
                yield True
                return
            time.sleep(0.2)
        else:
            break
    try:
        yield False
    finally:
        if guard is not None:
            guard.close()


def _is_locked(error: duckdb.Error) -> bool:
    """Whether somebody else writes the file: another process, or this one."""
    return "set lock" in str(error) or "different configuration" in str(error)


def _is_about_the_log(error: duckdb.Error, database: str) -> bool:
    """Whether the database's write-ahead log is what cannot be read, and not the database."""
    return "WAL" in str(error).replace(database, "")


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


def _copy(file: Path, sink: BinaryIO) -> None:
    with file.open("rb") as source:
        shutil.copyfileobj(source, sink, 1 << 20)
