"""Which dtype a CPU computes in is found by trying, once, and stays what it was."""

import json

import pytest
import torch

from tasks.embedding import embed, product_speed
from tasks.embedding.cpu_weights import packs_bfloat16
from tasks.embedding.embed import choose_dtype
from tasks.embedding.product_speed import bfloat16_speed_up


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path))
    bfloat16_speed_up.cache_clear()
    yield
    bfloat16_speed_up.cache_clear()


@pytest.mark.parametrize(("speed_up", "chosen"), [(2.0, torch.bfloat16), (0.6, torch.float32)])
def test_auto_is_the_faster_dtype(monkeypatch, speed_up, chosen):
    monkeypatch.setattr(embed, "packs_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(product_speed, "_measured", lambda: speed_up)
    assert choose_dtype(torch.device("cpu")) is chosen


def test_it_is_measured_once_a_machine_and_torch(monkeypatch, tmp_path):
    found = iter([1.5, 0.5, 0.7])
    monkeypatch.setattr(product_speed, "_measured", lambda: next(found))
    assert bfloat16_speed_up() == 1.5
    bfloat16_speed_up.cache_clear()  # as in another process
    assert bfloat16_speed_up() == 1.5
    (kept,) = (tmp_path / "products").iterdir()
    bfloat16_speed_up.cache_clear()
    kept.write_text("{")
    assert bfloat16_speed_up() == 0.5
    bfloat16_speed_up.cache_clear()
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert bfloat16_speed_up() == 0.7
    assert json.loads(kept.read_text()) == {"bfloat16_speed_up": 0.5}


def test_a_cache_that_takes_nothing_keeps_nobody_from_an_answer(monkeypatch, tmp_path, caplog):
    (tmp_path / "products").write_text("a file where a folder should be")
    monkeypatch.setattr(product_speed, "_measured", lambda: 1.5)
    assert bfloat16_speed_up() == 1.5
    assert "is not kept in" in caplog.text


def test_the_ratio_is_of_the_best_of_each_and_the_first_turn_is_a_rehearsal(monkeypatch):
    if not packs_bfloat16():
        # There is nothing to try, and nobody asks for it.
        assert choose_dtype(torch.device("cpu")) is torch.float32
        return
    assert product_speed._measured() > 0
    turns = [(0.1, 0.1), (8.0, 3.0), (6.0, 5.0), *[(9.0, 9.0)] * (product_speed.REPEATS - 3)]
    seconds = iter([each for turn in turns for each in turn])
    monkeypatch.setattr(product_speed, "_seconds", lambda work: next(seconds))
    assert product_speed._measured() == 6.0 / 3.0
