"""Small models on one thread: several would wait for each other at every operation."""

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def without_remarks() -> Iterator[None]:
    """transformers warns of nearly every model that is made small."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
