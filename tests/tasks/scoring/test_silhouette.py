import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from storage.errors import UserError
from tasks.numerics import distances
from tasks.scoring.closed_form_silhouette import ClassSums, View, class_sums, closed_form, closed_form_samples
from tasks.scoring.silhouette import difference_error, silhouette
from tasks.vocabulary import Metric, Precision, Space


def pairwise(X, metric):
    """All distances by plain differences in float64, row by row."""
    X = np.asarray(X, dtype=np.float64)
    out = np.zeros((len(X), len(X)))
    for i in range(len(X)):
        if metric is Metric.COSINE:
            norms = np.linalg.norm(X, axis=1)
            norms[norms == 0] = 1.0
            unit = X / norms[:, None]
            out[i] = 1.0 - unit @ unit[i]
            out[i, i] = 0.0
        else:
            square = ((X - X[i]) ** 2).sum(1)
            out[i] = np.sqrt(square) if metric is Metric.EUCLIDEAN else square
    return out


def weighted_reference(distance, y, weight):
    """s(i) by Rousseeuw's definition, with row j counted weight[j] times in other rows' means."""
    s = np.zeros(len(y))
    for i in range(len(y)):
        own = (y == y[i]) & (np.arange(len(y)) != i)
        if not own.any():
            continue
        a = np.average(distance[i, own], weights=weight[own])
        b = min(np.average(distance[i, y == k], weights=weight[y == k]) for k in set(y.tolist()) - {y[i]})
        s[i] = (b - a) / max(a, b) if max(a, b) > 0 else 0.0
    return s


def reference(X, y, metric):
    return weighted_reference(pairwise(X, metric), y, np.ones(len(y)))


def spaced(X, space):
    X = np.asarray(X, dtype=np.float64)
    if space is Space.RAW:
        return X
    X = X - X.mean(0)
    if space is Space.CENTRED:
        return X
    scale = X.std(0)
    scale[scale <= 1e-12] = 1.0
    return X / scale


def clouds(n, d, k, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    X = rng.standard_normal((n, d)) + rng.standard_normal((k, d))[y] * 0.7 + 1.0
    return X.astype(dtype), y


cases = st.tuples(st.integers(5, 40), st.integers(1, 9), st.integers(2, 4), st.integers(0, 10**6))


@settings(max_examples=60, deadline=None)
@given(case=cases, metric=st.sampled_from(Metric), space=st.sampled_from(Space))
def test_agrees_with_the_definition(case, metric, space):
    n, d, k, seed = case
    X, y = clouds(n, d, k, seed)
    y = y * 7 - 3  # labels need not be 0 … K−1
    got = silhouette(X, y, metric, space=space)
    want = reference(spaced(X, space), y, metric)
    np.testing.assert_allclose(got.samples, want, atol=1e-9)
    assert got.mean == pytest.approx(want.mean(), abs=1e-9)
    for label, (mean, count) in got.by_class.items():
        assert count == (y == label).sum()
        assert mean == pytest.approx(want[y == label].mean(), abs=1e-9)


@pytest.mark.parametrize("metric", Metric)
def test_agrees_with_scikit_learn(metric):
    X, y = clouds(400, 16, 5)
    want = silhouette_samples(X.astype(np.float64), y, metric=metric.value)
    np.testing.assert_allclose(silhouette(X, y, metric).samples, want, atol=1e-10)


@pytest.mark.parametrize("massive", [False, True])
def test_float32_products_keep_six_digits_of_the_mean(massive):
    X, y = clouds(2_500, 24, 6)
    if massive:  # a first token's norm, divided by the length of its text
        X[:, 3] += 24_000 / np.random.default_rng(1).integers(2, 60, len(X))
    assert len(X) > distances.FLOAT64_ROWS
    want = silhouette_samples(X.astype(np.float64) - X.mean(0, dtype=np.float64), y)
    exact = silhouette(X, y, Metric.EUCLIDEAN)
    assert abs(exact.mean - want.mean()) <= 1e-6
    assert np.abs(exact.samples - want).max() <= 1e-4
    fast = silhouette(X, y, Metric.EUCLIDEAN, precision=Precision.FAST)
    assert abs(fast.mean - want.mean()) <= 1e-4


def test_duplicates_in_a_large_set_are_at_distance_zero():
    X, _ = clouds(50, 12, 2)
    which = np.random.default_rng(2).integers(0, 50, 2_000)
    X, y = X[which] * 100, which // 5
    want = silhouette_samples(X.astype(np.float64) - X.mean(0, dtype=np.float64), y)
    one_each = silhouette(X, which, Metric.EUCLIDEAN)
    assert one_each.mean == 1.0
    assert abs(silhouette(X, y, Metric.EUCLIDEAN).mean - want.mean()) <= 1e-6


def test_a_thousand_classes():
    X, y = clouds(2_400, 8, 1_000)
    for metric in Metric:
        want = silhouette_samples(X.astype(np.float64), y, metric=metric.value)
        np.testing.assert_allclose(silhouette(X, y, metric).samples, want, atol=2e-5)


def nearest_tie(X, y, metric):
    """Whether two other classes are equally near to some row: there s(i) has a kink, and no single derivative."""
    distance = pairwise(X, metric)
    for i in range(len(y)):
        others = sorted(distance[i, y == k].mean() for k in set(y.tolist()) - {y[i]})
        if len(others) > 1 and others[1] - others[0] < 1e-9:
            return True
    return False


@settings(max_examples=20, deadline=None)
@given(case=cases, metric=st.sampled_from(Metric))
@example(
    case=(14, 1, 3, 671_572), metric=Metric.COSINE
)  # of one feature cosines are 1 or −1, and classes tie
def test_order_of_rows_and_names_of_labels_do_not_matter(case, metric):
    X, y = clouds(*case)
    shuffle = np.random.default_rng(case[3]).permutation(len(y))
    base, moved = silhouette(X, y, metric), silhouette(X[shuffle], 100 - y[shuffle], metric)
    np.testing.assert_allclose(moved.samples, base.samples[shuffle], atol=1e-10)
    assert moved.influence.mean() == pytest.approx(base.influence.mean(), abs=1e-9)
    if not nearest_tie(X, y, metric):
        np.testing.assert_allclose(moved.influence, base.influence[shuffle], atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(case=cases, metric=st.sampled_from(Metric), factor=st.sampled_from([1e-130, 1e-6, 3.0, 1e30, 1e140]))
def test_scale_and_rotation_do_not_matter(case, metric, factor):
    X, y = clouds(*case, dtype=np.float64)
    turn = np.linalg.qr(np.random.default_rng(case[3]).standard_normal((X.shape[1], X.shape[1])))[0]
    base = silhouette(X, y, metric)
    np.testing.assert_allclose(silhouette(X * factor, y, metric).samples, base.samples, atol=1e-7)
    np.testing.assert_allclose(silhouette(X @ turn, y, metric).samples, base.samples, atol=1e-7)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("factor", [1e-38, 1e35])
def test_values_at_the_ends_of_float32(metric, factor):
    X, y = clouds(1_600, 6, 3)
    scaled = silhouette((X.astype(np.float64) * factor).astype(np.float32), y, metric)
    assert scaled.mean == pytest.approx(silhouette(X, y, metric).mean, abs=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("metric", Metric)
def test_any_float_and_numpy_or_torch(dtype, metric):
    X, y = clouds(60, 5, 3, dtype=dtype)
    want = reference(X, y, metric)
    np.testing.assert_allclose(silhouette(X, y, metric).samples, want, atol=1e-9)
    got = silhouette(torch.from_numpy(X), torch.from_numpy(y), metric)
    np.testing.assert_allclose(got.samples, want, atol=1e-9)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("space", Space)
def test_degenerate_rows_score_zero_and_never_nan(metric, space):
    same = np.full((9, 4), 0.1, dtype=np.float32)
    got = silhouette(same, np.arange(9) % 3, metric, space=space)
    np.testing.assert_array_equal(got.samples, 0.0)
    assert got.standard_error <= 1e-12
    X, y = clouds(30, 4, 3)
    X[:, 2] = 7.3  # a constant feature
    X[5] = 0.0
    y[0] = 99  # a class of one row
    got = silhouette(X, y, metric, space=space)
    assert np.isfinite(got.samples).all()
    assert np.isfinite(got.influence).all()
    assert got.samples[0] == 0.0
    assert got.by_class[99] == (0.0, 1)
    np.testing.assert_allclose(got.samples, reference(spaced(X, space), y, metric), atol=1e-9)


@pytest.mark.parametrize("metric", Metric)
def test_three_rows(metric):
    X = np.array([[0.0, 1.0], [0.1, 1.0], [5.0, 0.0]])
    want = silhouette_samples(X, [0, 0, 1], metric=metric.value)
    np.testing.assert_allclose(silhouette(X, np.array([0, 0, 1]), metric).samples, want, atol=1e-12)


def test_what_cannot_be_scored_says_why():
    X, y = clouds(20, 3, 2)
    with pytest.raises(UserError, match="only class 4"):
        silhouette(X, np.full(20, 4), Metric.EUCLIDEAN)
    with pytest.raises(UserError, match="one a row"):
        silhouette(X, np.arange(20), Metric.COSINE)
    with pytest.raises(UserError, match="none"):
        silhouette(X[:0], y[:0], Metric.COSINE)
    X[3, 1], X[7, 0] = np.inf, np.nan
    for metric in Metric:
        with pytest.raises(UserError, match="2 of 20 embeddings"):
            silhouette(X, y, metric)


@pytest.mark.parametrize("metric", [Metric.EUCLIDEAN, Metric.SQEUCLIDEAN])
@pytest.mark.parametrize("constant", [1e14, 1e30])
def test_a_large_constant_feature_moves_no_distance(metric, constant):
    X, y = clouds(40, 4, 3)
    beside = np.column_stack([np.full(40, constant, np.float32), X])
    got, want = silhouette(beside, y, metric), silhouette(X, y, metric)
    np.testing.assert_allclose(got.samples, want.samples, atol=1e-9)
    assert got.standard_error == pytest.approx(want.standard_error)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("blank", [0, 9])
def test_influence_is_the_derivative_by_the_weight_of_a_row(metric, blank):
    X, y = clouds(30, 3, 3)
    y[0] = 50
    X[1 : 1 + blank] = 0.0
    distance = pairwise(X, metric)
    got = silhouette(X, y, metric)
    step = 1e-6
    for j in range(len(y)):
        up, down = np.ones(len(y)), np.ones(len(y))
        up[j], down[j] = 1 + step, 1 - step
        slope = (weighted_reference(distance, y, up) - weighted_reference(distance, y, down)).sum() / (
            2 * step
        )
        assert got.influence[j] == pytest.approx(got.samples[j] + slope, abs=1e-6)
    assert got.influence.mean() == pytest.approx(got.mean, abs=1e-9)


@pytest.mark.parametrize("metric", Metric)
def test_standard_errors_match_fresh_draws(metric):
    def draw(seed):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, 300)
        X = rng.standard_normal((300, 4)) + np.eye(4)[y] * 1.5
        X[:, 3] += rng.standard_t(5, 300)
        return X, X + 0.7 * rng.standard_normal(X.shape), y

    pairs = []
    for seed in range(120):
        X, other, y = draw(seed)
        pairs.append((silhouette(X, y, metric), silhouette(other, y, metric)))
    spread = np.std([a.mean for a, _ in pairs])
    stated = np.mean([a.standard_error for a, _ in pairs])
    assert stated == pytest.approx(spread, rel=0.25)
    spread = np.std([a.mean - b.mean for a, b in pairs])
    stated = np.mean([difference_error(a, b) for a, b in pairs])
    assert stated == pytest.approx(spread, rel=0.25)


def test_influence_from_anchors_gives_the_same_standard_error(monkeypatch):
    X, y = clouds(1_200, 10, 3)
    from_some = silhouette(X, y, Metric.EUCLIDEAN)
    monkeypatch.setattr("tasks.scoring.all_pairs_silhouette.ANCHORS", 10**6)
    from_all = silhouette(X, y, Metric.EUCLIDEAN)
    assert from_some.mean == from_all.mean
    assert from_some.standard_error == pytest.approx(from_all.standard_error, rel=0.03)


@pytest.mark.parametrize(("n", "classes"), [(300, 3), (2_300, 3), (2_300, 40)])
@pytest.mark.parametrize("precision", Precision)
def test_influence_from_kept_distances_is_that_from_computing_them_again(n, classes, precision, monkeypatch):
    monkeypatch.setattr("tasks.scoring.all_pairs_silhouette.ANCHORS", 50)
    monkeypatch.setattr("tasks.numerics.distances.CPU_TILE", (64, 500))
    X, y = clouds(n, 10, classes)
    with monkeypatch.context() as patched:
        patched.delattr(
            "tasks.scoring.all_pairs_silhouette.distances_of"
        )  # nothing is computed again where all is kept
        kept = silhouette(X.astype(np.float32), y, Metric.EUCLIDEAN, precision=precision)
    monkeypatch.setattr("tasks.scoring.all_pairs_silhouette.KEPT_VALUES", 0)
    again = silhouette(X.astype(np.float32), y, Metric.EUCLIDEAN, precision=precision)
    np.testing.assert_array_equal(kept.samples, again.samples)
    # In bfloat16 a product is rounded anew for every shape of its factors.
    error = 1e-3 if precision is Precision.FAST and n > distances.FLOAT64_ROWS else 1e-5
    np.testing.assert_allclose(kept.influence, again.influence, atol=error * np.abs(again.influence).max())


@pytest.mark.parametrize("metric", Metric)
def test_a_sample_is_stratified_paired_and_as_exact_as_it_says(metric):
    X, y = clouds(1_200, 6, 4)
    full = silhouette(X, y, metric).mean
    part = silhouette(X, y, metric, sample=300, seed=1)
    assert part.n == len(part.rows) == 300
    np.testing.assert_array_equal(part.rows, silhouette(-X, y, metric, sample=300, seed=1).rows)
    assert all(abs(count - (y == label).sum() / 4) <= 1 for label, (_, count) in part.by_class.items())
    np.testing.assert_allclose(
        part.samples, silhouette(X[part.rows], y[part.rows], metric).samples, atol=1e-12
    )
    errors = [silhouette(X, y, metric, sample=300, seed=s).mean - full for s in range(40)]
    # Of the variance of a quarter of the rows three quarters are what it misses of all of them.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(part.standard_error * np.sqrt(0.75), rel=0.4)
    whole = silhouette(X, y, metric, sample=5_000)
    assert (whole.n, whole.mean) == (1_200, full)


def test_a_sample_keeps_two_rows_of_a_rare_class():
    X, y = clouds(1_200, 6, 2)
    y[[5, 700, 1_100]], y[9] = 7, 8
    part = silhouette(X, y, sample=100)
    assert (part.n, part.by_class[7][1], part.by_class[8][1]) == (100, 2, 1)


@pytest.mark.parametrize("metric", [Metric.SQEUCLIDEAN, Metric.COSINE])
@pytest.mark.parametrize("space", Space)
def test_samples_alone_are_the_same(metric, space):
    X, y = clouds(200, 7, 4)
    X[11] = 0.0
    given = torch.from_numpy(X), y, 4, metric, space
    samples, _ = closed_form(*given)
    torch.testing.assert_close(closed_form_samples(*given), samples, rtol=0, atol=0)


@pytest.mark.parametrize("metric", [Metric.SQEUCLIDEAN, Metric.COSINE])
def test_class_sums_of_parts_add_up(metric):
    X, y = clouds(90, 5, 3, dtype=np.float64)
    z, own = torch.from_numpy(X), torch.from_numpy(y)
    view, length = View(metric, None, None), torch.linalg.vector_norm(z, dim=1)

    def sums(rows):
        return class_sums(view, z[rows], torch.eye(3, dtype=torch.float64)[own[rows]], length[rows])

    whole, parts = sums(slice(0, 90)), sums(slice(0, 40)) + sums(slice(40, 90))
    assert isinstance(parts, ClassSums)
    for a, b in zip(vars(whole).values(), vars(parts).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_same_call_gives_the_same_bits():
    X, y = clouds(1_700, 9, 3)
    a, b = (silhouette(X, y, Metric.EUCLIDEAN, seed=5) for _ in range(2))
    np.testing.assert_array_equal(a.samples, b.samples)
    np.testing.assert_array_equal(a.influence, b.influence)


@pytest.mark.parametrize("metric", Metric)
def test_the_number_of_threads_changes_no_more_than_rounding(metric):
    X, y = clouds(1_700, 9, 3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = silhouette(X, y, metric)
        torch.set_num_threads(3)
        shared = silhouette(X, y, metric)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(shared.samples, alone.samples, atol=1e-12)
