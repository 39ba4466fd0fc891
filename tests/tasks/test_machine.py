"""Which device a computation gets of those that a process was given; no test has a GPU."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.machine import held, hold, on_slot


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    yield
    hold(())


def test_whoever_was_given_nothing_or_asks_for_one_device_gets_what_was_asked_for() -> None:
    for given in ((), ("cpu",), ("cuda:0", "cuda:1")):
        hold(given)
        assert held() == given
        for asked in ("cpu", "cuda:1", "mps", *(["cuda"] if len(given) < 2 else [])):
            with on_slot(asked) as device:
                assert device == asked


def test_no_two_threads_have_the_same_gpu_and_all_gpus_are_had() -> None:
    hold(["cuda:0", "cuda:1", "cuda:2"])
    taken: set[str] = set()
    seen: list[str] = []
    guard, all_at_once = threading.Lock(), threading.Barrier(3)

    def compute(number: int) -> None:
        with on_slot("cuda") as device:
            with guard:
                assert device not in taken
                taken.add(device)
                seen.append(device)
            if number < 3:
                all_at_once.wait(30)
            with guard:
                taken.remove(device)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(compute, range(60)))
    assert set(seen) == {"cuda:0", "cuda:1", "cuda:2"}
    assert len(seen) == 60


def test_a_gpu_is_given_back_by_what_fails_and_the_one_last_given_back_is_taken_first() -> None:
    hold(["cuda:0", "cuda:1"])
    with pytest.raises(ValueError, match="here"), on_slot("cuda") as first:
        raise ValueError("here")
    with on_slot("cuda") as again, on_slot("cuda") as other:
        assert (first, again, other) == ("cuda:0", "cuda:0", "cuda:1")
