import io
import json
import os
import re
import signal
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest

from flows.cli import app
from flows.terminal.doctor import examine
from storage.errors import UserError
from storage.find_run import find_run
from storage.results import merge
from tests.flows.conftest import ANSWER_S, COMMAND, command_here, environment, layerscout, wait_for
from tests.storage.test_results import probe_rows


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("results")
    merge(str(folder / "results.duckdb"), "a", {"probe": probe_rows("a", accuracy=0.25)})
    return str(folder)


def test_sql_prints_a_table_csv_or_json(storage: str) -> None:
    query = "SELECT layer, accuracy, pooling FROM probe ORDER BY layer"
    printed = {
        form: layerscout("sql", query, "--storage", storage, "--format", form, env=environment()).stdout
        for form in ("table", "csv", "json")
    }
    assert [line.split() for line in printed["table"].splitlines()] == [
        ["layer", "accuracy", "pooling"],
        ["0", "0.2500", "mean"],
        ["1", "0.2500", "mean"],
    ]
    assert printed["csv"] == "layer,accuracy,pooling\n0,0.25,mean\n1,0.25,mean\n"
    assert json.loads(printed["json"])[1] == {"layer": 1, "accuracy": 0.25, "pooling": "mean"}


def test_sql_writes_files_of_the_form_that_their_names_end_with(storage: str, tmp_path: Path) -> None:
    query = "SELECT layer, accuracy, ['a', 'b'] AS names FROM probe ORDER BY layer"
    for ending in ("parquet", "csv", "json", "txt"):
        out = str(tmp_path / f"rows.{ending}")
        assert ask(query, "--storage", storage, "--out", out) == ""
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    assert rows.rows() == [(0, 0.25, ["a", "b"]), (1, 0.25, ["a", "b"])]
    assert pl.read_csv(tmp_path / "rows.csv")["names"].to_list() == ['["a", "b"]'] * 2
    assert json.loads((tmp_path / "rows.json").read_text())[1]["layer"] == 1
    assert (tmp_path / "rows.txt").read_text() == ask(query, "--storage", storage)
    for arguments, message in (
        (["--out", "rows.xls"], "no form of rows has this ending"),
        (["--format", "parquet"], "Name one"),
        (["--out", str(tmp_path), "--format", "csv"], "is a folder"),
        (["--out", f"{tmp_path}/rows.csv/rows.csv"], "is no folder"),
        (["--out", "nowhere://rows.csv"], "no place that files can be kept in"),
        (["--out", f"{tmp_path}/{'n' * 300}.csv"], "too long"),
    ):
        with pytest.raises(UserError, match=message):
            ask(query, "--storage", storage, *arguments)


def ask(query: str, *arguments: str) -> str:
    """What `layerscout sql` prints, in this process."""
    with redirect_stdout(io.StringIO()) as shown:
        app(["sql", query, *arguments], exit_on_error=False, result_action="return_value")
    return shown.getvalue()


@pytest.mark.parametrize(
    ("given", "message"),
    [(None, "There is no run in .*results.duckdb"), ("ff", "No run .* begins with 'ff'")],
)
def test_a_report_of_a_run_that_is_not_there_names_those_that_are(
    storage: str, given: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_run(f"{storage}/results.duckdb", given)


def test_sql_that_cannot_be_answered_is_a_paragraph(storage: str, tmp_path: Path) -> None:
    for query, folder, message in [
        ("SELECT * FROM probes", storage, "probes"),
        ("DROP TABLE probe", storage, "read-only"),
        ("SELECT 1", str(tmp_path), "Run `layerscout sweep` first"),
    ]:
        failed = command_here("sql", query, "--storage", folder)
        assert failed.returncode == 1
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr


def test_usage_errors_name_the_flag() -> None:
    pair = ["--model", "path:a", "--dataset", "path:b"]
    for arguments, message in [
        (
            ["sweep", *pair, "--runner-address", "x", "--dry-run"],
            "runner_address x is the address of a cluster",
        ),
        (["swep"], 'Did you mean "sweep"'),
        (["sweep", "--model", "wheel:smollm2-135m"], "--dataset is missing"),
        (["sql", "SELECT 1", "--format", "xml"], "xml"),
    ]:
        failed = layerscout(*arguments, env=environment())
        assert failed.returncode == 2
        assert message in failed.stderr
        assert failed.stdout == ""


def test_doctor_tells_what_there_is_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    found = command_here("doctor", "--storage", str(tmp_path))
    assert found.returncode == 0
    assert re.search(r"ok +torch +2\.", found.stdout)
    assert "none unpacked of smollm2-135m" in re.sub(r"\s+", " ", found.stdout)


def test_doctor_tells_a_storage_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert not examine(str(tmp_path / "file"))
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert re.search(r"missing +storage .*is no folder: choose another folder \(--storage\)", shown)


def test_doctor_asks_after_a_storage_that_is_a_uri(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert examine(f"file://{tmp_path}")
    assert not examine("nowhere://bucket")
    assert re.search(r"missing +storage +nowhere://bucket — ", capsys.readouterr().out)


def test_the_report_in_a_storage_that_may_only_be_read_is_named(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(storage, "reports", "b", "report.html")
    page.parent.mkdir(parents=True)
    page.write_text("as it was")
    monkeypatch.setattr("storage.find_run.find_run", lambda *_: "b")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != page.parent and allowed(place, mode))
    assert command_here("report", "b", "--storage", storage).stdout == f"{page}\n"
    assert page.read_text() == "as it was"


def test_an_error_steers_no_terminal(storage: str) -> None:
    failed = layerscout("sql", "SELECT 1", "--storage", f"{storage}/\x1b]52;c;eA==\x07", env=environment())
    assert failed.returncode == 1
    assert "\\x1b]52;c;eA==\\x07" in failed.stderr


def test_json_and_csv_hold_what_they_know_of(storage: str) -> None:
    asked = (
        "SELECT sum(layer) AS s, 1.005::DECIMAL(10, 3) AS d, ['nan'::DOUBLE, 1.0] AS l, NULL::INT[] AS n, "
        "['é'] AS t, 'x'::BLOB AS b, 'inf'::DOUBLE AS f, DATE '2026-01-02' AS day FROM probe"
    )
    (row,) = json.loads(ask(asked, "--storage", storage, "--format", "json"))
    assert isinstance(row["s"], int)
    assert row | {"s": 0} == {
        "s": 0,
        "d": 1.005,
        "l": [None, 1.0],
        "n": None,
        "t": ["é"],
        "b": "78",
        "f": None,
        "day": "2026-01-02",
    }
    told = ask(f"SELECT l, n, t, b FROM ({asked})", "--storage", storage, "--format", "csv")
    assert told.splitlines()[1] == '"[null, 1.0]",,"[""é""]",78'


def test_ui_serves_on_this_machine_until_it_is_ended(tmp_path: Path) -> None:
    serving = subprocess.Popen(
        [*COMMAND, "ui", "--storage", str(tmp_path)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert serving.stdout is not None
    address = re.search(r"(http://127\.0\.0\.1:\d+)/open#(\S+)", serving.stdout.readline())
    assert address
    page = httpx.get(address[1], follow_redirects=True, trust_env=False, timeout=ANSWER_S)
    assert "<title>Prefect" in page.text
    printed = dict(each.split("=", 1) for each in serving.stdout.readline().split()[1:])
    assert printed == {"PREFECT_API_URL": f"{address[1]}/api", "PREFECT_API_AUTH_STRING": address[2]}
    serving.send_signal(signal.SIGINT)
    assert serving.wait(timeout=30) == 0


def test_sql_never_overwrites_the_database_nor_writes_files_unless_told(storage: str, tmp_path: Path) -> None:
    before = Path(storage, "results.duckdb").read_bytes()
    for name in ("results.duckdb", "results.duckdb.csv"):
        with pytest.raises(UserError, match="overwrite the results database"):
            ask("SELECT 1", "--storage", storage, "--out", f"{storage}/{name}", "--format", "csv")
    copy = f"COPY (SELECT 1 AS a) TO '{tmp_path}/a.csv'"
    with pytest.raises(UserError, match="--allow-files"):
        ask(copy, "--storage", storage)
    assert not (tmp_path / "a.csv").exists()
    ask(copy, "--storage", storage, "--allow-files")
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"
    assert Path(storage, "results.duckdb").read_bytes() == before


def test_what_sql_prints_steers_no_terminal_and_is_json(storage: str) -> None:
    asked = "SELECT chr(27) || ']52;c;eA==' || chr(7) AS label, '[red]x[/]' AS markup, 'NaN'::DOUBLE AS n"
    table = ask(asked, "--storage", storage)
    assert "\\x1b]52;c;eA==\\x07" in table
    assert "[red]x[/]" in table
    assert json.loads(ask(asked, "--storage", storage, "--format", "json"))[0]["n"] is None


def test_ctrl_c_ends_a_long_query(storage: str) -> None:
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
    running = subprocess.Popen(
        [*COMMAND, "sql", endless, "--storage", storage],
        env=environment(),
        # Where the suite runs in a shell's background, its children would be born deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        # More than Python and DuckDB take to be there: it is at the query, and without an end.
        wait_for(lambda: running.poll() is not None or psutil.Process(running.pid).cpu_times().user > 4)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 130
    finally:
        running.kill()


@pytest.mark.parametrize("form", ["table", "csv"])
def test_a_terminal_that_lacks_letters_ends_no_command(storage: str, form: str) -> None:
    query = "SELECT 'café × 3' AS label"
    arguments = ["sql", query, "--storage", storage, "--format", form]
    done = layerscout(*arguments, env=environment(PYTHONIOENCODING="ascii"))
    assert (done.returncode, done.stdout.split("\n")[1]) == (0, r"caf\xe9 \xd7 3")


@pytest.mark.parametrize(
    ("variable", "value"), [("PREFECT_API_URL", "http://["), ("PREFECT_CLIENT_MAX_RETRIES", "many")]
)
def test_settings_that_prefect_cannot_read_are_a_sentence(variable: str, value: str, tmp_path: Path) -> None:
    failed = layerscout("doctor", "--storage", str(tmp_path), env=environment(**{variable: value}))
    assert failed.returncode == 1
    assert "layerscout: Prefect cannot use what it is told about" in failed.stderr
    assert "Traceback" not in failed.stderr
