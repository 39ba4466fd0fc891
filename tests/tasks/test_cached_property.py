import threading
from concurrent.futures import ThreadPoolExecutor

from tasks.cached_property import cached_property


class Layer:
    def __init__(self, meeting: threading.Barrier) -> None:
        self.meeting = meeting
        self.times = 0

    @cached_property
    def decomposition(self) -> int:
        """Of this layer."""
        self.meeting.wait()  # breaks where only one thread at a time gets here
        self.times += 1
        return self.times


def test_threads_compute_the_property_of_two_objects_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=30)
    layers = [Layer(meeting), Layer(meeting)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda layer: layer.decomposition, layers)) == [1, 1]


def test_it_is_computed_once_and_kept_as_an_attribute() -> None:
    layer = Layer(threading.Barrier(1))
    assert "decomposition" not in vars(layer)
    assert layer.decomposition == layer.decomposition == 1
    assert vars(layer)["decomposition"] == 1
    assert Layer.__dict__["decomposition"].__doc__ == "Of this layer."
