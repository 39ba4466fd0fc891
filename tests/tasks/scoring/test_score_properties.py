"""What must hold of every score whatever the rows: order, scale, rotation, twins, constants, one-row classes, types."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples

from storage.errors import UserError
from tasks.scoring.criteria import CRITERIA, score_criteria
from tasks.scoring.probe import fit_probe
from tasks.scoring.silhouette import silhouette
from tasks.vocabulary import Metric, Precision

seeds = st.integers(0, 10**6)
# Where rows tie, what a row is taken for may turn with the order of rows and classes.
ORDERED = set(CRITERIA) - {"knn_loo", "class_mean_loo", "ridge_loo"}
# All else is standardised a feature, which a rotation changes.
TURNABLE = {"anisotropy"}


def awkward(seed, n, d, k):
    """Rows with twins, a constant feature, a row of zeros and a class of one row."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k - 1, n - k)])
    X = rng.standard_normal((n, d)) + rng.standard_normal((k, d))[y]
    twins = rng.integers(0, n, n // 3)
    X[: len(twins)] = X[twins]
    X[:, 0] = rng.choice([0.0, 0.1, -7e3])
    X[rng.integers(n)] = 0.0
    return X, y


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds, n=st.integers(8, 40), d=st.integers(1, 8), k=st.integers(2, 6), metric=st.sampled_from(Metric)
)
def test_awkward_rows_score_as_defined(seed, n, d, k, metric):
    X, y = awkward(seed, n, d, k)
    got = silhouette(X, y, metric)
    assert np.isfinite(got.samples).all()
    assert np.isfinite(got.influence).all()
    assert np.abs(got.samples).max() <= 1 + 1e-12
    # scikit-learn rounds where a cosine distance is 0, and so ours is nearer the truth.
    if metric is not Metric.COSINE:
        # Of differences: scikit-learn's own distances of twins far from the origin are not 0.
        want = silhouette_samples(cdist(X, X, metric.value), y, metric="precomputed")
        np.testing.assert_allclose(got.samples, want, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(seed=seeds, n=st.integers(8, 40), d=st.integers(1, 8), k=st.integers(2, 6))
def test_criteria_of_awkward_rows_are_numbers_and_do_not_mind_the_order(seed, n, d, k):
    X, y = awkward(seed, n, d, k)
    shuffle = np.random.default_rng(seed).permutation(n)
    base, moved = score_criteria(X, y), score_criteria(X[shuffle], 9 - y[shuffle])
    for name in ORDERED:
        assert np.isfinite(base[name])
        assert moved[name] == pytest.approx(base[name], rel=1e-3, abs=1e-4), name


@settings(max_examples=10, deadline=None)
@given(
    seed=seeds, factor=st.sampled_from([1e-30, 1e-3, 7.0, 1e20]), n=st.integers(20, 60), d=st.integers(2, 8)
)
def test_criteria_do_not_mind_the_scale_and_anisotropy_no_rotation(seed, factor, n, d):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, d)) + 0.5, np.arange(n) % 3
    base = score_criteria(X, y)
    scaled = score_criteria(X * factor, y)
    for name in CRITERIA:
        assert scaled[name] == pytest.approx(base[name], rel=1e-4, abs=1e-6), name
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    turned = score_criteria(X @ turn, y, sorted(TURNABLE))
    for name in TURNABLE:
        assert turned[name] == pytest.approx(base[name], rel=1e-6, abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(
    seed=seeds,
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_a_probe_minds_neither_order_nor_scale_nor_type(seed, scale, dtype):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 90)
    X = (rng.standard_normal((90, 5)) + np.eye(5)[y]).astype(
        np.float16 if dtype is np.float16 else np.float32
    )
    base = fit_probe(X, y, X, y, penalties=(0.1,))
    shuffle = rng.permutation(90)
    factor = 1.0 if dtype is np.float16 else scale  # 1e-6 is not a float16 that keeps its digits
    rows = (X.astype(np.float64) * factor).astype(dtype)
    moved = fit_probe(rows[shuffle], y[shuffle], rows, y, penalties=(0.1,))
    np.testing.assert_allclose(moved.coefficients, base.coefficients, atol=2e-3)
    assert moved.log_loss == pytest.approx(base.log_loss, abs=1e-4)


def test_two_to_a_thousand_classes():
    rng = np.random.default_rng(0)
    for k in (2, 30, 1_000):
        y = np.arange(2_200) % k
        X = (rng.standard_normal((k, 6)) * 2)[y] + rng.standard_normal((2_200, 6))
        values = score_criteria(X, y)
        assert 1 / k < values["class_mean_loo"] <= 1
        assert 1 / k < values["ridge_loo"] <= 1
        assert 0 < values["h_score"] <= k - 1
        assert 0 < values["class_separation"] < 1


@pytest.mark.parametrize("metric", Metric)
def test_two_rows_are_too_few_and_say_so(metric):
    X = np.array([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(UserError, match="one a row"):
        silhouette(X, np.array([0, 1]), metric)
    with pytest.raises(UserError, match="only class 3"):
        silhouette(X, np.array([3, 3]), metric)
    with pytest.raises(UserError, match="at least three rows"):
        score_criteria(X, np.array([0, 1]))
    # Two rows are enough for a probe.
    assert fit_probe(X, np.array([0, 1]), X, np.array([0, 1])).accuracy == 1.0


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("precision", Precision)
def test_a_large_set_does_not_mind_order_rotation_or_scale(metric, precision):
    rng = np.random.default_rng(3)
    y = rng.integers(0, 4, 1_800)
    X = (rng.standard_normal((1_800, 10)) + np.eye(10)[y]).astype(np.float32)
    base = silhouette(X, y, metric, precision=precision).mean
    tolerance = 1e-4 if precision is Precision.FAST else 1e-6
    shuffle = rng.permutation(1_800)
    assert silhouette(X[shuffle], y[shuffle], metric, precision=precision).mean == pytest.approx(
        base, abs=tolerance
    )
    turn = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    turned = (X.astype(np.float64) @ turn * 300).astype(np.float32)
    assert silhouette(turned, y, metric, precision=precision).mean == pytest.approx(base, abs=tolerance)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_values_beyond_the_squares_of_float64_are_scaled_or_refused_never_nan(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)), np.arange(40) % 2
    for metric in (Metric.SQEUCLIDEAN, Metric.COSINE):
        assert np.isfinite(silhouette(X * 1e200, y, metric).mean)
    monkeypatch.setattr("tasks.scoring.silhouette._within_range", lambda rows: rows)
    with pytest.raises(UserError, match="no finite number"):
        silhouette(X * 1e200, y, Metric.SQEUCLIDEAN)
