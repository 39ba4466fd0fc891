import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, norm

from tasks.choosing.comparison import compare, mcnemar_mid_p, same_share_p_value


def reference_mid_p(x, y):
    """Every way the disagreements could have fallen, half of the outcomes as likely as the one seen."""
    n = x + y
    chance = [math.comb(n, i) / 2**n for i in range(n + 1)]
    far = abs(x - y)
    beyond = sum(c for i, c in enumerate(chance) if abs(2 * i - n) > far)
    ties = sum(c for i, c in enumerate(chance) if abs(2 * i - n) == far)
    return beyond + ties / 2 if x != y else 1.0


@given(x=st.integers(0, 30), y=st.integers(0, 30))
def test_mid_p_agrees_with_counting(x, y):
    assert mcnemar_mid_p(x, y) == pytest.approx(reference_mid_p(x, y), abs=1e-12)
    assert 0 < mcnemar_mid_p(x, y) <= 1


def test_interval_is_that_of_resampled_rows():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.7, rng.random(300) < 0.6
    got = compare(a, b, seed=3, resamples=20_000)
    picks = rng.integers(0, 300, (20_000, 300))
    drawn = a[picks].mean(1) - b[picks].mean(1)
    assert got.difference == pytest.approx(a.mean() - b.mean())
    np.testing.assert_allclose([got.low, got.high], np.percentile(drawn, [2.5, 97.5]), atol=0.006)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_layers_turns_the_sign(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    there, back = compare(a, b), compare(b, a)
    assert there.difference == -back.difference
    assert there.p_value == back.p_value
    assert there.low <= there.high
    assert compare(a, a).p_value == 1.0


def test_level_of_the_test_under_no_difference():
    """Rejects at 5 % in at most about 5 % of all outcomes of 40 disagreements."""
    rejected = sum(math.comb(40, x) / 2**40 for x in range(41) if mcnemar_mid_p(x, 40 - x) < 0.05)
    assert 0.01 < rejected < 0.06


def test_same_seed_same_interval_and_bad_shapes():
    a, b = np.arange(50) % 3 > 0, np.arange(50) % 4 > 0
    assert compare(a, b, seed=1) == compare(a, b, seed=1)
    for x, y in itertools.pairwise([a, b[:9], a[:0]]):
        with pytest.raises(ValueError, match="same rows"):
            compare(x, y)
    with pytest.raises(ValueError, match="same rows"):
        compare(a[:0], b[:0])


def test_same_share_is_the_pooled_z_test():
    for hits_a, n_a, hits_b, n_b in [(150, 200, 300, 500), (9, 10, 5, 10), (400, 2_000, 390, 2_000)]:
        pooled = (hits_a + hits_b) / (n_a + n_b)
        error = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
        z = (hits_a / n_a - hits_b / n_b) / error
        got = same_share_p_value(hits_a, n_a, hits_b, n_b)
        assert got == pytest.approx(2 * norm.sf(abs(z)))
        table = [[hits_a, hits_b], [n_a - hits_a, n_b - hits_b]]
        assert got == pytest.approx(chi2_contingency(table, correction=False).pvalue)
    assert same_share_p_value(10, 10, 20, 20) == same_share_p_value(0, 10, 0, 20) == 1.0


def test_same_share_is_wrong_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = rng.binomial([400, 300], 0.8, (2_000, 2))
    small = np.mean([same_share_p_value(a, 400, b, 300) < 0.05 for a, b in hits])
    assert 0.035 < small < 0.065
