"""Labels and numbers told, row by row, against the slow definitions and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tasks.numerics.agreement import RANKS, concordance_of_rows, f1_of_rows


def share_by_definition(truth: np.ndarray, told: np.ndarray) -> float:
    """Over all pairs of different truth: 1 in order, ½ told the same."""
    right = []
    for i in range(len(truth)):
        for j in range(i):
            if truth[i] != truth[j]:
                right.append(0.5 + 0.5 * np.sign(truth[i] - truth[j]) * np.sign(told[i] - told[j]))
    return float(np.mean(right))


@pytest.mark.parametrize("values", [2, 5, 1_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_of_pairs_in_order_is_that_of_all_pairs(values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, values, 70).astype(float)
    told = np.round(truth + rng.normal(size=70) * values / 3, 0 if values < 10 else 8)
    assert concordance_of_rows(truth, told).mean() == pytest.approx(
        share_by_definition(truth, told), abs=1e-12
    )


def test_the_spread_over_rows_gives_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    shares, errors = [], []
    for _ in range(400):
        truth = rng.normal(size=150)
        rows = concordance_of_rows(truth, truth + rng.normal(size=150))
        shares.append(rows.mean())
        errors.append(rows.std() / 150**0.5)
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.15)


def test_many_numbers_are_compared_by_parts_of_their_ranks() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=2 * RANKS)
    told = truth + rng.normal(size=len(truth))
    order = np.sign(truth[:, None] - truth) * np.sign(told[:, None] - told)
    every_pair = 0.5 + 0.5 * order.sum() / (len(truth) * (len(truth) - 1))
    assert concordance_of_rows(truth, told).mean() == pytest.approx(every_pair, abs=1 / RANKS)


def test_what_tells_nothing_orders_half_of_the_pairs() -> None:
    truth = np.arange(6.0)
    assert concordance_of_rows(truth, np.zeros(6)).tolist() == [0.5] * 6
    assert concordance_of_rows(np.ones(6), truth).tolist() == [0.5] * 6
    assert concordance_of_rows(truth, truth).tolist() == [1.0] * 6
    assert concordance_of_rows(truth, -truth).tolist() == [0.0] * 6


def test_f1_of_rows_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, told = rng.random((2, 60, 5)) < 0.3
    rows = f1_of_rows(truth, told)
    assert rows.mean() == pytest.approx(f1_score(truth, told, average="samples", zero_division=1))
    assert f1_of_rows(np.zeros((1, 3), bool), np.zeros((1, 3), bool)).tolist() == [1.0]
    assert f1_of_rows(np.zeros((1, 3), bool), np.ones((1, 3), bool)).tolist() == [0.0]
