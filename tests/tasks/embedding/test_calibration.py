"""A calibration finds a budget, computes no more than it may, and keeps every thread at work."""

import threading

import pytest
import torch

from tasks.embedding.backbone import find_backbone
from tasks.embedding.calibration import calibrate
from tasks.embedding.embed import _pool_batch
from tests.tasks.embedding.test_embed import TEXTS, small_model, word_tokenizer


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_calibration_finds_a_budget(name, monkeypatch):
    monkeypatch.setattr("tasks.embedding.calibration._CPU_BUDGETS", (8, 32))
    found = calibrate(find_backbone(small_model(name)), word_tokenizer(), TEXTS, 16)
    assert found.token_budget in (8, 32)
    assert found.tokens_per_second > 0


def test_calibration_computes_no_more_tokens_than_it_may(monkeypatch):
    computed = []

    def pool_batch(backbone, ids, *rest):
        computed.append(sum(map(len, ids)))
        return _pool_batch(backbone, ids, *rest)

    monkeypatch.setattr("tasks.embedding.calibration._CPU_BUDGETS", (8, 32, 64))
    monkeypatch.setattr("tasks.embedding.embed._pool_batch", pool_batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        backbone = find_backbone(small_model())
        assert calibrate(backbone, word_tokenizer(), TEXTS, 16, 2 * (8 + 8) - 1) is None
        assert not computed
        assert calibrate(backbone, word_tokenizer(), TEXTS, 16, 2 * (8 + 8 + 32)).token_budget in (8, 32)
        assert len(computed) == 2 * 3
        assert sum(computed) <= 2 * (8 + 8 + 32)
    finally:
        torch.set_num_threads(threads)


def test_calibration_keeps_every_thread_at_work_as_a_sweep_does(monkeypatch):
    together = threading.Barrier(2, timeout=30)

    def pool_batch(*arguments):
        together.wait()  # a batch that is alone breaks the barrier
        return _pool_batch(*arguments)

    monkeypatch.setattr("tasks.embedding.calibration._CPU_BUDGETS", (8, 32))
    monkeypatch.setattr("tasks.embedding.embed._pool_batch", pool_batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        calibrate(find_backbone(small_model()), word_tokenizer(), TEXTS, 16)
    finally:
        torch.set_num_threads(threads)
