"""What one bar of a benchmark is made of, in benchmarks/results and on the screen."""

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
