"""Work shared out between the cores of a CPU: a thread a core, each with one-threaded operations of its own.

Small operations one after the other on a thread each keep all cores busy where splitting every one of them would
spend the time on waiting for the slowest share, above all beside other processes.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

_Job = TypeVar("_Job")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Cores:
    """The threads of one computation; one of them, the caller's own, where there is nothing to share out."""

    count: int
    _executor: Executor | None

    def map(self, work: Callable[[_Job], _R], jobs: Iterable[_Job]) -> list[_R]:
        """`work` of every job, in the order of the jobs, whichever thread does them."""
        return [work(job) for job in jobs] if self._executor is None else list(self._executor.map(work, jobs))


@contextmanager
def cores(device: torch.device) -> Iterator[Cores]:
    """As many as torch may use, on a CPU; elsewhere one, which only has to feed the device."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield Cores(1, None)
        return
    with (
        one_thread(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor,
    ):
        yield Cores(threads, executor)


@contextmanager
def beside(device: torch.device, work: Callable[[], object]) -> Iterator[None]:
    """Have `work` done on a CPU thread of its own beside what the caller does; it is done at the end of the block."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        work()
        return
    try:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            done = executor.submit(work)
            yield
            done.result()
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, for operations too small to share; then as many as before.

    torch notes the last number set as the one for threads to come, so it is set back whatever happens.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
