"""Running the command as a user does, in a process of its own."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import httpx
import polars as pl
import pytest

from storage.migrations import result_tables
from storage.results import query

if TYPE_CHECKING:
    from flows.layer_sweep import SweepOutcome
    from flows.parameters import SweepParameters

COMMAND = [sys.executable, "-m", "flows.cli"]
AUTH = "PREFECT_API_AUTH_STRING"
# A server answers late where other tests keep the processors or the disk.
ANSWER_S = 60
# What may differ between two executions of one run.
TIMES = {"flow_run_id", "seconds", "started_at", "finished_at", "shards_computed", "shards_reused"}


def environment(**changed: str) -> dict[str, str]:
    """The environment of a command: this one's, without a configured Prefect server unless `changed` brings one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    if "PREFECT_API_URL" in changed and AUTH in os.environ:
        kept[AUTH] = os.environ[AUTH]
    return kept | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"} | changed


def ask(api: str, path: str, body: Any = None, auth: str | None = None) -> Any:
    """What a server's API answers: of `prefect_server`, or of the one that has the string `auth`."""
    user, password = (auth or os.environ[AUTH]).split(":")
    answered = httpx.request(
        "GET" if body is None else "POST",
        f"{api}/{path}",
        json=body,
        auth=(user, password),
        trust_env=False,
        timeout=ANSWER_S,
    )
    return answered.raise_for_status().json()


def layerscout(
    *arguments: str, env: Mapping[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `layerscout …` to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=dict(env), capture_output=True, text=True, timeout=timeout, check=False
    )


def command_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `layerscout …` to its end in this process, which has imported what takes a new one seconds."""
    from flows.cli import main

    code: Any = 0
    # What a command sets for its own process is not to reach the next test.
    environ = mock.patch.dict(os.environ)
    with environ, redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def sweep_here(api: str, storage: Path | str, **asked: Any) -> "SweepOutcome":
    """A sweep in this process, recorded by the server at `api`: a command's, without the seconds of its imports."""
    from prefect.settings import temporary_settings

    from flows.layer_sweep import layer_sweep
    from flows.parameters import SweepParameters

    with temporary_settings({"PREFECT_API_URL": api}):
        return layer_sweep(SweepParameters(storage=str(storage), **asked))


def plant_calibration(parameters: "SweepParameters", cache: Path, token_budget: int) -> None:
    """Tell `cache` that this machine is slow, so that a few rows are shards of eight batches of `token_budget`."""
    from flows.settled import settle_settings
    from storage.layout import Layout
    from storage.manifest import write_manifest
    from tasks.data.dataset import prepare_dataset
    from tasks.embedding.model import resolve_model
    from tasks.embedding.settings import embedding_set_id, resolve_settings

    dataset = prepare_dataset(parameters.dataset, Layout(parameters.storage), **parameters.rows_asked)
    model = resolve_model(parameters.model)
    settings = resolve_settings(settle_settings(parameters, dataset, model), model)
    set_id = embedding_set_id(dataset, model, settings)
    slow = {"token_budget": token_budget, "tokens_per_second": 1.0}
    write_manifest(str(cache / "calibrations" / f"{set_id}.json"), slow)


def tables(storage: Path | str) -> dict[str, pl.DataFrame]:
    """Every result table without what may differ between executions, in a fixed order."""
    found = {}
    for table in result_tables():
        frame = query(f"{storage}/results.duckdb", f"SELECT * FROM {table}")
        frame = frame.drop([name for name in frame.columns if name in TIMES])
        found[table] = frame.sort(frame.columns)
    return found


def finished_shards(storage: Path) -> dict[str, int]:
    """When each shard that has its record was written."""
    shards = (storage / "embeddings").rglob("shard_*.parquet")
    return {str(each): each.stat().st_mtime_ns for each in shards if each.with_suffix(".json").exists()}


def wait_for(what: Callable[[], Any], seconds: float = 240) -> Any:
    """The first answer that is not empty or false."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if found := what():
            return found
        if asked > deadline:
            raise TimeoutError(f"nothing came of {what} in {seconds} s")
        # Short, since what a test kills must still be at what it was waited for; but whoever is asked has other work.
        time.sleep(min(1.0, max(0.01, 5 * (time.monotonic() - asked))))


@pytest.fixture
def served(prefect_server: str) -> dict[str, str]:
    """The environment of a command that finds a running Prefect server."""
    return environment(PREFECT_API_URL=prefect_server)
