import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, multinomial, norm, ttest_rel

from tasks.choosing.comparison import compare, mcnemar_mid_p, same_share_p_value
from tasks.numerics.clusters import shares_of_clusters
from tasks.numerics.proportion import bonett_price_interval
from tasks.scoring.target import interval


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


def test_interval_is_near_that_of_resampled_rows_where_many_disagree():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.7, rng.random(300) < 0.6
    got = compare(a, b)
    picks = rng.integers(0, 300, (20_000, 300))
    drawn = a[picks].mean(1) - b[picks].mean(1)
    assert got.difference == pytest.approx(a.mean() - b.mean())
    np.testing.assert_allclose([got.low, got.high], np.percentile(drawn, [2.5, 97.5]), atol=0.006)


def test_the_interval_is_the_published_one():
    """The example of R's `statpsych::ci.prop.ps`: of 48 rows 26 and 4 disagree."""
    assert bonett_price_interval(26, 4, 48) == pytest.approx((0.2548067, 0.6251933), abs=1e-6)


@given(st.integers(1, 60), st.data())
def test_the_interval_holds_what_was_seen_and_says_something(n, data):
    only_a = data.draw(st.integers(0, n))
    only_b = data.draw(st.integers(0, n - only_a))
    low, high = bonett_price_interval(only_a, only_b, n)
    assert -1 <= low <= (only_a - only_b) / n <= high <= 1
    assert high - low > 0.02
    assert (-high, -low) == pytest.approx(bonett_price_interval(only_b, only_a, n))


@pytest.mark.parametrize("rows", [10, 30, 100])
@pytest.mark.parametrize("disagree", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("lean", [0.0, 0.6])
def test_the_interval_covers_the_truth_in_95_of_100_test_sets_however_few_rows(rows, disagree, lean):
    """Every outcome with its probability."""
    a, b = disagree * (1 + lean) / 2, disagree * (1 - lean) / 2
    outcomes = [(x, y, rows - x - y) for x in range(rows + 1) for y in range(rows - x + 1)]
    intervals = np.array([bonett_price_interval(x, y, rows) for x, y, _ in outcomes])
    covers = (intervals[:, 0] <= a - b) & (a - b <= intervals[:, 1])
    assert multinomial.pmf(outcomes, rows, [a, b, 1 - a - b])[covers].sum() > 0.94


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


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40).filter(
        lambda pairs: np.std([a - b for a, b in pairs]) > 1e-6
    )
)
def test_interval_and_test_of_units_are_students_and_say_the_same(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    got, peer = compare(a, b), ttest_rel(a, b)
    assert got.p_value == pytest.approx(peer.pvalue, rel=1e-6, abs=1e-12)
    low, high = peer.confidence_interval(0.95)
    assert got.low == pytest.approx(max(low, -1), abs=1e-9)
    assert got.high == pytest.approx(min(high, 1), abs=1e-9)
    if not math.isclose(got.p_value, 0.05, rel_tol=1e-6) and low > -1 and high < 1:
        assert (got.low > 0 or got.high < 0) == (got.p_value < 0.05)


@pytest.mark.parametrize("units", [1, 2, 5])
def test_units_that_all_differ_alike_say_nothing(units):
    got = compare(np.full(units, 0.75), np.full(units, 0.25))
    assert (got.difference, got.low, got.high, got.p_value) == (0.5, -1.0, 1.0, 1.0)
    same = compare(np.full(units, 0.75), np.full(units, 0.75))
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert same.low < 0 < same.high


@pytest.mark.parametrize("groups", [3, 6, 12])
def test_intervals_of_few_groups_cover_what_they_say(groups):
    """Rows of a group share a shift; there is no true difference, and the mean of both is one half."""
    draw = np.random.default_rng(0)
    missed = misjudged = 0
    for _ in range(400):
        cluster = np.repeat(np.arange(groups), 20)
        shift = draw.normal(0, 0.15, (2, groups))[:, cluster]
        right = (draw.random((2, len(cluster))) < np.clip(0.5 + shift, 0, 1)).astype(float)
        units = [shares_of_clusters(each, cluster) for each in right]
        found = compare(*units)
        missed += not found.low <= 0 <= found.high
        _, low, high = interval(units[0])
        misjudged += not low <= 0.5 <= high
    assert missed / 400 <= 0.08
    assert misjudged / 400 <= 0.08


def test_bad_shapes():
    a, b = np.arange(50) % 3 > 0, np.arange(50) % 4 > 0
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
