"""Where tasks run, and what becomes of them when a worker dies."""

import gc
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
import pytest
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.running import engines
from flows.running.engines import QUIET_DASK, Engine, in_environment
from flows.running.slots import Runner, Slot
from storage.errors import UserError
from tasks.machine import held, hold, on_slot
from tests.flows.conftest import ask, wait_for

ONE = [Slot("cpu", 1)]
# No test has a GPU: what is seen is which one a worker would compute on.
GPU = [Slot("cuda:1", 1)]


@pytest.fixture
def server(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The API of a server that flows here, and their worker processes, find."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    # The log of this process would still be on its way when the server has gone.
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield prefect_server
    hold(())


@task
def place_of_work(name: str) -> tuple[str, int, str | None, tuple[str, ...]]:
    return name, os.getpid(), os.environ.get("OMP_NUM_THREADS"), held()


@task
def name(given: str) -> str:
    return given


@task
def name_when_there(place: Path, given: str) -> str:
    wait_for(place.exists)
    return given


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


@dataclass(frozen=True)
class Seen:
    """What a call sees of where it runs."""

    device: str
    process: int
    threads: str | None
    quiet: bool


@task
def look_around(own: str, other: str) -> Seen:
    """From a slot, while another call is on another."""
    with on_slot("cuda") as device:
        Path(own).touch()
        wait_for(lambda: os.path.exists(other), seconds=60)
        quiet = {name: dask.config.get(name, None) for name in QUIET_DASK} == QUIET_DASK
        return Seen(device, os.getpid(), os.environ.get("OMP_NUM_THREADS"), quiet)


@task
def tell_the_process() -> int:
    return os.getpid()


@flow
def look_around_on_two_slots(runner: Runner, folder: Path) -> tuple[list[Seen], int]:
    """What two calls see, and in which process one is that needs no model."""
    first, second = str(folder / "first"), str(folder / "second")
    with Engine(runner) as engine:
        engine.start([Slot("cuda:0", 3), Slot("cuda:1", 3)])
        looking = [engine.submit(look_around, *each) for each in ((first, second), (second, first))]
        seen = [found for _, found in engine.results(looking)]
        ((_, process),) = engine.results([engine.submit_to_core(tell_the_process)])
        return sorted(seen, key=lambda each: each.device), process


@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
def test_each_worker_has_a_gpu_that_no_other_has_and_its_share_of_the_cores(
    runner: Runner, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    monkeypatch.setattr(engines, "CORES", 6)
    seen, process = look_around_on_two_slots(runner, tmp_path)
    assert [each.device for each in seen] == ["cuda:0", "cuda:1"]
    # There is not a worker for each of the cores.
    assert process == os.getpid()
    if runner == "threads":
        assert {each.process for each in seen} == {os.getpid()}
    else:
        assert len({os.getpid(), *(each.process for each in seen)}) == 3
        assert {each.threads for each in seen} == {"3"}
    # Dask's workers do not spend their core on watching themselves.
    assert {each.quiet for each in seen} == {runner == "dask"}
    # The process that the flow ran in has its own settings back.
    assert os.environ["OMP_NUM_THREADS"] == "6"
    assert dask.config.get("distributed.worker.profile.enabled", True) is True


def test_a_variable_that_was_not_set_is_gone_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERSCOUT_TEST", raising=False)
    with in_environment("LAYERSCOUT_TEST", "1"):
        assert os.environ["LAYERSCOUT_TEST"] == "1"
    assert "LAYERSCOUT_TEST" not in os.environ


@flow
def take_results(begun: Path) -> list[tuple[int, str]]:
    """The first call ends when the result of the second has been taken."""
    with Engine("threads") as engine:
        engine.start(ONE)
        futures = [engine.submit(name_when_there, begun, "late"), engine.submit(name, "early")]
        found = []
        for each in engine.results(futures):
            begun.touch()
            found.append(each)
    return found


def test_results_come_as_they_are_ready_with_their_places(server: str, tmp_path: Path) -> None:
    assert take_results(tmp_path / "taken") == [(1, "early"), (0, "late")]


@flow
def fail_early(failed: Path) -> None:
    """The first call ends when the failure of the second has been seen."""
    with Engine("threads") as engine:
        engine.start(ONE)
        futures = [engine.submit(name_when_there, failed, "late"), engine.submit(fail, "early")]
        with pytest.raises(ValueError, match="early"):
            list(engine.results(futures))
        failed.touch()


def test_the_first_failure_is_raised_before_the_other_calls_are_done(server: str, tmp_path: Path) -> None:
    fail_early(tmp_path / "failed")


@flow
def lose_a_worker(server: str, unless: str) -> tuple[str, dict[int, Any]]:
    with Engine("processes") as engine:
        engine.start(GPU)
        futures = [engine.submit(kill_the_worker, unless), engine.submit(place_of_work, "behind it")]
        found = dict(engine.results(futures))
        # The engine leaves with what the server has heard by then.
        wait_for(lambda: len(_states(server, str(flow_run.id), "kill_the_worker")) == 2)
    return str(flow_run.id), found


def test_a_killed_worker_is_started_anew_its_calls_are_repeated_and_its_task_run_has_crashed(
    server: str, tmp_path: Path
) -> None:
    run, found = lose_a_worker(server, str(tmp_path / "killed"))
    # Both ran in the worker that came after it, on the same slot: the second call had been waiting for the first.
    assert found == {0: found[0], 1: ("behind it", found[0], "1", ("cuda:1",))}
    states = wait_for(lambda: _all_ended(server, run, "kill_the_worker", 2))
    assert sorted(states) == ["COMPLETED", "CRASHED"]


@flow
def lose_a_worker_after_a_call(unless: str) -> tuple[list[str], list[str], str]:
    with Engine("processes") as engine:
        engine.start(ONE)
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
    assert wait_for(lambda: states() == ["COMPLETED", "COMPLETED"])


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
    with Engine("processes") as engine:
        engine.start(ONE)
        list(engine.results([engine.submit(die_with_the_lock_of_the_events, unless)]))


def _lose_the_lock(unless: str) -> None:
    lose_the_lock_of_the_events(unless)


def test_a_worker_that_dies_while_it_tells_of_an_event_does_not_keep_the_process_from_ending(
    server: str, tmp_path: Path
) -> None:
    killed = str(tmp_path / "killed")
    process = multiprocessing.get_context("spawn").Process(target=_lose_the_lock, args=(killed,))
    process.start()
    process.join(400)
    try:
        assert process.exitcode == 0
        assert os.path.exists(killed)
    finally:
        process.kill()


@flow
def lose_every_worker() -> None:
    with Engine("processes") as engine:
        engine.start(ONE)
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
        Engine(runner)


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
