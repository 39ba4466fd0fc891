"""Readers and writers as processes of their own, as they are at a user's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from storage.results import merge, query
from tests.storage.test_results import probe_rows

# DuckDB opens a file more than once while it connects; whoever is overtaken by a merge just then connects again.
PLAIN = """
import duckdb, os, time
while True:
    before = os.stat({database!r})
    try:
        connection = duckdb.connect({database!r}, read_only=True)
    except duckdb.Error:
        if os.stat({database!r}).st_mtime_ns == before.st_mtime_ns:
            raise
        continue
    if os.stat({database!r}).st_mtime_ns != before.st_mtime_ns:
        connection.close()
        continue
    with connection:
        runs = connection.sql("SELECT run_id, count(*) AS n FROM probe GROUP BY run_id ORDER BY run_id").fetchall()
    assert all(n == 31 for _, n in runs), runs
    print(len(runs), flush=True)
    time.sleep(0.01)
"""
OURS = """
import time
from storage.results import query
while True:
    runs = query({database!r}, "SELECT run_id, count(*) AS n FROM probe GROUP BY run_id")
    assert set(runs["n"]) == {{31}}, runs
    print(len(runs), flush=True)
    time.sleep(0.01)
"""
NEVER_CLOSES = """
import duckdb, time
held = duckdb.connect({database!r}, read_only=True)
while True:
    print(held.sql("SELECT count(DISTINCT run_id) FROM probe").fetchall()[0][0], flush=True)
    time.sleep(0.01)
"""
WRITER = """
from storage.results import merge
from tests.storage.test_results import probe_rows
for number in range({writes}):
    merge({database!r}, f"{name}{{number}}", {{"probe": probe_rows(f"{name}{{number}}", layers=31)}})
"""
WRITES = 12


def _started(code: str, scratch: Path, **values: object) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", code.format(**values)],
        cwd=root,
        # A reader that is killed leaves there what it would have removed.
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_five_readers_and_two_writers_see_no_error_and_only_whole_runs(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "first", {"probe": probe_rows("first", layers=31)})
    codes = [PLAIN, PLAIN, OURS, OURS, NEVER_CLOSES]
    readers = [_started(code, tmp_path, database=database) for code in codes]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n", reader.communicate()
    writers = [_started(WRITER, tmp_path, database=database, name=name, writes=WRITES) for name in "ab"]
    for writer in writers:
        _, error = writer.communicate(timeout=240)
        assert writer.returncode == 0, error
    *others, holding = readers
    for reader in others:
        seen = "0"
        while int(seen) < 1 + 2 * WRITES:
            assert reader.stdout is not None
            seen = reader.stdout.readline()
            assert seen, reader.communicate()
    for reader in readers:
        assert reader.poll() is None, reader.communicate()
        reader.kill()
    # It keeps the file that it opened, where the others saw runs arrive.
    assert set(holding.communicate()[0].split()) == {"1"}
    for reader in others:
        reader.communicate()
    assert query(database, "SELECT count(DISTINCT run_id) FROM probe").item() == 1 + 2 * WRITES


def test_a_query_that_a_merge_overtakes_while_it_connects_is_of_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, newer = str(tmp_path / "results.duckdb"), str(tmp_path / "newer.duckdb")
    merge(database, "first", {"probe": probe_rows("first", layers=31)})
    shutil.copyfile(database, newer)
    merge(newer, "second", {"probe": probe_rows("second", layers=31)})
    connect: Callable[..., duckdb.DuckDBPyConnection] = duckdb.connect
    overtaken: list[str] = []

    def overtake(*args: object, **options: object) -> duckdb.DuckDBPyConnection:
        if args != (database,):
            return connect(*args, **options)
        if len(overtaken) == 0:
            overtaken.append("while it opens the header")
            os.replace(newer, database)
            raise duckdb.IOException("Could not read enough bytes from file")
        connection = connect(*args, **options)
        if len(overtaken) == 1:
            overtaken.append("before it reads the blocks")
            shutil.copyfile(database, newer)
            merge(newer, "third", {"probe": probe_rows("third", layers=31)})
            os.replace(newer, database)
        return connection

    monkeypatch.setattr("storage.database_file.duckdb.connect", overtake)
    assert query(database, "SELECT count(DISTINCT run_id) FROM probe").item() == 3
    assert len(overtaken) == 2
