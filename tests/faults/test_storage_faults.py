"""Two sweeps at once on one storage folder, a full disk, and a storage that goes away and comes back."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from tests.faults.conftest import LONG, Small, assert_clean, assert_equal_tables
from tests.faults.test_killed_processes import command, started
from tests.flows.conftest import environment, wait_for

# Run with its own mounts: a disk of 96 KiB, which fills, then the same with room.
FULL_DISK = """
import json, subprocess, sys
from tests.faults.victim import sweep
parameters, cache, disk = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], check=True)
try:
    sweep(parameters, cache, None, 0)
except OSError as error:
    print("FULL", error.strerror)
subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
sweep(parameters, cache, None, 0)
from tests.faults.conftest import assert_clean
from tests.flows.conftest import finished_shards
from pathlib import Path
import shutil
assert_clean(Path(parameters["storage"]), Path(cache))
shutil.copytree(parameters["storage"], sys.argv[4])
"""


def test_two_sweeps_at_once_on_one_folder_and_two_engines_leave_the_same_tables(
    small: Small, tmp_path: Path, prefect_server: str
) -> None:
    env = environment(PREFECT_API_URL=prefect_server, LAYERSCOUT_CACHE=str(small.cache))
    both = [started(command(small, tmp_path, "--runner", runner), env) for runner in ("dask", "threads")]
    for running in both:
        _, error = running.communicate(timeout=400)
        assert running.returncode == 0, error
    assert_equal_tables(
        {name: rows for name, rows in small.expected.items() if name != "execution"}, tmp_path
    )
    assert_clean(tmp_path, small.cache)


if LONG:

    def test_a_storage_that_goes_away_and_comes_back_costs_a_wait(
        small: Small, prefect_server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
        variables = keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        system, _ = fs.FileSystem.from_uri(
            f"s3://layers?endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
        )
        system.create_dir("layers")
        env = environment(PREFECT_API_URL=prefect_server, LAYERSCOUT_CACHE=str(small.cache), **variables)
        running = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *_stored_at(command(small, Path("x")), "s3://layers/study")],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        selector = fs.FileSelector("layers/study", recursive=True, allow_not_found=True)
        wait_for(lambda: sum(each.path.endswith(".parquet") for each in system.get_file_info(selector)) > 2)
        server.stop()
        time.sleep(5)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        server.start()
        _, error = running.communicate(timeout=400)
        assert running.returncode == 0, error
        assert_equal_tables(small.expected, "s3://layers/study")
        server.stop()

    def test_a_full_disk_ends_a_sweep_and_with_room_it_goes_on(small: Small, tmp_path: Path) -> None:
        disk, kept = tmp_path / "disk", tmp_path / "kept"
        disk.mkdir()
        arguments = [json.dumps(small.at(disk / "storage")), str(small.cache), str(disk), str(kept)]
        unshared = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", FULL_DISK, *arguments]
        done = subprocess.run(unshared, capture_output=True, text=True, timeout=240, check=False)
        if "Operation not permitted" in done.stderr or "ermission denied" in done.stderr:
            pytest.fail("This machine lets nobody mount a small disk, so a full one cannot be tried here.")
        assert done.returncode == 0, done.stderr
        assert "FULL No space left on device" in done.stdout
        assert_equal_tables(small.expected, kept)


def _stored_at(arguments: list[str], uri: str) -> list[str]:
    before = ["", *arguments[:-1]]
    return [uri if flag == "--storage" else each for flag, each in zip(before, arguments, strict=True)]
