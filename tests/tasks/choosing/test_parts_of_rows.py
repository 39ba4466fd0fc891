"""Layers whose rows are right in part: paired comparison and audit."""

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from tasks.choosing.audit import audit_choice, audit_score, audit_zone
from tasks.choosing.comparison import compare, same_mean_p_value
from tasks.numerics.clusters import shares_of_clusters


def test_rows_that_are_right_in_part_are_compared_by_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(200)
    b = np.clip(a + rng.normal(size=200) * 0.2 - 0.02, 0, 1)
    found = compare(a, b)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.p_value == pytest.approx(ttest_rel(a, b).pvalue)
    half = 1.96 * (a - b).std() / 200**0.5
    assert found.low == pytest.approx(found.difference - half, abs=0.15 * half)
    assert found.high == pytest.approx(found.difference + half, abs=0.15 * half)
    assert compare(a, a).p_value == 1.0


def test_hits_as_fractions_have_the_interval_of_hits() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 300)) < [[0.8], [0.7]]
    whole, parts = compare(a, b), compare(a.astype(float), b.astype(float))
    assert parts.difference == whole.difference
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02)
    assert parts.p_value == pytest.approx(whole.p_value, rel=0.2)


def test_two_samples_of_one_mean() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=900), rng.normal(size=700) + 0.1
    assert same_mean_p_value(a, b) == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue, rel=0.02)
    assert same_mean_p_value(np.ones(4), np.ones(5)) == 1.0


def test_an_audit_of_rows_that_are_right_in_part() -> None:
    right = np.clip(np.random.default_rng(0).normal([[0.5], [0.9], [0.7]], 0.2, (3, 400)), -0.5, 1.5)
    mean = right.mean(axis=1)
    found = audit_choice(2, right)
    assert (found.chosen_accuracy, found.best_layer) == (pytest.approx(mean[2]), 1)
    assert found.regret == pytest.approx(mean[1] - mean[2])
    assert found.regret_p_value == pytest.approx(ttest_rel(right[1], right[2]).pvalue)
    assert found.gain_over_first == pytest.approx(mean[2] - mean[0])
    assert audit_zone([1], right).advantage == pytest.approx(mean[1] - mean[2])
    assert audit_score(np.array([0.0, 1.0, 2.0]), right).regret == pytest.approx(mean[1] - mean[2])


def test_the_interval_of_a_few_heavy_rows_stays_within_what_a_difference_can_be() -> None:
    """The mean of weighted rows is linearised, and one row of 59 in 60 is drawn several times in some resamples."""
    weights = np.array([59.0, *[1.0] * 59])
    right = np.zeros((2, 60))
    right[1] = 1.0
    right[0, 1:30] = 1.0
    found = compare(*shares_of_clusters(right[::-1], weights=weights))
    assert found.difference == pytest.approx((59 + 30) / 118)
    assert -1 <= found.low < found.difference < found.high == 1.0
