import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss, silhouette_samples
from sklearn.metrics.pairwise import cosine_similarity

from storage.errors import UserError
from tasks.numerics.principal_axes import FLOAT64_WIDTH
from tasks.scoring import criteria, ridge
from tasks.scoring.criteria import CRITERIA, criterion, score_criteria
from tasks.scoring.features import NEIGHBOURS, Features
from tasks.scoring.ridge import ridge_leave_one_out


def clouds(n=90, d=7, k=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), np.arange(k), rng.integers(0, k, n - 2 * k)])
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal((k, d))[y]
    return (X * np.geomspace(0.1, 30, d) + 5).astype(np.float32), y


def standardised(X):
    X = np.asarray(X, dtype=np.float64)
    deviation = X.std(0)
    deviation[deviation <= 1e-12 * np.abs(X).max()] = np.inf
    return (X - X.mean(0)) / deviation


def one_hot(y):
    return (y[:, None] == np.unique(y)).astype(float)


def reference_logme(X, y):
    """Maximise each class's log evidence over α and β numerically, from the dense covariance of the targets."""
    Z, Y = standardised(X), one_hot(y)
    n = len(Z)
    # An orthonormal basis of the contrasts: what is left of N rows beside an intercept.
    basis = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, : n - 1]]))[0][:, 1:]
    kernel = basis.T @ Z @ Z.T @ basis
    total = 0.0
    for target in (basis.T @ Y).T:

        def minus_evidence(log, target=target):
            covariance = np.exp(-log[1]) * np.eye(n - 1) + np.exp(-log[0]) * kernel
            quadratic = target @ np.linalg.solve(covariance, target)
            return 0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + (n - 1) * np.log(2 * np.pi))

        fits = [
            minimize(minus_evidence, [a, b], method="Nelder-Mead", tol=1e-9) for a in (0, 4) for b in (1, 3)
        ]
        total += -min(fit.fun for fit in fits) / (n - 1)
    return total / Y.shape[1]


def reference_h_score(X, y):
    Z = standardised(X)
    covariance, shrinkage = ledoit_wolf(Z, assume_centered=True)
    means = np.stack([Z[y == k].mean(0) for k in np.unique(y)])[np.unique(y, return_inverse=True)[1]]
    between = means.T @ means / len(Z)
    return np.trace(np.linalg.solve(covariance, (1 - shrinkage) * between))


def reference_ridge(X, y, penalty):
    """Refit without each row in turn."""
    Z, Y = standardised(X), one_hot(y)
    n = len(Z)
    predicted = np.zeros_like(Y)
    for i in range(n):
        others = np.arange(n) != i
        predicted[i] = (
            Ridge(alpha=n * penalty, solver="svd").fit(Z[others], Y[others]).predict(Z[i : i + 1])[0]
        )
    return predicted


def left_out_penalty(X, y):
    error = {p: ((reference_ridge(X, y, p) - one_hot(y)) ** 2).sum() for p in ridge.RIDGE_PENALTIES}
    return min(error, key=error.get)


def reference_r2(X, y):
    missed = ((reference_ridge(X, y, left_out_penalty(X, y)) - one_hot(y)) ** 2).sum()
    Y = one_hot(y)
    without = [((np.delete(Y, i, axis=0).mean(0) - Y[i]) ** 2).sum() for i in range(len(Y))]
    return 1 - missed / sum(without)


def reference_information(X, y):
    values, own = reference_ridge(X, y, left_out_penalty(X, y)), one_hot(y).astype(bool)
    losses = [log_loss(own.argmax(1), softmax(values / t, axis=1)) for t in ridge.TEMPERATURES]
    share = own.mean(0)
    return 1 - min(losses) / -(share * np.log(share)).sum()


def reference_loes(X, y):
    X = X.astype(np.float64)
    design = np.column_stack([standardised(X), np.ones(len(X))])
    residual = one_hot(y) - design @ np.linalg.lstsq(design, one_hot(y), rcond=None)[0]
    eigenvalues = np.linalg.eigvalsh(np.cov(X.T, bias=True).reshape(X.shape[1], -1))
    isotropy = eigenvalues.mean() / max(eigenvalues.std(), 1e-6 * eigenvalues.mean())
    return -(residual**2).mean() - (1 - isotropy)


def reference_class_mean(X, y):
    Z = standardised(X)
    hits = 0
    for i in range(len(Z)):
        others = np.arange(len(Z)) != i
        distance = {
            k: ((Z[i] - Z[others & (y == k)].mean(0)) ** 2).sum()
            for k in np.unique(y)
            if (others & (y == k)).any()
        }
        hits += min(distance, key=distance.get) == y[i]
    return hits / len(Z)


def reference_knn(X, y):
    distance = cdist(standardised(X), standardised(X))
    np.fill_diagonal(distance, np.inf)
    hits = 0
    for i in range(len(X)):
        near = y[np.argsort(distance[i], kind="stable")[:NEIGHBOURS]].tolist()
        hits += max(near, key=near.count) == y[i]  # max keeps the first, the nearest, of equals
    return hits / len(X)


def reference_separation(X, y):
    Z = standardised(X)
    between = sum((y == k).sum() * (Z[y == k].mean(0) ** 2).sum() for k in np.unique(y))
    within = sum(((Z[y == k] - Z[y == k].mean(0)) ** 2).sum() for k in np.unique(y))
    fisher = between / within
    return fisher / (1 + fisher)


def reference_whitened_silhouette(X, y):
    Z = standardised(X)
    whitened = Z @ sqrtm(np.linalg.inv((Z.T @ Z / len(Z) + np.eye(Z.shape[1])) / 2)).real
    positive = silhouette_samples(whitened, y, metric="cosine") > 0
    return np.mean([positive[y == label].mean() for label in np.unique(y)])


def reference_effective_rank(X, y):
    singular = np.linalg.svd(standardised(X), compute_uv=False)
    share = singular[singular > 1e-9] / singular.sum()
    return np.exp(-(share * np.log(share)).sum())


def reference_anisotropy(X, y):
    cosine = cosine_similarity(X.astype(np.float64))
    return cosine[~np.eye(len(X), dtype=bool)].mean()


def reference_top_variance(X, y):
    variance = np.sort(X.astype(np.float64).var(0))[::-1]
    return variance[: criteria.TOP_DIMENSIONS].sum() / variance.sum()


def reference_two_nn(X, y):
    distance = np.sort(cdist(standardised(X), standardised(X)), axis=1)
    ratio = np.sort(np.log(distance[:, 2] / distance[:, 1]))
    n = len(ratio)
    level = -np.log(1 - np.arange(1, n + 1) / n, where=np.arange(1, n + 1) < n, out=np.full(n, np.inf))
    used = int(0.9 * n)
    return np.linalg.lstsq(ratio[:used, None], level[:used], rcond=None)[0][0]


REFERENCES = {
    "logme": reference_logme,
    "h_score": reference_h_score,
    "ridge_loo": None,  # its own test below
    "ridge_loo_r2": reference_r2,
    "ridge_loo_information": reference_information,
    "loes": reference_loes,
    "class_mean_loo": reference_class_mean,
    "knn_loo": reference_knn,
    "class_separation": reference_separation,
    "whitened_silhouette": reference_whitened_silhouette,
    "effective_rank": reference_effective_rank,
    "anisotropy": reference_anisotropy,
    "top_variance_share": reference_top_variance,
    "intrinsic_dimension": reference_two_nn,
}


def test_every_criterion_has_a_reference():
    assert set(REFERENCES) == set(CRITERIA)


@pytest.mark.parametrize("name", [name for name, reference in REFERENCES.items() if reference])
@pytest.mark.parametrize(("n", "d", "k"), [(90, 7, 3), (60, 80, 4), (70, 1, 2)])
def test_agrees_with_its_reference(name, n, d, k):
    X, y = clouds(n, d, k)
    got = score_criteria(X, y * 5 - 2, [name])[name]
    # LogME is a difference of terms of order 1 that can cancel to 0.01, so float32 products show in the sixth decimal.
    assert got == pytest.approx(REFERENCES[name](X, y), rel=2e-4, abs=1e-5 if name == "logme" else 1e-6)


@pytest.mark.parametrize(("n", "d"), [(60, 6), (40, 60)])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_ridge_leave_one_out_is_refitting_without_each_row(n, d, penalty):
    X, y = clouds(n, d, 4)
    predicted = reference_ridge(X, y, penalty)
    got = ridge_leave_one_out(X, y, penalty=penalty)
    np.testing.assert_array_equal(got.correct, predicted.argmax(1) == y)
    np.testing.assert_allclose(
        got.squared_error, ((predicted - one_hot(y)) ** 2).sum(1), rtol=1e-4, atol=1e-6
    )
    shares = softmax(predicted / got.rule.temperature, axis=1)
    np.testing.assert_allclose(got.log_loss, -np.log(shares[np.arange(n), y]), rtol=1e-4, atol=1e-5)
    assert (got.correct.dtype, got.log_loss.dtype) == (bool, np.float64)
    assert got.accuracy == got.correct.mean()
    assert got.penalty == penalty


def test_ridge_penalty_has_the_least_left_out_error():
    X, y = clouds(80, 30, 3)
    error = {p: ((reference_ridge(X, y, p) - one_hot(y)) ** 2).sum() for p in ridge.RIDGE_PENALTIES}
    got = ridge_leave_one_out(X, y)
    assert got.penalty == min(error, key=error.get)
    assert score_criteria(X, y, ["ridge_loo"]) == {"ridge_loo": got.accuracy}


def test_larger_sets_cross_blocks_and_tiles():
    X, y = clouds(2_600, 20, 5)
    values = score_criteria(X, y)
    for name in (
        "knn_loo",
        "intrinsic_dimension",
        "class_mean_loo",
        "whitened_silhouette",
        "effective_rank",
        "h_score",
        "anisotropy",
    ):
        assert values[name] == pytest.approx(REFERENCES[name](X, y), rel=1e-3)


@pytest.mark.parametrize(("n", "d"), [(1_500, FLOAT64_WIDTH + 60), (FLOAT64_WIDTH + 60, 700)])
def test_decomposing_wide_layers_in_float32_shows_in_no_more_than_rounding(n, d, monkeypatch):
    X, y = clouds(n, d, 5)
    single = score_criteria(X, y)
    monkeypatch.setattr("tasks.numerics.principal_axes.FLOAT64_WIDTH", d)
    double = score_criteria(X, y)
    assert single["effective_rank"] != double["effective_rank"]
    for name in CRITERIA:
        # Features that nearly depend on each other, as here, leave LogME four decimals; layers of models six.
        assert single[name] == pytest.approx(double[name], rel=1e-4, abs=1e-4 if name == "logme" else 1e-5), (
            name
        )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(12, 40), d=st.integers(1, 12), k=st.integers(2, 4))
def test_order_names_and_scale_do_not_matter(seed, n, d, k):
    X, y = clouds(n, d, k, seed)
    shuffle = np.random.default_rng(seed).permutation(n)
    base = score_criteria(X, y)
    moved = score_criteria(X[shuffle] * 8, 50 - y[shuffle])
    # Votes of tied rows may turn with the order; all else is arithmetic.
    for name in set(CRITERIA) - {"knn_loo"}:
        assert moved[name] == pytest.approx(base[name], rel=1e-3, abs=1e-4), name


def test_ranges_and_known_values():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 1_000)
    sphere = score_criteria(rng.standard_normal((1_000, 4)), y)
    assert sphere["effective_rank"] == pytest.approx(4, abs=0.05)
    assert sphere["intrinsic_dimension"] == pytest.approx(4, abs=0.6)
    assert abs(sphere["anisotropy"]) < 0.01
    assert sphere["class_separation"] < 0.01
    assert sphere["top_variance_share"] == pytest.approx(0.75, abs=0.03)
    apart = score_criteria(np.eye(3)[y] + 0.01 * rng.standard_normal((1_000, 3)), y)
    for name in ("ridge_loo", "knn_loo", "class_mean_loo", "whitened_silhouette"):
        assert apart[name] == 1.0
        assert sphere[name] < 0.5
    assert apart["class_separation"] > 0.99
    assert apart["h_score"] == pytest.approx(2, abs=0.02)  # K − 1
    assert apart["logme"] > sphere["logme"] + 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_and_numpy_or_torch(dtype):
    X, y = clouds()
    X = X.astype(dtype)
    base = score_criteria(X.astype(np.float64), y)
    for given_as in (X, torch.from_numpy(X)):
        assert score_criteria(given_as, y) == pytest.approx(base, rel=1e-3, abs=1e-6)


def test_awkward_rows_give_numbers():
    y = np.arange(12) % 3
    same = np.full((12, 4), 0.1)
    twins = np.repeat(np.random.default_rng(0).standard_normal((3, 4)), 4, axis=0)
    constant, y_single = clouds(40, 5, 3)
    constant[:, 2] = 0.3
    constant[4] = 0.0
    y_single[0] = 99
    wild = clouds(40, 5, 3)[0] * np.array([1e-20, 1, 1, 1e15, 1])
    for X, labels in [
        (same, y),
        (twins, np.repeat(np.arange(3), 4)),
        (twins, y),
        (constant, y_single),
        (wild, clouds(40, 5, 3)[1]),
        (same[:3], np.array([0, 0, 1])),
    ]:
        values = score_criteria(X, labels)
        assert all(np.isfinite(value) for value in values.values())
    assert score_criteria(same, y)["class_separation"] == 0.0
    assert score_criteria(same, y)["whitened_silhouette"] == 0.0


def test_what_cannot_be_scored_says_why():
    X, y = clouds()
    with pytest.raises(UserError, match="no criterion 'beauty'"):
        score_criteria(X, y, ["beauty"])
    with pytest.raises(UserError, match="at least three rows of at least two classes"):
        score_criteria(X, np.zeros(len(y), dtype=int))
    X[2, 2] = np.nan
    with pytest.raises(UserError, match="1 of 90"):
        score_criteria(X, y)


def test_what_criteria_share_is_found_once():
    rng = np.random.default_rng(0)
    features = Features(rng.standard_normal((30, 4)), np.arange(30) % 3)
    asked = []

    def find(of):
        asked.append(of)
        return len(asked)

    assert [features.once(find), features.once(find)] == [1, 1]
    assert asked == [features]


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_those_that_look_at_neighbours_are_known(name):
    features = Features(*clouds())
    score_criteria(features, names=[name])
    assert ("neighbours" in vars(features)) == (name in criteria.OF_NEIGHBOURS)


def test_what_several_share_is_prepared_where_neighbours_are_among_it(monkeypatch):
    prepared = []
    monkeypatch.setattr(Features, "prepare", lambda asked: prepared.append(asked))
    features = Features(*clouds())
    for names in (["knn_loo"], ["knn_loo", "intrinsic_dimension"], ["ridge_loo", "logme"]):
        score_criteria(features, names=names)
    assert prepared == []
    score_criteria(features, names=["ridge_loo", "knn_loo"])
    assert prepared == [features]


def test_adding_one_is_one_function(monkeypatch):
    monkeypatch.setattr(criteria, "CRITERIA", dict(CRITERIA))

    @criterion
    def rows(features: Features) -> float:
        return features.n or np.nan

    X, y = clouds()
    assert score_criteria(X, y, ["rows"]) == {"rows": 90}
    features = Features(X, y)
    features.n = 0
    with pytest.raises(UserError, match="'rows' came out as nan"):
        score_criteria(features, names=["rows"])
