"""What running a sweep as a service costs: `run()` measures every bar of this part, one object a bar.

Overhead: `layer_sweep` on a running local server against `unrecorded_sweep`, the same as plain function calls, in turn
in one process, each into an empty storage folder. The server's start is reported apart. Each finished measurement is
kept beside the results and reused for a day, so that a run that was ended goes on where it was:
`python -m benchmarks.service LEG` takes one leg alone (`overhead`, `repeat`, `dask`).
LAYERSCOUT_BENCH_SHORT=1 takes a tenth of the rows, to try the whole out.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dask.config
from distributed import LocalCluster
from prefect.settings import temporary_settings

from benchmarks.bars import Bar, bar
from benchmarks.scoring import MODEL, emotion
from flows.layer_sweep import layer_sweep
from flows.parameters import SweepParameters
from flows.running.engines import QUIET_DASK
from flows.running.local_run import run_recorded
from flows.running.server import local_server
from flows.unrecorded_sweep import unrecorded_sweep
from storage.layout import Layout
from tasks.vocabulary import Pooling

SHORT = "LAYERSCOUT_BENCH_SHORT" in os.environ
REPEATS = 2
MOST_OVERHEAD = 1.10
LEAST_OVERHEAD_S = 0 if SHORT else 120
MOST_REPEAT = 0.05
LEAST_FIRST_S = 0 if SHORT else 300
DASK = 1.7
# All rows that there are, and the poolings of a sweep that is told nothing: the workers' start, and what flow, server
# and scheduler take of the two cores for every task, is not what is compared.
DASK_ROWS = (400, 200) if SHORT else (16_000, 2_000)
DASK_POOLINGS = (Pooling.MEAN, Pooling.LAST)
# Rows (train, test) meant to take two and five minutes on two cores; a bar does not hold if they do not.
OVERHEAD_ROWS = (400, 200) if SHORT else (10_000, 2_000)
REPEAT_ROWS = (400, 200) if SHORT else (16_000, 2_000)
# A first run of five minutes needs more than the rows there are with one pooling.
REPEAT_POOLINGS = (Pooling.MEAN, Pooling.MEAN_TAIL, Pooling.LAST)
KEPT = Path(__file__).parent / "results" / ("service_short.json" if SHORT else "service_legs.json")
KEPT_S = 86_400


def run(only: str | None = None) -> list[Bar]:
    """All bars of the service, or one leg's: each takes ten to twenty minutes on two cores."""
    legs = {"overhead": overhead, "repeat": repeat, "dask": two_dask_workers}
    return [bar for name, leg in legs.items() if only in (None, name) for bar in leg()]


def overhead() -> list[Bar]:
    """Wall time of a sweep with Prefect over the same work without."""
    ours, peer = [], []
    for number in range(REPEATS):
        peer.append(_kept(f"plain {number}", lambda: {"seconds": _timed_plain()}))
        ours.append(_kept(f"prefect {number}", _timed_service))
    with_prefect, plain = (min(each["seconds"] for each in side) for side in (ours, peer))
    ratio = with_prefect / plain
    return [
        bar(
            f"sweep of {OVERHEAD_ROWS[0]:,} + {OVERHEAD_ROWS[1]:,} rows, Prefect over plain calls",
            with_prefect,
            plain,
            ratio,
            f"≤ {MOST_OVERHEAD} of ≥ {LEAST_OVERHEAD_S} s",
            ratio <= MOST_OVERHEAD and plain >= LEAST_OVERHEAD_S,
            {"ours": ours, "peer": peer},
        )
    ]


def repeat() -> list[Bar]:
    """A finished sweep once more, over its first run."""
    found = _kept("repeat", _first_and_again)
    ratio = found["again"] / found["first"]
    return [
        bar(
            f"finished sweep of {REPEAT_ROWS[0]:,} + {REPEAT_ROWS[1]:,} rows repeated, over its first run",
            found["again"],
            found["first"],
            ratio,
            f"≤ {MOST_REPEAT} of ≥ {LEAST_FIRST_S} s",
            ratio <= MOST_REPEAT and found["first"] >= LEAST_FIRST_S,
            found,
        )
    ]


def two_dask_workers() -> list[Bar]:
    """Two Dask workers of one thread each against one: extraction and scoring of the same shards and layers."""
    bars = []
    for part in ("extraction", "scoring"):
        one, two = [], []
        for number in range(REPEATS):
            one.append(_kept(f"dask 1 {number}", lambda: _on_dask(1))[part])
            two.append(_kept(f"dask 2 {number}", lambda: _on_dask(2))[part])
        ratio = min(one) / min(two)
        bars.append(
            bar(
                f"{part}: two Dask workers of one thread over one",
                min(two),
                min(one),
                ratio,
                f"≥ {DASK}",
                ratio >= DASK,
                {"one": one, "two": two},
            )
        )
    return bars


def _timed_plain() -> float:
    with tempfile.TemporaryDirectory() as scratch:
        parameters = _parameters(scratch, OVERHEAD_ROWS)
        started = time.perf_counter()
        unrecorded_sweep(parameters)
        return time.perf_counter() - started


def _timed_service() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch, _server(scratch) as start_seconds:
        seconds = _timed_sweep(_parameters(scratch, OVERHEAD_ROWS))
        return {"seconds": seconds, "server_start_seconds": start_seconds}


def _first_and_again() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch, _server(scratch) as start_seconds:
        parameters = _parameters(scratch, REPEAT_ROWS, REPEAT_POOLINGS)
        first, again = _timed_sweep(parameters), _timed_sweep(parameters)
        return {"first": first, "again": again, "server_start_seconds": start_seconds}


def _on_dask(workers: int) -> dict[str, float]:
    """Seconds of extraction (plan to last shard) and of scoring (last shard to last score), by the files' times."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        _server(scratch),
        dask.config.set(QUIET_DASK),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        cluster_at = {"runner": "dask", "runner_address": cluster.scheduler_address}
        _timed_sweep(_parameters(scratch, DASK_ROWS, DASK_POOLINGS).model_copy(update=cluster_at))
        planned = _last_written(Path(scratch), "embeddings/*/manifest.json")
        embedded = _last_written(Path(scratch), "embeddings/*/shard_*.parquet")
        scores = [f"staged/*/{table}/*.parquet" for table in ("silhouette", "criterion", "probe")]
        scored = max(_last_written(Path(scratch), each) for each in scores)
        return {"extraction": embedded - planned, "scoring": scored - embedded}


def _last_written(folder: Path, pattern: str) -> float:
    return max(each.stat().st_mtime for each in folder.glob(pattern))


@contextmanager
def _server(storage: str) -> Iterator[float]:
    """A local server for sweeps into this storage; yields the seconds that its start took."""
    home = Layout(storage).server
    begun = time.perf_counter()
    with (
        local_server(home) as server,
        temporary_settings({**server.variables, "PREFECT_HOME": home.folder}),
    ):
        yield time.perf_counter() - begun


def _timed_sweep(parameters: SweepParameters) -> float:
    """Seconds of a sweep as the command runs it, until its last record is down."""
    started = time.perf_counter()
    run_recorded(layer_sweep, parameters)
    return time.perf_counter() - started


def _parameters(
    storage: str, rows: tuple[int, int], poolings: tuple[Pooling, ...] = (Pooling.MEAN,)
) -> SweepParameters:
    data = Path(storage) / "data"
    data.mkdir(parents=True, exist_ok=True)
    for split, count in zip(("train", "test"), rows, strict=True):
        emotion(split).head(count).write_parquet(data / f"{split}.parquet")
    return SweepParameters(
        model=MODEL,
        dataset=f"path:{data}",
        pooling=poolings,
        metric=("euclidean",),
        until_confident="never",
        storage=storage,
    )


def _kept(name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A measurement of the last day, else a new one in a process that nothing has warmed or filled but itself."""
    legs = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    now = datetime.now(UTC)
    found = legs.get(name)
    if found and (now - datetime.fromisoformat(found["measured_at"])).total_seconds() < KEPT_S:
        return dict(found["found"])
    measured = measure()
    KEPT.parent.mkdir(exist_ok=True)
    legs = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    legs[name] = {"measured_at": now.isoformat(timespec="seconds"), "found": measured}
    KEPT.write_text(json.dumps(legs, indent=2) + "\n")
    return measured


if __name__ == "__main__":
    for each in run(sys.argv[1] if len(sys.argv) > 1 else None):
        print(
            f"{each['name']}: {each['ratio']:.3f} ({each['bar']}), {each['ours']:.1f} s and {each['peer']:.1f} s"
        )
