"""A server's tables are those that Prefect's own migrations make, wherever they come from."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.running import server_tables
from flows.running.server_tables import prepare_tables

# In a process of its own, as a server is.
PREPARE = """
import sys
from pathlib import Path
from flows.running.server_tables import prepare_tables
prepare_tables(Path(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tables are kept, in a cache of this test's own."""
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/server" / f"prefect-{version('prefect')}.db"


@pytest.fixture
def migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The databases that were migrated, by a table in the place of Prefect's."""
    found: list[Path] = []

    def migrate() -> None:
        found.append(tmp_path / f"{len(found)}.db")
        with closing(sqlite3.connect(found[-1])) as made, made:
            made.execute("PRAGMA journal_mode = WAL")
            made.execute("CREATE TABLE alembic_version (version_num TEXT)")
            made.execute("INSERT INTO alembic_version VALUES ('0')")

    monkeypatch.setattr(server_tables, "_migrate", migrate)
    return found


def test_tables_of_the_second_server_are_equal_to_those_of_the_first(tmp_path: Path, cache: Path) -> None:
    for name in "ab":
        database = tmp_path / name / "prefect.db"
        database.parent.mkdir()
        named = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database.name}"}
        subprocess.run(
            [sys.executable, "-c", PREPARE, database.name],
            cwd=database.parent,
            env=os.environ | named,
            check=True,
        )
        if name == "a":
            made_at = cache.stat().st_mtime_ns
    assert cache.stat().st_mtime_ns == made_at
    schemas = [_schema(tmp_path / name / "prefect.db") for name in "ab"]
    assert schemas[0] == schemas[1]
    assert {"flow_run", "task_run", "artifact"} <= {name for _, name, _ in schemas[0]}


def _schema(database: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(database)) as opened:
        tables = opened.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        return [*tables, *opened.execute("SELECT 'at', version_num, '' FROM alembic_version")]


def test_a_database_that_is_there_is_left_alone(tmp_path: Path, migrated: list[Path]) -> None:
    database = tmp_path / "prefect.db"
    database.write_bytes(b"in the making")
    prepare_tables(database)
    assert (database.read_bytes(), migrated) == (b"in the making", [])


@pytest.mark.parametrize("damage", ["cut off", "no database", "without a version"])
def test_damaged_tables_are_made_anew(tmp_path: Path, cache: Path, migrated: list[Path], damage: str) -> None:
    prepare_tables(tmp_path / "0.db")
    whole = cache.read_bytes()
    if damage == "without a version":
        with closing(sqlite3.connect(cache)) as kept, kept:
            kept.execute("DELETE FROM alembic_version")
    else:
        cache.write_bytes(whole[:5_000] if damage == "cut off" else b"no database")
    prepare_tables(tmp_path / "1.db")
    assert len(migrated) == 2
    assert cache.read_bytes() == whole
    prepare_tables(tmp_path / "copy.db")
    assert len(migrated) == 2
    assert _schema(tmp_path / "copy.db") == _schema(tmp_path / "0.db")


def test_a_cache_that_cannot_be_written_costs_no_server(
    tmp_path: Path, cache: Path, migrated: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.parent.write_text("a file in the place of the folder")
    prepare_tables(tmp_path / "0.db")
    assert len(migrated) == 1
    assert "cannot be kept" in caplog.text
