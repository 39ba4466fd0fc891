"""What the faults are planted in: a small sweep of several shards, undisturbed once, and what must hold afterwards."""

import multiprocessing
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import polars.testing
import pytest
from filelock import FileLock

from flows.parameters import SweepParameters
from tests.faults.victim import POINTS, count_calls
from tests.flows.conftest import plant_calibration, tables

# `make test` plants a few; `make test-faults` says how many.
MOMENTS = int(os.environ.get("LAYERSCOUT_FAULT_MOMENTS", "4"))
LONG = MOMENTS > 6
"""What takes a minute each is tried too."""
SEED = 20_260
TIMED = "at any time"


@dataclass(frozen=True)
class Small:
    """A small sweep, its cache with a planted calibration (several shards), and what it leaves undisturbed."""

    parameters: dict[str, Any]
    cache: Path
    expected: dict[str, pl.DataFrame]
    calls: dict[str, int]

    def at(self, storage: Path | str) -> dict[str, Any]:
        return self.parameters | {"storage": str(storage)}


@pytest.fixture(scope="session")
def small(tiny_model: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Small:
    cache, storage = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("undisturbed")
    asked = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}", "pooling": ["mean"]}
    # Six shards of eight batches.
    plant_calibration(SweepParameters(**asked, storage=str(storage)), cache, token_budget=64)
    counts = cache / "calls.txt"
    assert in_a_process(count_calls, asked | {"storage": str(storage)}, str(cache), str(counts)) == 0
    lines = [line.split(" ", 1) for line in counts.read_text().splitlines()]
    calls = {point: int(number) for number, point in lines}
    assert min(calls.values()) > 0
    return Small(asked, cache, tables(storage), calls)


def moments(small: Small, count: int) -> list[tuple[str, int]]:
    """Seeded moments: each point in turn, before a call of it drawn at random; every fourth at a drawn time instead."""
    draw = random.Random(SEED)
    points = list(POINTS)
    found = []
    for number in range(count):
        if number % 4 == 3:
            found.append((TIMED, draw.randrange(50, 2_000)))
        else:
            point = points[(number - number // 4) % len(points)]
            found.append((point, draw.randint(1, small.calls[point])))
    return found


def in_a_process(function: Callable[..., None], *arguments: Any) -> int:
    """Run in a process forked from one that has imported everything; its exit code, negative for a signal."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.victim"])
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join(120)
    code = process.exitcode
    assert code is not None, "it did not end within 120 s"
    return code


def assert_clean(storage: Path, cache: Path) -> None:
    """No file half written lies about, and every lock can be had."""
    left = [str(each) for each in storage.rglob("*") if each.name.endswith((".tmp", ".merging"))]
    assert left == []
    for lock in [*storage.rglob("results.lock"), *(cache / "locks").glob("*.lock")]:
        with FileLock(lock, timeout=0):
            pass


def assert_equal_tables(expected: dict[str, pl.DataFrame], storage: Path | str) -> None:
    """Every table but times is that of the undisturbed run."""
    found = tables(storage)
    for name, frame in expected.items():
        pl.testing.assert_frame_equal(found[name], frame, check_exact=True)
