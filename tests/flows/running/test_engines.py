"""Where tasks run, and what becomes of them when a worker dies."""

import gc
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.running.engines import QUIET_DASK, Engine, Runner, in_environment
from storage.errors import UserError
from tests.flows.conftest import ask, wait_for


@pytest.fixture
def server(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The API of a server that flows here, and their worker processes, find."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    # The log of this process would still be on its way when the server has gone.
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield prefect_server


@task
def settings_of_the_worker() -> dict[str, Any]:
    return {name: dask.config.get(name) for name in QUIET_DASK}


@flow
def ask_a_dask_worker() -> dict[str, Any]:
    with Engine("dask", None, workers=1) as engine:
        ((_, found),) = engine.results([engine.submit(settings_of_the_worker)])
    return found


def test_dask_workers_do_not_spend_their_core_on_watching_themselves(server: str) -> None:
    assert ask_a_dask_worker() == QUIET_DASK
    # The process that the flow ran in has its own settings back.
    assert dask.config.get("distributed.worker.profile.enabled") is True


@task
def place_of_work(name: str) -> tuple[str, int, str | None]:
    return name, os.getpid(), os.environ.get("OMP_NUM_THREADS")


@task
def wait_and_name(seconds: float, name: str) -> str:
    time.sleep(seconds)
    return name


@task
def fail(name: str) -> str:
    raise ValueError(name)


@task
def kill_the_worker(unless: str) -> int:
    """Its worker's process id; the worker is killed where no file of this name is there yet."""
    if not os.path.exists(unless):
        Path(unless).touch()
        _die()
    return os.getpid()


@task
def kill_every_worker() -> None:
    _die()


def _die() -> None:
    time.sleep(2)  # what the server hears of this task run must be on its way
    os.kill(os.getpid(), signal.SIGKILL)


@flow
def ask_where(runner: Runner) -> list[tuple[int, tuple[str, int, str | None]]]:
    with Engine(runner, None, workers=1) as engine:
        return list(engine.results([engine.submit(place_of_work, name) for name in ("a", "b")]))


def test_processes_work_with_one_thread_each_and_leave_the_environment_as_it_was(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = dict(ask_where("processes"))
    assert [found[place][0] for place in (0, 1)] == ["a", "b"]
    ((process, threads),) = {each[1:] for each in found.values()}
    assert process != os.getpid()
    assert threads == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_threads_work_in_this_process(server: str) -> None:
    assert {process for _, (_, process, _) in ask_where("threads")} == {os.getpid()}


def test_a_variable_that_was_not_set_is_gone_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERSCOUT_TEST", raising=False)
    with in_environment("LAYERSCOUT_TEST", "1"):
        assert os.environ["LAYERSCOUT_TEST"] == "1"
    assert "LAYERSCOUT_TEST" not in os.environ


@flow
def wait_for_all(seconds: list[float]) -> list[tuple[int, str]]:
    with Engine("threads", None, workers=1) as engine:
        futures = [engine.submit(wait_and_name, each, f"{each} s") for each in seconds]
        return list(engine.results(futures))


def test_results_come_as_they_are_ready_with_their_places(server: str) -> None:
    assert wait_for_all([3.0, 0.0]) == [(1, "0.0 s"), (0, "3.0 s")]


@flow
def fail_early() -> float:
    with Engine("threads", None, workers=1) as engine:
        futures = [engine.submit(wait_and_name, 8.0, "late"), engine.submit(fail, "early")]
        started = time.monotonic()
        with pytest.raises(ValueError, match="early"):
            list(engine.results(futures))
        seconds = time.monotonic() - started
    return seconds


def test_the_first_failure_is_raised_before_the_other_calls_are_done(server: str) -> None:
    assert fail_early() < 7


@flow
def lose_a_worker(server: str, unless: str) -> tuple[str, dict[int, Any]]:
    with Engine("processes", None, workers=1) as engine:
        futures = [engine.submit(kill_the_worker, unless), engine.submit(place_of_work, "behind it")]
        found = dict(engine.results(futures))
        # The engine leaves with what the server has heard by then.
        wait_for(lambda: len(_states(server, str(flow_run.id), "kill_the_worker")) == 2, seconds=30)
    return str(flow_run.id), found


def test_a_killed_worker_is_started_anew_its_calls_are_repeated_and_its_task_run_has_crashed(
    server: str, tmp_path: Path
) -> None:
    run, found = lose_a_worker(server, str(tmp_path / "killed"))
    # Both ran in the worker that came after it: the second call had been waiting for the first.
    assert found == {0: found[0], 1: ("behind it", found[0], "1")}
    states = wait_for(lambda: _all_ended(server, run, "kill_the_worker", 2), seconds=30)
    assert sorted(states) == ["COMPLETED", "CRASHED"]


@flow
def lose_a_worker_after_a_call(unless: str) -> tuple[list[str], list[str], str]:
    with Engine("processes", None, workers=1) as engine:
        early = engine.submit(place_of_work, "early")
        futures = [engine.submit(kill_the_worker, unless), engine.submit(place_of_work, "late")]
        found = [list(engine.results([each])) for each in (futures[0], early, futures[1])]
        asked = [future.task_run_id for future in (early, *futures)]
        recorded = engine.recorded(asked)
    assert not set(recorded) & set(asked)
    return [str(each) for each in recorded], [str(each[0][1][0]) for each in found[1:]], str(flow_run.id)


def test_calls_of_a_pool_that_has_been_replaced_are_repeated_without_another_restart_and_alone_awaited(
    server: str, tmp_path: Path
) -> None:
    recorded, found, run = lose_a_worker_after_a_call(str(tmp_path / "killed"))
    assert found == ["early", "late"]
    # The call before the death was not repeated, the two that it took were.
    wanted = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"id": {"any_": recorded}}}

    def states() -> list[str]:
        return sorted(each["state"]["type"] for each in ask(server, "task_runs/filter", wanted))

    assert len(recorded) == 2
    assert wait_for(lambda: states() == ["COMPLETED", "COMPLETED"], seconds=30)


@task
def die_with_the_lock_of_the_events(unless: str) -> None:
    if not os.path.exists(unless):
        Path(unless).touch()
        time.sleep(2)
        # Prefect's own; into that of the pool's calls, of a class derived from it, no worker ever writes.
        queues: list[Any] = [each for each in gc.get_objects() if type(each) is multiprocessing.queues.Queue]
        for each in queues:
            each._wlock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)


@flow
def lose_the_lock_of_the_events(unless: str) -> None:
    with Engine("processes", None, workers=1) as engine:
        list(engine.results([engine.submit(die_with_the_lock_of_the_events, unless)]))


def _lose_the_lock(unless: str) -> None:
    lose_the_lock_of_the_events(unless)


def test_a_worker_that_dies_while_it_tells_of_an_event_does_not_keep_the_process_from_ending(
    server: str, tmp_path: Path
) -> None:
    killed = str(tmp_path / "killed")
    process = multiprocessing.get_context("spawn").Process(target=_lose_the_lock, args=(killed,))
    process.start()
    process.join(120)
    try:
        assert process.exitcode == 0
        assert os.path.exists(killed)
    finally:
        process.kill()


@flow
def lose_every_worker() -> None:
    with Engine("processes", None, workers=1) as engine:
        list(engine.results([engine.submit(kill_every_worker)]))


def test_workers_that_die_again_end_the_flow_with_the_way_out(server: str) -> None:
    with pytest.raises(UserError, match=r"A worker of --runner processes died again .*--runner threads"):
        lose_every_worker()


@pytest.mark.parametrize(
    ("runner", "module"), [("dask", "prefect_dask.task_runners"), ("ray", "prefect_ray.task_runners")]
)
def test_an_engine_that_is_not_installed_says_how_to_install_it(
    runner: Runner, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what Python takes for "cannot be imported"
    with pytest.raises(UserError, match=rf"--runner {runner} .*pip install 'layerscout\[{runner}\]'"):
        Engine(runner, None, workers=1).__enter__()


def _states(api: str, flow_run_id: str, name: str) -> list[str]:
    """What the server has heard of a task's runs in a flow run."""
    wanted = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"name": {"like_": name}},
    }
    return [each["state"]["type"] for each in ask(api, "task_runs/filter", wanted)]


def _all_ended(api: str, flow_run_id: str, name: str, runs: int) -> list[str]:
    """States of a task's runs in a flow run; none while there are fewer, or one goes on."""
    states = _states(api, flow_run_id, name)
    return states if len(states) == runs and not {"PENDING", "RUNNING"} & set(states) else []
