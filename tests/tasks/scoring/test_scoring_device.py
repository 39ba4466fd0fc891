"""Which device scores layers, and that a GPU, one that is not there, gives the CPU's scores."""

from dataclasses import replace

import pytest
import torch

from tasks.scoring import scoring_device
from tasks.scoring.criteria import CRITERIA
from tasks.scoring.layer_scores import on_idle_cores
from tasks.scoring.scoring_device import LARGE_LAYER, all_scores, scored_on, scores_alike, scoring_on
from tests.conftest import printed_by
from tests.tasks.scoring.test_layer_scores import made_up_layers

# A row or two may fall on the other side, where a share of rows is counted. And a fit ends where it has 3e-7 of its
# objective left to gain, which leaves the loss of labels that it was not fitted to open by the square root.
CLOSE = {"knn_loo": {"abs": 2 / 1_600}, "log_loss": {"rel": 1e-3}}


@pytest.fixture(scope="module")
def scored():
    """What `tests.tasks.scoring.on_made_up_gpu` prints."""
    return printed_by("tests.tasks.scoring.on_made_up_gpu")


def test_every_score_is_that_of_the_cpu(scored):
    assert len(scored["scores"]) == 8
    for case, by_device in scored["scores"].items():
        wanted, found = by_device["cpu"], by_device["gpu:0"]
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            close = CLOSE.get(name, {"rel": 1e-4, "abs": 1e-6})
            assert found[name] == pytest.approx(value, **close), (case, name)


def test_a_layer_is_staged_there_as_on_the_cpu(scored):
    wanted, found = scored["tables"]["cpu"], scored["tables"]["gpu:0"]
    assert found.keys() == wanted.keys()
    for table, values in wanted.items():
        assert len(found[table]) == len(values) > 10
        for number, value in zip(found[table], values, strict=True):
            close = (
                pytest.approx(value, rel=1e-3, abs=1e-6, nan_ok=True) if isinstance(value, float) else value
            )
            assert number == close, table


def test_what_must_not_be_would_be_seen(scored):
    assert len(scored["canaries"]) == 6
    assert all(scored["canaries"].values())


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    return made_up_layers(str(tmp_path_factory.mktemp("layers")))[0]


@pytest.mark.parametrize(
    ("device", "rows", "task_key", "expected"),
    [
        ("cuda", LARGE_LAYER // 64, None, "cuda"),
        ("cuda:1", LARGE_LAYER // 64, None, "cuda:1"),
        ("cuda", LARGE_LAYER // 64 - 1, None, "cpu"),
        ("cpu", LARGE_LAYER, None, "cpu"),
        ("cuda", LARGE_LAYER, "group", "cpu"),
    ],
)
def test_a_gpu_scores_large_layers_of_independent_rows(layers, device, rows, task_key, expected):
    dataset = replace(layers[0].dataset, train_rows=rows, group_column=task_key)
    assert scored_on(device, dataset, 64) == expected


def test_layers_for_a_gpu_are_told_so_and_share_no_core(layers):
    found = on_idle_cores(layers, 4, "cuda")
    assert {(each.device, each.threads) for each in found} == {("cuda", 1)}


def test_no_score_of_the_layer_that_is_tried_is_next_to_nothing(monkeypatch):
    """Or a wrong one would pass."""
    kept = {}
    monkeypatch.setattr(scoring_device, "all_scores", lambda *of: kept.setdefault(of[-1], all_scores(*of)))
    scores_alike.cache_clear()
    assert scores_alike("cpu")
    scores_alike.cache_clear()
    assert min(map(abs, kept["cpu"].values())) > 1e-2
    assert len(kept["cpu"]) >= len(CRITERIA) + 4


@pytest.mark.parametrize("error", [RuntimeError("its library failed"), torch.OutOfMemoryError("too small")])
def test_what_a_gpu_fails_at_the_cores_do(monkeypatch, caplog, error):
    monkeypatch.setattr(scoring_device, "scores_alike", lambda device: True)
    asked = []

    def score(device):
        asked.append(device)
        if device != "cpu":
            raise error

    scoring_on("meta", score)
    assert asked == ["meta", "cpu"]
    assert str(error) in caplog.text


def test_so_do_they_where_even_its_memory_cannot_be_handed_back(monkeypatch, caplog):
    """As after a CUDA error that spoils the whole process."""

    def fail(*_):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(scoring_device, "scores_alike", fail)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    asked = []
    scoring_on("meta", asked.append)
    assert asked == ["cpu"]
    assert "illegal memory access" in caplog.text


def test_a_gpu_that_scores_once_is_not_followed_by_the_cores(monkeypatch):
    monkeypatch.setattr(scoring_device, "scores_alike", lambda device: True)
    asked = []
    scoring_on("meta", asked.append)
    scoring_on("cpu", asked.append)
    assert asked == ["meta", "cpu"]


@pytest.mark.parametrize(
    ("elsewhere", "told"),
    [
        ({"logme": 1.0, "log_loss": 0.5}, None),
        ({"logme": 1.0005, "log_loss": 0.5}, None),
        ({"logme": 1.0, "log_loss": 0.502}, "another log_loss"),
        ({"logme": 1.01, "log_loss": 0.5}, "another logme"),
        ({"logme": float("nan"), "log_loss": 0.5}, "another logme"),
        (RuntimeError("no kernel for it"), "no kernel for it"),
    ],
)
def test_a_gpu_is_tried_before_it_is_trusted(monkeypatch, caplog, elsewhere, told):
    def all_scores(X, y, device):
        if device == "cpu":
            return {"logme": 1.0, "log_loss": 0.5}
        if isinstance(elsewhere, Exception):
            raise elsewhere
        return elsewhere

    monkeypatch.setattr(scoring_device, "all_scores", all_scores)
    scores_alike.cache_clear()
    asked = []
    scoring_on("meta", asked.append)
    scores_alike.cache_clear()
    assert asked == (["meta"] if told is None else ["cpu"])
    assert told is None or told in caplog.text
