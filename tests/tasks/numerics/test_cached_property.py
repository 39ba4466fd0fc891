import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tasks.numerics.cached_property import CachedProperty, cached_property
from tasks.scoring.criteria import CRITERIA, score_criteria
from tasks.scoring.features import Features


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


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_threads_that_share_a_layer_compute_nothing_of_it_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: Counter[str] = Counter()
    get = CachedProperty.__get__

    def counting(self: CachedProperty, instance: object, owner: type | None = None) -> object:
        computed[self._name] += 1
        time.sleep(0.02)  # so that another thread comes in between
        return get(self, instance, owner)

    monkeypatch.setattr(CachedProperty, "__get__", counting)
    draw = np.random.default_rng(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        score_criteria(Features(draw.normal(size=(6_000, 64)), np.arange(6_000) % 3), names=[name])
    finally:
        torch.set_num_threads(threads)
    assert computed.total() == len(computed)
