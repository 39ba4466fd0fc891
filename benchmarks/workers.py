"""Two workers of a process pool over one, on a grid of eight pairs: each worker has a core of its own.

Work pool, server, command and workers are those of docs/operations.md. A worker runs one pair at a time, in a process
with OMP_NUM_THREADS=1; the server and the command that waits for the pairs run on whatever core is free.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.bars import Bar, bar, seconds_of_command
from benchmarks.scoring import emotion
from flows.running.server import local_server
from storage.layout import Layout
from storage.results import query

ROOT = Path(__file__).parents[1]
MODEL = "wheel:minilm-l6"
PAIRS, TRAIN_ROWS, TEST_ROWS = 8, 2_000, 250
LEAST = 1.7


def run() -> list[Bar]:
    """The one bar. About seven minutes on two cores."""
    seconds = {workers: grid_on(workers) for workers in (1, 2)}
    ratio = seconds[1] / seconds[2]
    return [
        bar(
            f"a grid of {PAIRS} pairs: two workers of one core each over one",
            seconds[2],
            seconds[1],
            ratio,
            LEAST,
            ratio >= LEAST,
            seconds,
        )
    ]


def grid_on(workers: int) -> float:
    """Seconds of the command `layerscout grid`, from its start to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        storage, grid = Path(scratch) / "storage", Path(scratch) / "grid.yaml"
        datasets = _datasets(Path(scratch))
        grid.write_text(json.dumps({"blocks": [{"models": [MODEL], "datasets": datasets}]}))  # JSON is YAML
        with local_server(Layout(str(storage)).server) as server:
            command, into = ["-m", "flows.cli"], ["--storage", str(storage)]
            registered = ["deploy", "--file", str(ROOT / "deployments/prefect.yaml")]
            seconds_of_command([*command, *registered, *into], **server.variables)
            with _started(workers, server.variables, Path(scratch)):
                asked = ["grid", str(grid), "--deployment", "layer-sweep/sweep"]
                seconds = seconds_of_command([*command, *asked, *into], **server.variables)
        answered = query(
            Layout(str(storage)).results, "SELECT count(DISTINCT run_id) FROM leaderboard"
        ).item()
        if answered != PAIRS:
            raise RuntimeError(f"{answered} of {PAIRS} pairs have an answer")
        return seconds


def _datasets(folder: Path) -> list[str]:
    """Other rows for each pair."""
    made = []
    for number in range(PAIRS):
        data = folder / f"emotion-{number}"
        data.mkdir()
        for split, count in (("train", TRAIN_ROWS), ("test", TEST_ROWS)):
            emotion(split).slice(number * count, count).write_parquet(data / f"{split}.parquet")
        made.append(f"path:{data}")
    return made


@contextmanager
def _started(workers: int, variables: dict[str, str], folder: Path) -> Iterator[None]:
    """Workers that wait for runs, and what they start, each on one core."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        "layerscout-process",
        "--limit",
        "1",
    ]
    running = []
    try:
        for number in range(workers):
            own = {"OMP_NUM_THREADS": "1", "PREFECT_HOME": str(folder / f"worker-{number}")}
            own |= variables | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
            worker = subprocess.Popen(
                command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            psutil.Process(worker.pid).cpu_affinity([number])
            running.append(worker)
        yield
    finally:
        for worker in running:
            worker.terminate()
        for worker in running:
            worker.wait(timeout=60)


if __name__ == "__main__":
    for each in run():
        print(
            f"{each['name']}: {each['ratio']:.2f} (≥ {each['bar']}), {each['ours']:.0f} and {each['peer']:.0f} s"
        )
