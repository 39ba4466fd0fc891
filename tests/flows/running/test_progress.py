"""What a run says of its pace, and of its stages where there is no terminal."""

import io
import json
import re
import threading
import time
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from rich.console import Console

from flows.running import progress
from flows.running.progress import Pace, progress_bar, stage_progress, working
from tests.flows.conftest import layerscout, wait_for


def test_no_stage_begins_once_the_process_is_being_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_held", threading.Event())
    begun: list[str] = []

    def stages() -> None:
        with working("one"):
            begun.append("one")
        progress.hold()
        with stage_progress("two", 1):
            begun.append("two")

    stage = threading.Thread(target=stages, daemon=True)
    stage.start()
    stage.join(0.5)
    assert (begun, stage.is_alive()) == (["one"], True)


def test_a_pace_counts_rows_tokens_and_the_time_left() -> None:
    pace = Pace("Embedding", "rows", 6000, started=100.0)
    assert pace.told(100.0) == "0 of 6,000 rows"
    assert pace.told(115.0) == "0 of 6,000 rows, 15 s so far"
    pace.advance(1000, tokens=50_000)
    assert pace.told(110.0) == "1,000 of 6,000 rows, 5,000 tokens/s, about 50 s left"
    assert pace.percent == 16
    pace.advance(4999, tokens=250_000)
    assert pace.percent == 99
    pace.advance(1)
    assert pace.told(700.0) == "6,000 of 6,000 rows, 500 tokens/s, finished in 10 min"
    assert pace.percent == 100


def test_what_an_earlier_run_computed_makes_no_pace() -> None:
    pace = Pace("Embedding", "rows", 4000, started=0.0)
    pace.advance(2000, reused=True)
    assert pace.told(1.0) == "2,000 of 4,000 rows, 2,000 of an earlier run"
    pace.advance(1, tokens=10)
    assert pace.told(2.0) == "2,001 of 4,000 rows, 5 tokens/s, about 67 min left, 2,000 of an earlier run"


def test_a_server_that_is_away_ends_no_stage(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def refuse(*arguments: object, **named: object) -> None:
        sent.append(named)
        raise httpx.ConnectError("nobody there")

    monkeypatch.setattr(progress, "create_progress_artifact", refuse)

    @flow
    def stage() -> int:
        with stage_progress("Scoring", 2, "scores") as advance:
            advance(1)
            advance(1)
        return 2

    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        assert stage() == 2
    assert [each["key"] for each in sent] == ["progress-scoring"] * 2


def tellers() -> list[threading.Thread]:
    """The threads that say how long a stage has taken so far."""
    return [each for each in threading.enumerate() if each.name.endswith("(repeat)")]


def test_a_stage_that_waits_is_told_again_and_again_and_no_more_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = io.StringIO()
    console = Console(file=log, force_terminal=False, width=20, soft_wrap=True)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress, "SECONDS_PER_LOG", 0.05)
    with working("Reading a long name of a data set"):
        wait_for(lambda: log.getvalue().count("Reading") > 2)
        assert tellers()
    assert not tellers()
    pace = Pace("Embedding", "rows", 1_200)
    with progress_bar(pace) as advance:
        wait_for(lambda: log.getvalue().count("Embedding") > 1)
        advance(1_200, tokens=90)
    monkeypatch.setattr(progress, "SECONDS_PER_LOG", 60)
    with pytest.raises(ZeroDivisionError), working("Planning"):
        time.sleep(1 / 0)
    assert not tellers()
    told = log.getvalue()
    time.sleep(0.2)
    assert log.getvalue() == told
    lines = told.splitlines()
    reading = [each for each in lines if each.startswith("Reading")]
    embedding = [each for each in lines if each.startswith("Embedding")]
    assert reading[0] == "Reading a long name of a data set"
    assert len(reading) > 2
    assert all(re.fullmatch(r"Reading a long name of a data set: \d+ s so far", each) for each in reading[1:])
    assert len(embedding) > 2
    assert embedding[0] == "Embedding: 0 of 1,200 rows"
    assert re.fullmatch(r"Embedding: 1,200 of 1,200 rows, [\d,]+ tokens/s, finished in \d+ s", embedding[-1])
    assert lines == [*reading, *embedding, "Planning"]


def test_a_terminal_has_spinners_and_bars_and_no_lines_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # also where the suite runs in a dumb one
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=100))
    with working("Reading"):
        time.sleep(0.2)
    with progress_bar(Pace("Embedding", "rows", 10)) as advance:
        advance(10)
    shown = screen.getvalue()
    assert "\x1b[?25l" in shown  # the cursor is hidden while a bar moves
    assert "10/10" in shown
    assert "10 of 10 rows" not in shown


def test_a_sweep_without_a_terminal_leaves_a_log_of_whole_lines(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, served: dict[str, str]
) -> None:
    arguments = ["--model", f"path:{tiny_model}", "--dataset", f"path:{tiny_dataset}", "--pooling", "mean"]
    done = layerscout("sweep", *arguments, "--storage", str(tmp_path), "--json", env=served)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run_id"]
    assert not re.search(r"[\r\x1b]", done.stderr)
    lines = [each for each in done.stderr.splitlines() if not each.endswith((" so far", " left"))]
    embedded = lines.pop(3)
    assert re.fullmatch(r"Embedding: 360 of 360 rows, [\d,]+ tokens/s, finished in \d+ (s|min)", embedded)
    assert re.fullmatch(r"Scoring: 4 of 4 layers, finished in \d+ (s|min)", lines.pop(5))
    assert lines == [
        "Reading the data set and the model",
        "Planning the shards",
        "Embedding: 0 of 360 rows",
        "Looking at attention",
        "Scoring: 0 of 4 layers",
        "Reading the words alone",
        "Choosing",
        "Projecting",
        "Looking for layers to stand side by side",
        "Auditing",
        "Merging the results",
        "Writing the report",
    ]
