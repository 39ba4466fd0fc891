"""`python -m tests.soak MINUTES`: sweeps, grids, readers and kills in a loop, and what they must not leave behind.

In this process sweeps without a record, races, reports and queries; beside it commands with a server, a sweep and a
grid in turn, each killed at a random moment and given again, and a reader that asks all the while. At the end: this
process has stopped growing, no process, port, open file or lock is left, and no storage had a run without an answer or
a row that contradicts another, at no time that the reader asked. One round at least. Ends with 1 where one does not
hold, and says which.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from scipy.stats import theilslopes

# What it starts finds no configured server, and asks nobody on the network.
os.environ |= {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
MOST_GROWTH = 2 << 20
"""Bytes a round, over the last third of the rounds: caches fill in the first."""
FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""glibc begins an arena for each of up to eight threads a core that allocate, and what the threads of one sweep have
freed those of the next do not find: a process grows by what is in use nowhere (docs/trust.md). Read when it starts."""
MOST_FILES = 8
"""Databases and pipes of the threads that Prefect keeps come and go; a file a round would be tens."""
KILLED_EVERY = 3
"""Rounds."""


def main(minutes: float) -> int:
    """Run for so long; 1 where something was left behind, else 0."""
    from tests.conftest import labelled_text, save_tiny_model

    us = psutil.Process()
    before = {each.pid for each in us.children(recursive=True)}
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        folder = Path(scratch)
        os.environ["LAYERSCOUT_CACHE"] = str(folder / "cache")
        save_tiny_model(folder / "model")
        labelled_text(1_400, seed=1).write_csv(folder / "rows.csv")
        wrong: list[str] = []
        sizes: list[int] = []
        kills = rounds = files = 0
        end = time.monotonic() + 60 * minutes
        while rounds == 0 or time.monotonic() < end:
            storage = folder / f"storage-{rounds}"
            in_this_process(folder, storage, seed=rounds % 4)
            if rounds % KILLED_EVERY == 0:
                command = a_command(folder, storage, "sweep" if rounds % 2 else "grid")
                with reading(storage) as seen:
                    kills += killed_and_given_again(command, random.Random(rounds))
                wrong += seen
            wrong += what_is_wrong_in(storage)
            shutil.rmtree(storage)
            rounds += 1
            sizes.append(us.memory_info().rss)
            # What imports keep open is open after the first round.
            files = files or us.num_fds()
            print(f"round {rounds}: {sizes[-1] >> 20} MiB, {kills} kills", flush=True)
        last = sizes[-max(len(sizes) // 3, 2) :]
        # The median of all slopes (Theil and Sen): one round that took more is no growth.
        slope = theilslopes(last)[0] if len(last) > 1 else 0.0
        if slope > MOST_GROWTH:
            wrong.append(
                f"in its last {len(last)} rounds this process has grown by {slope / 2**20:.1f} MiB a round"
            )
        wrong += left_running(us, before)
        if (more := us.num_fds() - files) > MOST_FILES:
            wrong.append(f"{more} more files are open than after the first round")
        wrong += held_locks(folder)
    print(f"{rounds} rounds, {kills} kills, {slope / 2**20:.1f} MiB more a round in the last third")
    for each in wrong:
        print(f"WRONG: {each}")
    return int(bool(wrong))


def asked(folder: Path, storage: Path, seed: int) -> dict[str, Any]:
    return {
        "model": f"path:{folder / 'model'}",
        "dataset": f"path:{folder / 'rows.csv'}",
        "storage": str(storage),
        "seed": seed,
    }


def in_this_process(folder: Path, storage: Path, seed: int) -> None:
    """A sweep, a race between two prompts, an answer that was there, its page, and a query."""
    from flows.parameters import SweepParameters
    from flows.search_parameters import SearchParameters
    from flows.unrecorded_sweep import unrecorded_sweep
    from storage.results import query
    from tasks.reporting.run_record import rebuild_database

    given = asked(folder, storage, seed)
    outcome = unrecorded_sweep(SweepParameters(**given))
    raced = SearchParameters(**given, prompt=("none", "a {text}"), until_confident=0.8)
    unrecorded_sweep(*raced.sweeps())
    assert unrecorded_sweep(SweepParameters(**given)).run_id == outcome.run_id
    rebuild_database(outcome.layout)
    assert query(outcome.layout.results, "SELECT count(*) FROM leaderboard").item() == 2


def a_command(folder: Path, storage: Path, name: str) -> list[str]:
    """A sweep, or a grid of two data sets that are the same rows in another order."""
    given = asked(folder, storage, seed=7)
    command = [sys.executable, "-m", "flows.cli", name]
    if name == "sweep":
        return command + [word for key, value in given.items() for word in (f"--{key}", str(value))]
    rows = pl.read_csv(folder / "rows.csv")
    rows.reverse().write_csv(folder / "reversed.csv")
    grid = folder / "grid.yaml"
    datasets = f"[{given['dataset']}, path:{folder / 'reversed.csv'}]"
    grid.write_text(
        f"sweep: {{seed: 7}}\nblocks:\n  - models: [{given['model']}]\n    datasets: {datasets}\n"
    )
    return [*command, str(grid), "--storage", str(storage)]


@contextlib.contextmanager
def reading(storage: Path) -> Iterator[list[str]]:
    """Ask for the runs and their answers all the while; what was wrong, when it ends."""
    from storage.results import query

    wrong: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(0.2):
            runs, answers = query(
                str(storage / "results.duckdb"),
                "SELECT (SELECT count(*) FROM run), (SELECT count(*) FROM leaderboard)",
            ).row(0)
            if runs != answers or runs < 2:
                wrong.append(f"a reader of {storage.name} saw {runs} runs and {answers} answers")

    with ThreadPoolExecutor(1) as executor:
        reader = executor.submit(read)
        try:
            yield wrong
        finally:
            ended.set()
            reader.result()


def killed_and_given_again(command: list[str], draw: random.Random) -> int:
    """A command with its server, killed with all that it started, and given again to its end. 1 if the kill struck."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        first.wait(timeout=draw.uniform(2, 25))
        struck = 0
    except subprocess.TimeoutExpired:
        struck = 1
        for each in [*psutil.Process(first.pid).children(recursive=True), first]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                each.send_signal(signal.SIGKILL)
        first.wait()
    subprocess.run(command, check=True, timeout=600, **quiet)
    return struck


def what_is_wrong_in(storage: Path) -> list[str]:
    """Runs without an answer, rows that contradict others, and files that were never finished."""
    from storage.results import query

    database = str(storage / "results.duckdb")
    runs, answers = (
        query(database, f"SELECT count(*) FROM {table}").item() for table in ("run", "leaderboard")
    )
    wrong = [f"{storage.name} has {runs} runs and {answers} answers"] * (runs != answers)
    impossible = query(database, "SELECT count(*) FROM impossible_row").item()
    return wrong + [f"{storage.name} has {impossible} impossible rows"] * bool(impossible)


def left_running(us: psutil.Process, before: set[int]) -> list[str]:
    """Processes that this one or a killed command started, and ports that they listen on."""
    deadline = time.monotonic() + 60  # a server ends when nobody has asked it for a while
    while True:
        own = [each for each in us.children(recursive=True) if each.pid not in before]
        orphans = [
            each
            for each in psutil.process_iter(["cmdline"])
            if any("soak-" in word for word in each.info["cmdline"] or []) and each.pid != us.pid
        ]
        listening = [each.laddr.port for each in us.net_connections() if each.status == psutil.CONN_LISTEN]
        if not (own or orphans or listening) or time.monotonic() > deadline:
            return [f"still running: {each.pid} {each.info.get('cmdline')}" for each in orphans] + [
                *(f"still running: {each}" for each in own),
                *(f"still listening on port {port}" for port in listening),
            ]
        time.sleep(1)


def held_locks(folder: Path) -> list[str]:
    """Lock files that some process still holds."""
    from filelock import FileLock, Timeout

    held = []
    for lock in folder.rglob("*.lock"):
        try:
            FileLock(lock).acquire(timeout=0).lock.release()
        except Timeout:
            held.append(f"{lock.name} is still held")
    return held


if __name__ == "__main__":
    if not FEW_ARENAS.items() <= os.environ.items():
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.soak", *sys.argv[1:]], os.environ | FEW_ARENAS
        )
    sys.exit(main(float(sys.argv[1])))
