import os
import runpy
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.numerics import cores as module
from tasks.numerics.cores import (
    VECTOR_FUNCTIONS,
    beside,
    cores,
    one_thread,
    own_threads,
    side_by_side,
    use_threads,
)


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    torch_threads = torch.get_num_threads()
    with threadpool_limits(2, user_api="blas"):
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(torch_threads)


@pytest.mark.usefixtures("two_threads")
def test_one_thread_of_each_library_and_then_as_many_as_before():
    with one_thread():
        assert blas_threads() == {1}
        assert torch.get_num_threads() == 1
        with one_thread():
            pass
        assert blas_threads() == {1}
    assert blas_threads() == {2}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_side_by_side_keep_the_blas_at_what_was_set():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with one_thread():
            entered.set()
            assert leave.wait(60)

    use_threads(1)
    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        assert entered.wait(60)
    assert blas_threads() == {1}
    leave.set()
    thread.join(60)
    assert blas_threads() == {1}


@pytest.mark.parametrize("begin", [own_threads, use_threads])
def test_a_new_thread_keeps_its_number_whatever_others_set_before_its_first_operation(begin):
    def number():
        begin(1)
        set_by_others.wait(60)
        return torch.ones(4).sum().item(), torch.get_num_threads()

    before = torch.get_num_threads()
    set_by_others = threading.Event()
    try:
        with threadpool_limits(), ThreadPoolExecutor(4) as executor:
            numbers = [executor.submit(number) for _ in range(4)]
            torch.set_num_threads(3)
            set_by_others.set()
            assert [each.result() for each in numbers] == [(4.0, 1)] * 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_jobs_are_done_in_order_with_one_thread_each():
    with cores(torch.device("cpu")) as shared:
        assert shared.count == 2
        found = shared.map(lambda job: (job, torch.get_num_threads(), blas_threads()), range(20))
    assert found == [(job, 1, {1}) for job in range(20)]
    assert blas_threads() == {2}


@pytest.mark.usefixtures("two_threads")
def test_works_side_by_side_are_done_at_once_with_one_thread_of_torch_each():
    both = threading.Barrier(2)
    found = []

    def work():
        both.wait(60)
        found.append(torch.get_num_threads())

    side_by_side(2, work, work)
    assert found == [1, 1]


def test_works_on_one_thread_are_done_by_the_caller_in_order():
    found = []
    side_by_side(1, *(lambda name=name: found.append((name, threading.get_ident())) for name in "ab"))
    assert found == [("a", threading.get_ident()), ("b", threading.get_ident())]


@pytest.mark.usefixtures("two_threads")
def test_what_is_done_beside_takes_one_of_the_cores_and_no_more():
    threads = set()
    begun, finished = threading.Event(), threading.Event()

    def work():
        threads.add(threading.get_ident())
        begun.set()
        assert finished.wait(60)

    def job(number):
        threads.add(threading.get_ident())
        return number

    with beside(torch.device("cpu"), work):
        assert begun.wait(60)
        with cores(torch.device("cpu")) as shared:
            assert shared.map(job, range(5)) == list(range(5))
        finished.set()
    assert len(threads) == 2
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_what_fails_beside_is_raised_at_the_end():
    with pytest.raises(ZeroDivisionError), beside(torch.device("cpu"), lambda: 1 // 0):
        pass


def test_memory_that_threads_freed_is_kept_until_it_is_handed_back():
    script = """
import threading, psutil, torch
from tasks.numerics.cores import hand_back_freed_memory, keep_freed_memory

def megabytes():
    return psutil.Process().memory_info().rss / 2**20

keep_freed_memory()
torch.ones(1 << 20)
before = megabytes()
thread = threading.Thread(target=lambda: [torch.ones(1 << 20) for _ in range(40)])
thread.start()
thread.join()
kept = megabytes() - before
hand_back_freed_memory()
print(kept, megabytes() - before)
"""
    # One arena: what a thread's own holds at its top is handed back by no call.
    one = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=one)
    kept, left = map(float, done.stdout.split())
    assert kept > 60
    assert left < kept - 30


class Noted(TorchDispatchMode):
    """Notes the name of each operation, and the type of its first tensor."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor):
            self.seen.add((function.overloadpacket.__name__, args[0].dtype))
        return function(*args, **kwargs or {})


def test_no_function_of_mkl_is_called_first_by_two_threads_at_once():
    # The race itself shows in one process of a thousand: that the import makes the calls is what can be seen.
    with Noted() as noted:
        runpy.run_path(module.__file__)
    wanted = {
        (each.__name__.removeprefix("special_"), dtype)
        for each in VECTOR_FUNCTIONS
        for dtype in (torch.float32, torch.float64)
    }
    assert {("sqrt", torch.float64), ("exp", torch.float32)} <= wanted
    assert wanted <= {(name.removeprefix("special_"), dtype) for name, dtype in noted.seen}
