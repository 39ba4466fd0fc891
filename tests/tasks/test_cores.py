import threading

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from tasks.cores import cores, one_thread, use_threads


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


@pytest.mark.usefixtures("two_threads")
def test_jobs_are_done_in_order_with_one_thread_each():
    with cores(torch.device("cpu")) as shared:
        assert shared.count == 2
        found = shared.map(lambda job: (job, torch.get_num_threads(), blas_threads()), range(20))
    assert found == [(job, 1, {1}) for job in range(20)]
    assert blas_threads() == {2}
