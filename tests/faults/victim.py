"""A process that carries out a small sweep as plain function calls, and kills itself, for real, at a planted moment.

The moments below the flow are reached here: a Prefect server and a fresh interpreter for each would cost half a minute,
and the code that writes is the same.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flows.parameters import SweepParameters
from flows.unrecorded_sweep import run_sweep
from storage import database_file, files, manifest, results
from tasks.scoring import layer_scores

# Calls that `kill -9` may come before, by what they do to storage.
POINTS: dict[str, tuple[Any, str]] = {
    "a row group of a shard is written": (pq.ParquetWriter, "write_batch"),
    "a manifest or a shard's record is written": (manifest, "write_file"),
    "the rows of a score are staged": (layer_scores, "_stage"),
    "a written file is flushed to the disk": (os, "fsync"),
    "a written file takes its name": (os, "replace"),
    "rows are inserted into the database": (results, "_insert"),
    "the database is copied into its place": (database_file, "_copy"),
    "strays are removed": (files, "_remove_strays"),
}
KILLED = -signal.SIGKILL


def sweep(parameters: dict[str, Any], cache: str, point: str | None, call: int) -> None:
    """One sweep, killed before the `call`-th call of `point`, or `call` milliseconds after its begin for no point."""
    os.environ["LAYERSCOUT_CACHE"] = cache
    if point in POINTS:
        _replace(point, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == call else None)
    elif point is not None:
        timer = threading.Timer(call / 1000, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    run_sweep([SweepParameters(**parameters)], "victim")


def count_calls(parameters: dict[str, Any], cache: str, counts: str) -> None:
    """An undisturbed sweep; how often it came by each point is written to `counts`, a line a point."""
    os.environ["LAYERSCOUT_CACHE"] = cache
    seen = dict.fromkeys(POINTS, 0)
    for point in POINTS:
        _replace(point, lambda number, point=point: seen.update({point: number}))
    run_sweep([SweepParameters(**parameters)], "victim")
    Path(counts).write_text("".join(f"{number} {point}\n" for point, number in seen.items()))


def _replace(point: str, before: Callable[[int], object]) -> None:
    owner, name = POINTS[point]
    original = getattr(owner, name)
    numbers = iter(range(1, 1_000_000))
    lock = threading.Lock()

    def watched(*arguments: Any, **named: Any) -> Any:
        with lock:
            before(next(numbers))
        return original(*arguments, **named)

    setattr(owner, name, watched)
