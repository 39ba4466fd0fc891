"""The schema of the results database: its append-only migrations, and the result tables that they make.

A table is described by its migration alone: its columns and their types, its key, and so whether its rows belong to
one run. What stages, collects and merges rows asks here.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import duckdb
import polars as pl

from storage.errors import UserError


@dataclass(frozen=True)
class ResultTable:
    """One table whose rows a sweep leaves."""

    name: str
    since: int
    """Number of the migration that made it."""
    key: tuple[str, ...]
    columns: Mapping[str, pl.DataType]
    """In the order of the table."""

    @property
    def belongs_to_run(self) -> bool:
        """Whether its rows are one run's and are replaced with it; else several runs share them, and an equal row
        replaces itself."""
        return "run_id" in self.key and len(self.key) > 1


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (number, name, SQL), in the order of their numbers."""
    found = []
    for file in resources.files("storage.schema").iterdir():
        if matched := re.fullmatch(r"(\d{3})_(\w+)\.sql", file.name):
            found.append((int(matched[1]), matched[2], file.read_text(encoding="utf-8")))
    return sorted(found)


def newest_migration() -> int:
    """The number of the newest migration that this version knows."""
    return migrations()[-1][0]


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
    check_known(applied)
    for number, name, sql in migrations():
        if number not in applied:
            connection.begin()
            connection.execute(sql)
            connection.execute("INSERT INTO schema_migration (number, name) VALUES (?, ?)", [number, name])
            connection.commit()


def check_known(applied: Collection[int]) -> None:
    """Raises UserError where one of these numbers is a migration of a newer version."""
    if newer := set(applied) - {number for number, _, _ in migrations()}:
        raise UserError(
            f"The results database has migration {max(newer)}, which this version of layerscout does not know. "
            "Upgrade layerscout, or use another --storage folder."
        )


@cache
def result_tables() -> Mapping[str, ResultTable]:
    """Every result table by its name: those to which a migration gives a primary key."""
    since: dict[str, int] = {}
    with duckdb.connect() as connection:
        for number, _, sql in migrations():
            for statement in duckdb.extract_statements(sql):
                # Views and comments are most of a schema's time, and make no column.
                if re.match(r"(\s|--.*\n)*(CREATE|ALTER)\s+TABLE\b", statement.query):
                    connection.execute(statement)
            for (name,) in connection.sql("SELECT table_name FROM duckdb_tables()").fetchall():
                since.setdefault(name, number)
        keys = connection.sql(
            "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
            "WHERE constraint_type = 'PRIMARY KEY' ORDER BY table_name"
        ).fetchall()
        return {
            name: ResultTable(
                name, since[name], tuple(key), dict(connection.sql(f"FROM {name} LIMIT 0").pl().schema)
            )
            for name, key in keys
        }
