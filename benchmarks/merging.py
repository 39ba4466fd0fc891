"""`python -m benchmarks.merging`: what merging one run costs in a database of many, and how large that is.

The run is one of SmolLM2-135M on a few rows of Emotion, 31 layers and the two poolings of a sweep that is told nothing:
its result rows are as many as those of any data set of six classes. The many are it under other ids.
"""

import tempfile
import time
from contextlib import closing
from pathlib import Path

import duckdb

from benchmarks.scoring import MODEL, emotion
from flows.parameters import SweepParameters
from flows.unrecorded_sweep import unrecorded_sweep
from storage.migrations import result_tables
from storage.results import merge

RUNS = (1, 100, 1_000, 10_000)
ROWS = (200, 100)
REPEATS = 3


def main() -> None:
    """Print a line a number of runs."""
    with tempfile.TemporaryDirectory(prefix="layerscout-bench-") as scratch:
        data = Path(scratch, "data")
        data.mkdir()
        for split, count in zip(("train", "test"), ROWS, strict=True):
            emotion(split).head(count).write_parquet(data / f"{split}.parquet")
        asked = SweepParameters(model=MODEL, dataset=f"path:{data}", storage=f"{scratch}/out")
        swept = unrecorded_sweep(asked)
        database = swept.layout.results
        of_run = sum(
            frame.height for name, frame in swept.tables.items() if "run_id" in result_tables()[name].columns
        )
        print(f"A run has {of_run:,} result rows.")
        for runs in RUNS:
            _fill(database, swept.run_id, runs)
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                merge(database, swept.run_id, swept.tables)
                seconds.append(time.perf_counter() - started)
            size = Path(database).stat().st_size
            shown = ", ".join(f"{each:.2f}" for each in seconds)
            print(f"{runs:>6,} runs: {size / 1e6:>7,.1f} MB, a merge {shown} s", flush=True)


def _fill(database: str, run_id: str, runs: int) -> None:
    """Copies of the run under ids of their own, until there are so many runs."""
    with closing(duckdb.connect(database)) as connection:
        (there,) = connection.sql("SELECT count(*) FROM run").fetchall()[0]
        for table in result_tables().values():
            ids = [name for name in ("run_id", "flow_run_id") if name in table.columns]
            if "run_id" not in ids:
                continue
            renamed = ", ".join(f"{name} || '-' || number AS {name}" for name in ids)
            connection.execute(
                f"INSERT INTO {table.name} SELECT own.* REPLACE ({renamed}) FROM {table.name} AS own, "
                "range(?, ?) AS numbers(number) WHERE run_id = ?",
                [there, runs, run_id],
            )
        connection.execute("CHECKPOINT")


if __name__ == "__main__":
    main()
