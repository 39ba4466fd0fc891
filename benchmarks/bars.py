"""What one bar of a benchmark is made of, in benchmarks/results and on the screen."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Bar = dict[str, Any]


def bar(name: str, ours: float, peer: float, ratio: float, wanted: float | str, holds: bool, raw: Any) -> Bar:
    """One bar; `raw` are the timings that it is made of."""
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "bar": wanted,
        "holds": holds,
        "raw": raw,
    }


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def seconds_of_command(command: list[str], **variables: str) -> float:
    """Seconds of a Python command, which has to succeed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return seconds
