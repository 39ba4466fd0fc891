"""Layers whose rows are right in part: paired comparison and audit."""

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from tasks.choosing.audit import audit_choice, audit_score, audit_zone
from tasks.choosing.comparison import (
    compare,
    same_clustered_mean_p_value,
    same_mean_p_value,
    same_share_p_value,
)
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


@pytest.mark.parametrize("sizes", [(900, 700), (5, 3), (2, 40)])
def test_two_samples_of_one_mean(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=sizes[0]), 2 * rng.normal(size=sizes[1]) + 0.1
    assert same_mean_p_value(a, b) == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue)
    assert same_mean_p_value(np.ones(4), np.ones(5)) == 1.0
    assert same_mean_p_value(a, b[:1]) == 1.0


@pytest.mark.parametrize("clusters", [3, 30])
def test_few_clusters_of_one_mean_are_told_apart_as_often_as_the_level_says(clusters: int) -> None:
    """Rows of a cluster are alike, and both splits have as many clusters, of 20 rows each."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4_000):
        here, there = 0.5 + 0.1 * rng.normal(size=(2, clusters))
        found.append(same_clustered_mean_p_value(here, 20 * clusters, there.mean(), 20 * clusters))
    # Four standard errors of a share of 5 % in so many draws.
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 4_000) ** 0.5)
    assert same_clustered_mean_p_value(np.array([0.4]), 20, 0.9, 20) == 1.0
    assert same_clustered_mean_p_value(np.ones(4), 80, 1.0, 20) == 1.0


@pytest.mark.parametrize("share", [0.8, 0.97])
@pytest.mark.parametrize(("clusters", "size", "alike"), [(40, 1, 0.0), (20, 10, 0.3), (40, 5, 0.1)])
def test_hits_near_all_or_none_raise_no_more_false_alarms(
    share: float, clusters: int, size: int, alike: float
) -> None:
    """Of a few clusters with few misses the spread alone would say next to nothing varies."""
    rng = np.random.default_rng(0)

    def drawn(groups: int) -> np.ndarray:
        if alike == 0:
            return rng.random((groups, size)) < share
        whole = (1 - alike) / alike
        return rng.random((groups, size)) < rng.beta(share * whole, (1 - share) * whole, (groups, 1))

    found = []
    for _ in range(2_000):
        here, there = drawn(clusters), drawn(10 * clusters)
        found.append(same_clustered_mean_p_value(here.mean(axis=1), here.size, there.mean(), there.size))
    assert np.mean(np.array(found) < 0.01) <= 0.035
    assert np.mean(np.array(found) < 0.5) >= 0.25


def test_clusters_of_one_row_have_the_test_of_two_shares() -> None:
    hits = (np.arange(400) < 300).astype(float)
    found = same_clustered_mean_p_value(hits, 400, 0.8, 1_000)
    assert found == pytest.approx(same_share_p_value(300, 400, 800, 1_000), rel=0.05)


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
