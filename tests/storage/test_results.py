import hashlib
import subprocess
import sys
import threading
from datetime import date, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from filelock import FileLock

from storage import database_file
from storage import migrations as schema
from storage.errors import UserError
from storage.layout import Layout
from storage.migrations import migrations
from storage.results import Rebuild, check_database, merge, query, rebuild
from storage.staged import stage

# A migration that has landed never changes: a database that has it would differ from a new one.
PINNED = {
    1: "78ae6357c100fd31",
    2: "629140f465c26e82",
    3: "a0664633152e82de",
    4: "b807cc8d74c013fb",
    5: "35d6d31362c0055c",
    6: "def5f118be3fe007",
    7: "982daf4196f4cedd",
    8: "8c2eadbdf357c7ae",
    9: "559e5efd1614bdc0",
    10: "72e49542a320628b",
    11: "11754603cc963798",
    12: "b57c467419a6c451",
    13: "831620ce2a4c4da8",
    14: "2a4ebc4c76293398",
    15: "e556e3f4a2942db8",
    16: "7d972ac4642f6bd3",
    17: "e67321bea1222fa3",
    18: "a5044a7588abd931",
    19: "b70ee86b3b268bc1",
    20: "23f27efb8b0d1984",
    21: "65175b0c09b73b4b",
    22: "04a94ccc21a33c0c",
    23: "6b2d35d42e07379f",
    24: "274054d4ca44d199",
    25: "c5ae4dc0297ebcd7",
}


def probe_rows(run_id: str, layers: int = 2, **changed: object) -> pl.DataFrame:
    """Rows of the probe table, plausible unless `changed`."""
    row: dict[str, object] = {
        "pooling": "mean",
        "norm_state": "as_returned",
        "protocol": "logistic",
        "accuracy": 0.5,
        "accuracy_low": 0.2,
        "accuracy_high": 0.6,
        "macro_f1": 0.5,
        "balanced_accuracy": 0.5,
        "majority_accuracy": 0.3,
        "log_loss": 1.0,
        "penalty": 0.1,
        "iterations": 10,
        "converged": True,
        "n_train": 100,
        "n_test": 50,
        "seconds": 0.1,
    }
    return pl.DataFrame([row | {"run_id": run_id, "layer": layer} | changed for layer in range(layers)])


def test_landed_migrations_are_pinned() -> None:
    found = {number: hashlib.sha256(sql.encode()).hexdigest()[:16] for number, _, sql in migrations()}
    assert found == PINNED


def test_a_rerun_replaces_its_own_rows_and_no_others(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a", layers=3)})
    merge(database, "b", {"probe": probe_rows("b", layers=3)})
    merge(database, "a", {"probe": probe_rows("a", layers=2, accuracy=0.55)})
    rows = query(database, "SELECT run_id, layer, accuracy FROM probe ORDER BY run_id, layer").rows()
    assert rows == [("a", 0, 0.55), ("a", 1, 0.55), ("b", 0, 0.5), ("b", 1, 0.5), ("b", 2, 0.5)]
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".lock"] == ["results.duckdb"]


@pytest.mark.parametrize("changed", [{"accuracy": 1.2}, {"layer": -1}, {"n_test": 0}, {"accuracy": None}])
def test_an_impossible_row_is_refused_and_nothing_is_merged(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    with pytest.raises(duckdb.ConstraintException):
        merge(database, "a", {"probe": probe_rows("a", layers=1, **changed)})
    assert query(database, "SELECT count(*) FROM probe").item() == 2
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".lock"] == ["results.duckdb"]


def test_a_reader_that_never_closes_blocks_no_writer_and_sees_one_state(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    # Another process, as a notebook would be: DuckDB shares one file between connections of one process.
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import duckdb, sys\n"
            f"c = duckdb.connect({database!r}, read_only=True)\n"
            "print(c.sql('SELECT count(*) FROM probe').fetchall()[0][0], flush=True)\n"
            "sys.stdin.readline()\n"
            "print(c.sql('SELECT count(*) FROM probe').fetchall()[0][0], flush=True)\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "2\n"
    merge(database, "b", {"probe": probe_rows("b")})
    assert query(database, "SELECT count(*) FROM probe").item() == 4
    out, _ = reader.communicate("go on\n", timeout=60)
    assert out == "2\n"


def test_writers_at_once_lose_no_row(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    failures: list[BaseException] = []

    def write(run_id: str) -> None:
        try:
            merge(database, run_id, {"probe": probe_rows(run_id)})
        except BaseException as error:
            # An error in a thread is nobody's: the test looks at them all.
            failures.append(error)

    threads = [threading.Thread(target=write, args=(f"run{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert query(database, "SELECT count(DISTINCT run_id) FROM probe").item() == 6


def test_a_connection_of_this_process_is_left_as_it_is_and_stops_no_query(tmp_path: Path) -> None:
    """As in a notebook, which has the file open while it asks layerscout too."""
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    with duckdb.connect(database, read_only=True) as own:
        for _ in range(2):
            assert query(database, "SELECT count(*) FROM probe").item() == 2
        own.execute(f"COPY (SELECT 1) TO '{tmp_path / 'own.csv'}'")
        own.execute("SET threads = 1")
        merge(database, "b", {"probe": probe_rows("b")})
    assert query(database, "SELECT count(*) FROM probe").item() == 4


def test_a_newer_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = str(tmp_path / "results.duckdb")
    every = migrations()
    monkeypatch.setattr(schema, "migrations", lambda: [*every, (999, "future", "SELECT 1")])
    merge(database, "a", {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="migration 999"):
        merge(database, "b", {})


def test_queries_read_only_and_name_what_is_wrong(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    layout = Layout(str(tmp_path))
    Path(layout.staged_table("begun", "probe")).mkdir(parents=True)
    with pytest.raises(UserError, match="Run `layerscout sweep` first"):
        query(database, "SELECT 1")
    stage(layout, "ended", "execution", "x", pl.DataFrame({"run_id": ["ended"]}))
    with pytest.raises(UserError, match="The rows of finished runs are there: `layerscout rebuild`"):
        query(database, "SELECT 1")
    merge(database, "a", {"probe": probe_rows("a")})
    with pytest.raises(UserError, match="read-only"):
        query(database, "DELETE FROM probe")
    with pytest.raises(UserError, match="probes"):
        query(database, "SELECT * FROM probes")


def test_a_stopped_writer_is_named_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = str(tmp_path / "results.duckdb")
    monkeypatch.setattr(database_file, "WRITER_SECONDS", 0.1)
    with FileLock(tmp_path / "results.lock"), pytest.raises(UserError, match=r"results\.lock"):
        merge(database, "a", {"probe": probe_rows("a")})
    merge(database, "a", {"probe": probe_rows("a")})
    assert query(database, "SELECT count(*) FROM probe").item() == 2


def test_a_file_that_somebody_opened_for_writing_is_read_and_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_file, "CLIENT_SECONDS", 0.5)
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    # A notebook that forgot `read_only=True`: DuckDB locks the file for it alone.
    code = f"import duckdb, sys; c = duckdb.connect({database!r}); print('open', flush=True); sys.stdin.readline()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    assert query(database, "SELECT count(*) FROM probe").item() == 2
    merge(database, "b", {"probe": probe_rows("b")})
    assert query(database, "SELECT count(*) FROM probe").item() == 4
    holder.communicate("\n", timeout=60)
    assert query(database, "SELECT count(*) FROM probe").item() == 4


def in_a_client(database: Path, *statements: str, then: str = "") -> subprocess.Popen[str]:
    """Another program that has run these statements on the database, and is still there."""
    code = [
        "import duckdb, os, sys",
        f"connection = duckdb.connect({str(database)!r})",
        "connection.execute(\"SET checkpoint_threshold = '1GB'\")",
        *(f"connection.execute({statement!r})" for statement in statements),
        "print('ready', flush=True)",
        then or "sys.stdin.read()",
    ]
    client = subprocess.Popen(
        [sys.executable, "-c", "\n".join(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    return client


def test_tables_of_others_are_kept_by_merge_and_rebuild_also_from_the_log_of_a_killed_client(
    tmp_path: Path,
) -> None:
    database = tmp_path / "results.duckdb"
    merge(str(database), "a", {"probe": probe_rows("a")})
    client = in_a_client(database, "CREATE TABLE mine AS SELECT range AS i FROM range(5)")
    client.kill()
    client.wait()
    assert (tmp_path / "results.duckdb.wal").exists()
    merge(str(database), "b", {"probe": probe_rows("b")})
    assert query(str(database), "SELECT count(*) FROM mine").item() == 5
    assert not (tmp_path / "results.duckdb.wal").exists()
    assert rebuild(str(database), lambda: [("c", {"probe": probe_rows("c")})]) == Rebuild(None, {})
    assert query(str(database), "SELECT count(*) FROM mine").item() == 5
    assert query(str(database), "SELECT DISTINCT run_id FROM probe").item() == "c"


@pytest.mark.parametrize(
    ("kept", "beside"), [((), "results.duckdb.wal.stale-1"), ((9, 10), "results.duckdb.kept-10.wal")]
)
def test_a_log_that_fits_no_more_stops_nobody_and_is_kept(
    tmp_path: Path, kept: tuple[int, ...], beside: str
) -> None:
    """Beside the file that was last replaced under its program, where there is one."""
    database = tmp_path / "results.duckdb"
    for number in kept:
        (tmp_path / f"results.duckdb.kept-{number}").touch()
    merge(str(database), "a", {"probe": probe_rows("a")})
    client = in_a_client(database, "CREATE TABLE mine (i INTEGER)")
    client.kill()
    client.wait()
    log = tmp_path / "results.duckdb.wal"
    old = log.read_bytes()
    log.rename(tmp_path / "kept")
    merge(str(database), "b", {"probe": probe_rows("b")})
    log.write_bytes(old)  # as an older version left it, which replaced the file alone
    with pytest.raises(duckdb.IOException, match="WAL"):
        duckdb.connect(str(database), read_only=True)
    assert query(str(database), "SELECT count(DISTINCT run_id) FROM probe").item() == 2
    merge(str(database), "c", {"probe": probe_rows("c")})
    assert query(str(database), "SELECT count(DISTINCT run_id) FROM probe").item() == 3
    assert (tmp_path / beside).read_bytes() == old
    duckdb.connect(str(database), read_only=True).close()


def test_a_program_that_writes_the_file_is_waited_for_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "results.duckdb"
    merge(str(database), "a", {"probe": probe_rows("a")})
    client = in_a_client(
        database,
        then="import time; time.sleep(2); connection.execute('CREATE TABLE late (i INTEGER)'); connection.close()",
    )
    monkeypatch.setattr(database_file, "CLIENT_SECONDS", 120)
    merge(str(database), "b", {"probe": probe_rows("b")})
    client.wait(timeout=120)
    assert query(str(database), "SELECT count(*) FROM late").item() == 0


def test_what_a_program_commits_to_a_file_that_was_replaced_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never closes, so it is not waited for for ever; DuckDB writes on to the file that it has opened."""
    database = tmp_path / "results.duckdb"
    merge(str(database), "a", {"probe": probe_rows("a")})
    client = in_a_client(
        database,
        "CREATE TABLE before AS SELECT 1 AS i",
        then="sys.stdin.readline(); connection.execute('CREATE TABLE after AS SELECT 2 AS i'); os._exit(0)",
    )
    monkeypatch.setattr(database_file, "CLIENT_SECONDS", 0.5)
    merge(str(database), "b", {"probe": probe_rows("b")})
    assert query(str(database), "FROM before").item() == 1
    duckdb.connect(str(database), read_only=True).close()  # as any other tool opens it
    client.communicate("\n")
    assert query(str(database), "SELECT count(DISTINCT run_id) FROM probe").item() == 2
    merge(str(database), "c", {"probe": probe_rows("c")})
    assert query(str(database), "SELECT count(DISTINCT run_id) FROM probe").item() == 3
    with duckdb.connect(f"{database}.kept-1") as kept:
        assert kept.sql("FROM before").fetchall() == [(1,)]
        assert kept.sql("FROM after").fetchall() == [(2,)]


@pytest.mark.parametrize("content", [b"", b"no database at all", None])
def test_a_file_that_is_no_database_is_told_before_the_work_and_rebuild_sets_it_aside(
    tmp_path: Path, content: bytes | None
) -> None:
    database = tmp_path / "results.duckdb"
    if content is None:
        merge(str(database), "a", {"probe": probe_rows("a")})
        whole = bytearray(database.read_bytes())
        whole[8_192:8_200] = b"\xff" * 8
        whole[4_096:4_104] = b"\xff" * 8
        content = bytes(whole)
    database.write_bytes(content)
    if content:
        with pytest.raises(UserError, match="rebuild` sets it aside"):
            check_database(str(database))
        with pytest.raises(UserError, match="rebuild` sets it aside"):
            merge(str(database), "b", {"probe": probe_rows("b")})
    aside = rebuild(str(database), lambda: [("b", {"probe": probe_rows("b")})]).aside
    assert query(str(database), "SELECT DISTINCT run_id FROM probe").item() == "b"
    if content:
        assert aside is not None
        assert Path(aside).read_bytes() == content
    check_database(str(database))


def test_a_newer_database_is_told_before_the_work(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    check_database(database)
    merge(database, "a", {"probe": probe_rows("a")})
    check_database(database)
    with duckdb.connect(database) as connection:
        connection.execute("INSERT INTO schema_migration (number, name) VALUES (900, 'later')")
    with pytest.raises(UserError, match="migration 900"):
        check_database(database)


@pytest.mark.parametrize(
    "asked",
    [
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "EXPORT DATABASE '{folder}/out'",
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "ATTACH '{folder}/other.duckdb'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ],
)
def test_a_query_reads_tables_and_nothing_else(tmp_path: Path, asked: str) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    (tmp_path / "secret.csv").write_text("a\n1\n")
    before = sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(UserError):
        query(database, asked.format(folder=tmp_path))
    assert sorted(each.name for each in tmp_path.iterdir()) == before
    rows = query(database, f"SELECT * FROM read_csv('{tmp_path}/secret.csv')", allow_files=True)
    assert rows.rows() == [(1,)]


def test_values_that_polars_has_no_column_for_are_in_duckdbs_words(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    asked = 'SELECT INTERVAL 3 DAYS AS i, [INTERVAL 1 HOUR] AS l, union_value(a := 1) AS "u""v", 2 AS n'
    assert query(database, asked).rows(named=True) == [
        {"i": "3 days", "l": "['01:00:00']", 'u"v': "1", "n": 2}
    ]


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a", layers=1)})
    found = query(database, "SELECT 1 AS a, 2 AS a, 3 AS a_1, INTERVAL 1 DAY AS a")
    assert found.columns == ["a", "a_2", "a_1", "a_3"]
    assert found.row(0) == (1, 2, 3, "1 day")


def test_dates_that_python_has_not_are_in_duckdbs_words(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    asked = (
        "SELECT 'infinity'::DATE AS d, DATE '0044-03-15 (BC)' AS c, '-infinity'::TIMESTAMPTZ AS \"t\"\"z\", "
        "TIMESTAMP_S '290000-01-01' AS s, DATE '9999-12-31' AS last, TIMESTAMP '0001-01-01 00:00:00' AS first, "
        "NULL::DATE AS none, TIMESTAMP_NS '2026-01-01' AS ns, TIMESTAMP_MS '2026-01-01' AS ms"
    )
    assert query(database, asked).rows(named=True) == [
        {"d": "infinity", "c": "0044-03-15 (BC)", 't"z': "-infinity", "s": "290000-01-01 00:00:00"}
        | {"last": date(9999, 12, 31), "first": datetime(1, 1, 1), "none": None}
        | {"ns": datetime(2026, 1, 1), "ms": datetime(2026, 1, 1)}
    ]


def test_no_extension_is_fetched_unasked(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    setting = "SELECT current_setting('autoinstall_known_extensions') AS fetched"
    for allow in (False, True):
        assert query(database, setting, allow_files=allow)["fetched"].to_list() == [False]


@pytest.mark.parametrize("asked", ["", "  \n", "-- nothing", ";"])
def test_no_query_is_told(tmp_path: Path, asked: str) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "a", {"probe": probe_rows("a")})
    with pytest.raises(UserError, match="There is no query"):
        query(database, asked)


def test_a_run_that_cannot_be_merged_does_not_keep_the_others_from_a_rebuild(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    runs = [
        ("a", {"probe": probe_rows("a")}),
        ("b", {"probe": probe_rows("b", accuracy=7.0)}),
        ("c", {"probe": probe_rows("c")}),
    ]
    done = rebuild(database, lambda: runs)
    assert list(done.refused) == ["b"]
    assert "accuracy" in done.refused["b"]
    assert query(database, "SELECT DISTINCT run_id FROM probe ORDER BY 1")["run_id"].to_list() == ["a", "c"]
