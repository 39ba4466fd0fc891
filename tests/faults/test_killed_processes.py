"""`kill -9` of whole processes of a real sweep: a worker, and in the long form the flow and its server too."""

import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import LONG, Small, assert_clean, assert_equal_tables
from tests.flows.conftest import COMMAND, environment, finished_shards, layerscout, wait_for


def command(small: Small, storage: Path, *more: str) -> list[str]:
    asked = small.parameters
    found = ["sweep", "--model", asked["model"], "--dataset", asked["dataset"], "--pooling", "mean"]
    return [*found, "--storage", str(storage), *more]


def started(arguments: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def await_files(storage: Path, count: int, running: subprocess.Popen[str]) -> None:
    """Until so many shards and scores are there."""
    wait_for(lambda: running.poll() is not None or len(_files(storage)) >= count)
    assert running.poll() is None, running.communicate()


def workers_of(running: subprocess.Popen[str]) -> list[psutil.Process]:
    below = psutil.Process(running.pid).children(recursive=True)
    # Ray's tell in their first word what they are at.
    return [each for each in below if re.search(r"spawn_main|^ray::", " ".join(each.cmdline()))]


def _files(storage: Path) -> list[Path]:
    return [each for each in storage.rglob("*.parquet") if each.parent.name != "datasets"]


@pytest.mark.parametrize("runner", ["processes", "dask", "ray"] if LONG else ["processes"])
def test_a_sweep_survives_the_death_of_a_worker(
    small: Small, tmp_path: Path, prefect_server: str, runner: str
) -> None:
    env = environment(PREFECT_API_URL=prefect_server, LAYERSCOUT_CACHE=str(small.cache))
    running = started(command(small, tmp_path, "--runner", runner), env)
    await_files(tmp_path, 3, running)
    shards = finished_shards(tmp_path)
    workers = workers_of(running)
    workers[-1].send_signal(signal.SIGKILL)
    _, error = running.communicate(timeout=300)
    assert running.returncode == 0, error
    kept = finished_shards(tmp_path)
    assert {shard: kept[shard] for shard in shards} == shards
    assert_equal_tables(small.expected, tmp_path)
    assert_clean(tmp_path, small.cache)
    psutil.wait_procs(workers, timeout=30)
    assert [each for each in workers if each.is_running()] == []


if LONG:

    def test_a_killed_server_ends_the_sweep_in_words_and_the_same_command_finishes(
        small: Small, tmp_path: Path
    ) -> None:
        env = environment(LAYERSCOUT_CACHE=str(small.cache))
        running = started(command(small, tmp_path), env)
        await_files(tmp_path, 2, running)
        below = psutil.Process(running.pid).children(recursive=True)
        (server,) = [each for each in below if "flows.running.server" in each.cmdline()]
        shards = finished_shards(tmp_path)
        server.kill()
        _, error = running.communicate(timeout=240)
        assert running.returncode == 1
        assert "is gone" in error
        assert "the same command goes on" in " ".join(error.split())
        assert psutil.wait_procs(below, timeout=60)[1] == []
        done = layerscout(*command(small, tmp_path), env=env)
        assert done.returncode == 0, done.stderr
        kept = finished_shards(tmp_path)
        assert {shard: kept[shard] for shard in shards} == shards
        assert_equal_tables(small.expected, tmp_path)
        assert_clean(tmp_path, small.cache)

    @pytest.mark.parametrize(
        ("runner", "files"),
        [("threads", 1), ("threads", 9), ("processes", 2), ("processes", 12), ("dask", 5), ("ray", 5)],
    )
    def test_a_killed_flow_leaves_nothing_running_and_the_same_command_finishes(
        small: Small, tmp_path: Path, runner: str, files: int
    ) -> None:
        # A server of its own, which has to end as well.
        env = environment(LAYERSCOUT_CACHE=str(small.cache))
        running = started(command(small, tmp_path, "--runner", runner), env)
        await_files(tmp_path, files, running)
        below = psutil.Process(running.pid).children(recursive=True)
        shards = finished_shards(tmp_path)
        running.kill()
        running.communicate()
        _, alive = psutil.wait_procs(below, timeout=180)  # Ray's agents look for their parent now and then
        assert [each.cmdline() for each in alive] == []
        done = layerscout(*command(small, tmp_path, "--runner", runner), env=env)
        assert done.returncode == 0, done.stderr
        kept = finished_shards(tmp_path)
        assert {shard: kept[shard] for shard in shards} == shards
        assert_equal_tables(small.expected, tmp_path)
        assert_clean(tmp_path, small.cache)
