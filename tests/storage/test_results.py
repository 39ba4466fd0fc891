import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import polars as pl
import pytest
from filelock import FileLock

from storage import results
from storage.errors import UserError
from storage.migrations import migrations
from storage.results import merge, query

# A migration that has landed never changes: a database that has it would differ from a new one.
PINNED = {
    1: "78ae6357c100fd31",
    2: "629140f465c26e82",
    3: "a0664633152e82de",
    4: "b807cc8d74c013fb",
    5: "35d6d31362c0055c",
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


def test_a_newer_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = str(tmp_path / "results.duckdb")
    every = migrations()
    monkeypatch.setattr(results, "migrations", lambda: [*every, (999, "future", "SELECT 1")])
    merge(database, "a", {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="migration 999"):
        merge(database, "b", {})


def test_queries_read_only_and_name_what_is_wrong(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    with pytest.raises(UserError, match="Run `layerscout sweep` first"):
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
    monkeypatch.setattr(results, "WRITER_SECONDS", 0.1)
    with FileLock(tmp_path / "results.lock"), pytest.raises(UserError, match=r"results\.lock"):
        merge(database, "a", {"probe": probe_rows("a")})
    merge(database, "a", {"probe": probe_rows("a")})
    assert query(database, "SELECT count(*) FROM probe").item() == 2


def test_a_file_that_somebody_opened_for_writing_is_read_and_replaced_all_the_same(tmp_path: Path) -> None:
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
