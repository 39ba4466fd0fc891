"""Damaged storage, queries that cannot be answered, outputs that cannot be written."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.bad_input.case import Case

STORAGE, QUERIES, OUTPUTS = "Storage", "Queries", "Outputs"
# A storage with one run, as version 0.1.0 left it (tests/tasks/reporting/test_old_storage.py).
ARCHIVE = Path(__file__).parents[1] / "fixtures" / "storage-0.1.0.tar.xz"


def _storage() -> Path:
    """`layerscout-out` in the current folder; its database."""
    shutil.unpack_archive(ARCHIVE)
    Path("storage-0.1.0").rename("layerscout-out")
    return Path("layerscout-out/results.duckdb")


def _damaged(change: Callable[[Path], object]) -> Callable[[], None]:
    def arrange() -> None:
        change(_storage())

    return arrange


def _flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 0xFF
    path.write_bytes(content)


def _as_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def _cut_staged(table: str) -> Callable[[Path], None]:
    def change(database: Path) -> None:
        part = next(iter(sorted((database.parent / "staged").rglob(f"{table}/*.parquet"))))
        part.write_bytes(part.read_bytes()[:-20])

    return change


def _query(given: str, query: str, more: str = "") -> Case:
    return Case(QUERIES, given, f'layerscout sql "{query}"{more}', _storage)


CASES = [
    Case(STORAGE, "no storage", "layerscout report"),
    Case(
        STORAGE,
        "a storage that is a file",
        "layerscout report",
        lambda: Path("layerscout-out").write_text(""),
    ),
    Case(STORAGE, "a storage of an unknown kind", "layerscout report --storage ftp://somewhere/out"),
    Case(STORAGE, "a run that is not there", "layerscout report 0000", _storage),
    Case(STORAGE, "a database that is a folder", "layerscout report", _damaged(_as_folder)),
    Case(
        STORAGE,
        "a database that is none",
        "layerscout report",
        _damaged(lambda each: each.write_text("none")),
    ),
    Case(STORAGE, "an empty database", "layerscout report", _damaged(lambda each: each.write_bytes(b""))),
    Case(
        STORAGE,
        "a database that is cut off",
        "layerscout report",
        _damaged(lambda each: each.write_bytes(each.read_bytes()[:9_000])),
    ),
    Case(
        STORAGE,
        "a flipped byte in the database's header",
        "layerscout report",
        _damaged(lambda each: _flip(each, 0.0)),
    ),
    Case(STORAGE, "no database, staged rows are there", "layerscout report", _damaged(Path.unlink)),
    Case(STORAGE, "no database, built anew", "layerscout rebuild", _damaged(Path.unlink)),
    Case(
        STORAGE,
        "a staged part that is cut off, built anew",
        "layerscout rebuild",
        _damaged(_cut_staged("probe")),
    ),
    Case(STORAGE, "nothing to rebuild from", "layerscout rebuild"),
    Case(
        STORAGE,
        "a layer that the model has not, exported",
        "layerscout export 7 --layer 99 --out model",
        _storage,
    ),
    Case(
        STORAGE,
        "layers side by side that the run has not found, exported",
        "layerscout export 7 --together --out model",
        _storage,
    ),
    Case(
        STORAGE,
        "one layer named beside several, exported",
        "layerscout export 7 --together --layer 3 --out model",
        _storage,
    ),
    Case(STORAGE, "an export of no dimension", "layerscout export 7 --width 0 --out model", _storage),
    Case(
        STORAGE,
        "an export of more dimensions than there are",
        "layerscout export 7 --width 9999 --out model",
        _storage,
    ),
    # Queries
    _query("an empty query", ""),
    _query("a blank query", "  "),
    _query("a wrong word", "SELEC 1"),
    _query("a table that is not there", "SELECT * FROM layers"),
    _query("a column that is not there", "SELECT layr FROM probe"),
    _query("two statements", "SELECT 1; SELECT 2"),
    _query("a statement that writes", "DROP TABLE probe"),
    _query("a file read", "SELECT * FROM read_text('secret.txt')"),
    _query("a file written", "COPY run TO 'run.csv'"),
    _query("the whole database written", "EXPORT DATABASE 'all'"),
    _query("another database opened", "ATTACH 'other.duckdb'"),
    _query("the lock opened", "SET enable_external_access = true"),
    _query("a format that there is not", "SELECT 1", " --format xml"),
    Case(QUERIES, "no storage", 'layerscout sql "SELECT 1"'),
    # Outputs
    _query("the database itself as output", "SELECT 1", " --out layerscout-out/results.duckdb"),
    Case(OUTPUTS, "a table into a folder", 'layerscout sql "SELECT 1 AS one" --out layerscout-out', _storage),
    Case(
        OUTPUTS,
        "a table into a folder that is not there",
        'layerscout sql "SELECT 1 AS one" --out nowhere/one.csv',
        _storage,
    ),
    Case(OUTPUTS, "a table of an unknown kind", 'layerscout sql "SELECT 1 AS one" --out one.docx', _storage),
    Case(OUTPUTS, "a figure of an unknown kind", "layerscout report --figure curve.docx", _storage),
    Case(
        OUTPUTS,
        "a figure into a folder that is not there",
        "layerscout report --figure nowhere/curve.png",
        _storage,
    ),
    Case(OUTPUTS, "an export to an object store", "layerscout export 7 --out s3://bucket/model", _storage),
    Case(OUTPUTS, "an export over a folder", "layerscout export 7 --out layerscout-out", _storage),
]
