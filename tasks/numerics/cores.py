"""Work shared out between the cores of a CPU: a thread a core, each with one-threaded operations of its own.

Small operations one after the other on a thread each keep all cores busy where splitting every one of them would
spend the time on waiting for the slowest share, above all beside other processes.
"""

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

_Job = TypeVar("_Job")
_R = TypeVar("_R")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # their numbers in malloc.h
# torch has MKL compute these, of float32 and float64.
VECTOR_FUNCTIONS = (
    *(
        torch.acos,
        torch.asin,
        torch.atan,
        torch.cos,
        torch.sin,
        torch.tan,
        torch.cosh,
        torch.sinh,
        torch.tanh,
    ),
    *(torch.exp, torch.expm1, torch.log, torch.log10, torch.log1p, torch.log2, torch.sqrt, torch.rsqrt),
    *(torch.erf, torch.erfc, torch.erfinv, torch.lgamma),
)


@dataclass(frozen=True)
class Cores:
    """The threads of one computation; one of them, the caller's own, where there is nothing to share out."""

    count: int
    _executor: Executor | None

    def map(self, work: Callable[[_Job], _R], jobs: Iterable[_Job]) -> list[_R]:
        """`work` of every job, in the order of the jobs, whichever thread does them."""
        return [work(job) for job in jobs] if self._executor is None else list(self._executor.map(work, jobs))


_busy: ContextVar[Cores | None] = ContextVar("_busy", default=None)
"""Cores of which one does what was given to `beside`, for this thread to use the others."""


@contextmanager
def cores(device: torch.device) -> Iterator[Cores]:
    """As many as torch may use, on a CPU; elsewhere one, which only has to feed the device."""
    keep_freed_memory()
    busy = _busy.get()
    if busy is not None:
        yield busy
        return
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        with one_thread():
            yield Cores(1, None)
        return
    with (
        one_thread(),
        ThreadPoolExecutor(threads, initializer=own_threads, initargs=(1,)) as executor,
    ):
        yield Cores(threads, executor)


@contextmanager
def beside(device: torch.device, work: Callable[[], object]) -> Iterator[None]:
    """Have `work` done by one of the cores, which goes on with what the caller shares out; done at the block's end."""
    with cores(device) as shared:
        if shared._executor is None:
            yield
            work()
            return
        done = shared._executor.submit(work)
        token = _busy.set(shared)
        try:
            yield
        finally:
            _busy.reset(token)
        done.result()


def own_threads(count: int) -> None:
    """Let this thread's torch use so many threads, whatever number others set meanwhile.

    A thread's first operation takes over the number that any thread has set last, and another number rounds otherwise:
    that operation is this question, and only then is the thread's own number set.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)


def use_threads(count: int) -> None:
    """Let this thread's torch, and NumPy's BLAS in the whole process, use so many threads from now on.

    BLAS threads of two layers that are scored side by side would wait for each other, and keep cores busy with it.
    """
    own_threads(count)
    _libraries().limit(limits=count, user_api="blas")


def side_by_side(count: int, *works: Callable[[], object]) -> None:
    """Do all works on `count` threads, with one-threaded operations each, or else by this thread, one by one."""
    if count == 1:
        for work in works:
            work()
        return
    with ThreadPoolExecutor(count, initializer=use_threads, initargs=(1,)) as executor:
        for done in [executor.submit(work) for work in works]:
            done.result()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and NumPy's BLAS use one thread, for operations too small to share; then as many as before.

    torch notes the last number set as the one for threads to come, so it is set back whatever happens.
    """
    threads = torch.get_num_threads()
    with _libraries().limit(limits=1, user_api="blas"):
        if threads == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to 32 MiB for the next operation, for the rest of the process.

    glibc hands them back to the kernel at once, which then has to clear their pages anew for every operation.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def hand_back_freed_memory() -> None:
    """Have the C library give the kernel what the process has freed, between two works that do not share threads.

    What a thread has freed only that thread finds again: what loading a model freed would stay in the process.
    """
    malloc_trim = _of_c_library("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_c_library(name: str) -> Callable[..., int] | None:
    """A function of glibc; None with another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _settle_vector_functions() -> None:
    """Call each of VECTOR_FUNCTIONS once, on this thread alone.

    MKL picks a function's kernel at its first call, and of two threads that make it at the same time one may get a
    kernel of 11 digits in the place of 16 (github.com/pytorch/pytorch/issues/188792): the same sweep then has other
    numbers now and then.
    """
    for dtype in (torch.float32, torch.float64):
        value = torch.full((1,), 0.5, dtype=dtype)
        for function in VECTOR_FUNCTIONS:
            function(value)


# On import, which is never done by two threads at once.
_settle_vector_functions()
