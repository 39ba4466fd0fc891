"""What a run says of its pace."""

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.running import progress
from flows.running.progress import Pace, stage_progress


def test_a_pace_counts_rows_tokens_and_the_time_left() -> None:
    pace = Pace("Embedding", "rows", 6000, started=100.0)
    assert pace.told(100.0) == "0 of 6,000 rows"
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
