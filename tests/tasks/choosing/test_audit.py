"""Audits of planted probes, counted by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from tasks.choosing.audit import (
    _counts,
    audit_choice,
    audit_score,
    audit_zone,
    near_points,
    rank_correlation,
    zones,
)
from tasks.choosing.comparison import compare


def probes(accuracies, rows=400, seed=0):
    return np.random.default_rng(seed).random((len(accuracies), rows)) < np.array(accuracies)[:, None]


def test_counts_by_hand():
    correct = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool)
    audit = audit_choice(1, correct)
    assert (audit.chosen_layer, audit.best_layer) == (1, 2)
    assert (audit.chosen_accuracy, audit.first_accuracy, audit.last_accuracy, audit.best_accuracy) == (
        0.75,
        0.25,
        0.5,
        1,
    )
    assert (audit.regret, audit.gain_over_last, audit.gain_over_first) == (0.25, 0.25, 0.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(0, 1000))
def test_is_the_comparison_on_the_same_rows(layer, seed):
    correct = probes([0.4, 0.5, 0.9, 0.7, 0.6], rows=60, seed=seed)
    audit = audit_choice(layer, correct, seed=seed)
    last = compare(correct[layer], correct[-1])
    first = compare(correct[layer], correct[0])
    assert (audit.gain_over_last, audit.gain_low, audit.gain_high, audit.p_value) == (
        last.difference,
        last.low,
        last.high,
        last.p_value,
    )
    assert (audit.gain_over_first, audit.gain_over_first_p_value) == (first.difference, first.p_value)
    assert audit.regret >= 0
    assert audit == audit_choice(layer, correct, seed=seed)


def test_clear_gain_and_no_gain():
    gain = audit_choice(1, probes([0.3, 0.9, 0.5]))
    assert gain.gain_low > 0.2
    assert gain.p_value < 1e-6
    same = audit_choice(2, probes([0.3, 0.9, 0.5]))
    assert (same.gain_over_last, same.gain_low, same.gain_high, same.p_value) == (0, 0, 0, 1)
    assert same.regret > 0.3


def test_split_regret_has_no_winners_curse():
    """Thirty layers equally good: the plain regret is well above zero, the split one is not."""
    audits = [audit_choice(0, probes([0.7] * 30, seed=seed)) for seed in range(40)]
    assert np.mean([audit.regret for audit in audits]) > 0.03
    assert abs(np.mean([audit.split_regret for audit in audits])) < 0.012
    planted = audit_choice(0, probes([0.5, 0.8] + [0.4] * 5, rows=4000))
    assert planted.split_regret == pytest.approx(0.3, abs=0.04)


def test_split_regret_is_the_mean_of_both_ways():
    correct = probes([0.5, 0.6, 0.55, 0.6], rows=31, seed=5)
    one, other = np.array_split(np.random.default_rng(8).permutation(31), 2)
    ways = []
    for found_on, measured_on in ((one, other), (other, one)):
        best = max(range(4), key=lambda layer: (correct[layer][found_on].mean(), -layer))
        ways.append(correct[best][measured_on].mean() - correct[2][measured_on].mean())
    assert ways[0] != pytest.approx(ways[1])
    assert audit_choice(2, correct, seed=8).split_regret == pytest.approx(np.mean(ways))


@pytest.mark.parametrize(
    ("layer", "correct", "message"),
    [
        (3, np.ones((3, 5), dtype=bool), "layer 3 is not among the 3 audited layers"),
        (-1, np.ones((3, 5), dtype=bool), "layer -1"),
        (0, np.ones(5, dtype=bool), "at least 2 rows"),
        (0, np.ones((3, 1), dtype=bool), "at least 2 rows"),
    ],
)
def test_what_cannot_be_audited_is_named(layer, correct, message):
    with pytest.raises(ValueError, match=message):
        audit_choice(layer, correct)


def curves(silhouettes, accuracies, rows=400, seed=0):
    rng = np.random.default_rng(seed)
    influence = np.array(silhouettes)[:, None] + 0.05 * rng.standard_normal((len(silhouettes), rows))
    return influence.mean(axis=1), influence, probes(accuracies, rows, seed)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 9)), min_size=3, max_size=20))
def test_rank_correlation_is_pearsons_of_the_ranks(pairs):
    a, b = np.array(pairs, dtype=float).T
    correct = np.arange(10) < b[:, None]
    found = rank_correlation(a, np.zeros((len(a), 4)), correct, resamples=5)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert found is None
    else:
        assert found.value == pytest.approx(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def test_rank_correlation_knows_its_noise():
    clear = rank_correlation(*curves([0.0, 0.1, 0.2, 0.3, 0.4], [0.2, 0.35, 0.5, 0.65, 0.8]))
    assert (clear.value, clear.low, clear.high) == pytest.approx((1, 1, 1))
    against = rank_correlation(*curves([0.4, 0.3, 0.2, 0.1, 0.0], [0.2, 0.35, 0.5, 0.65, 0.8]))
    assert against.value == pytest.approx(-1)
    vague = rank_correlation(*curves([0.0, 0.1, 0.2, 0.3, 0.4], [0.5] * 5))
    assert vague.high - vague.low > 0.6
    assert vague.low <= vague.value <= vague.high


def test_the_rank_correlations_interval_is_of_95_percent_of_its_draws():
    silhouettes, influence, correct = curves(np.linspace(0, 0.02, 12), np.linspace(0.5, 0.55, 12), rows=60)
    found = rank_correlation(silhouettes, influence, correct, seed=4, resamples=200)
    rng, drawn = np.random.default_rng(4), []
    for _ in range(200):
        shift = (influence - influence.mean(axis=1, keepdims=True)) @ _counts(60, rng)
        redrawn = rankdata(silhouettes + shift), rankdata(correct.astype(float) @ _counts(60, rng))
        drawn.append(np.corrcoef(*redrawn)[0, 1])
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_rank_correlation_needs_three_layers():
    assert rank_correlation(*curves([0.1, 0.2], [0.3, 0.6])) is None


def test_the_regret_has_its_interval():
    correct = probes([0.3, 0.9, 0.5])
    audit = audit_choice(2, correct)
    behind = compare(correct[1], correct[2])
    assert (audit.regret, audit.regret_low, audit.regret_p_value) == (
        behind.difference,
        behind.low,
        behind.p_value,
    )
    assert audit.regret_low > 0.2
    assert audit_choice(1, correct).regret_high == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(0, 40), max_size=5))
def test_parts_of_a_model_are_gapless(layers, points):
    parts = zones(layers)
    assert sorted(layer for part in parts.values() for layer in part) == list(range(layers + 1))
    assert 0 in parts["early"]
    assert layers in parts["late"]
    near = near_points(points, layers)
    assert near == [layer for layer in range(layers + 1) if any(abs(layer - point) <= 1 for point in points)]


def test_zone_has_the_best_layer_or_not():
    correct = probes([0.2, 0.3, 0.9, 0.3, 0.2], rows=1000)
    inside = audit_zone([1, 2], correct)
    assert (inside.best_inside, inside.layer_share) == (2, 0.4)
    assert inside.best_outside == 3
    assert inside.advantage_low > 0.4
    assert inside.p_value < 1e-6
    outside = audit_zone([0, 3, 4], correct)
    assert (outside.best_inside, outside.best_outside, outside.advantage) == (3, 2, -inside.advantage)
    assert outside.advantage_high < -0.4
    assert audit_zone([], correct).advantage is None
    assert audit_zone(range(5), correct).best_outside is None


def test_score_is_worth_what_its_maximum_is():
    correct = probes([0.2, 0.5, 0.9, 0.6], rows=1000)
    rising = audit_score(np.arange(4.0), correct, seed=3)
    audit = audit_choice(3, correct, seed=3)
    assert rising.layer == 3
    assert (rising.regret, rising.split_regret) == (audit.regret, audit.split_regret)
    assert (rising.gain_over_last, rising.p_value) == (0, 1)
    assert rising.rank_correlation == pytest.approx(0.8)
    best = audit_score(np.array([0.0, 1.0, 5.0, 5.0]), correct)
    assert (best.layer, best.regret) == (2, 0)
    assert audit_score(np.zeros(4), correct).rank_correlation is None
