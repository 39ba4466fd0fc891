"""Rows that count differently: fits and measures against refits by hand and scikit-learn's `sample_weight`."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from tasks.numerics.softmax_regression import fit_path
from tasks.scoring.criteria import score_criteria
from tasks.scoring.features import Features
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.vocabulary import ProbeProtocol


def some_rows(
    seed: int, n: int = 120, width: int = 8, k: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    X = rng.normal(size=(n, width)) + 0.8 * np.eye(k, width)[y]
    return X.astype(np.float32), y, rng.uniform(0.2, 5.0, n)


def refitted(
    X: np.ndarray, y: np.ndarray, weights: np.ndarray, group: np.ndarray, penalty: float
) -> np.ndarray:
    """What weighted ridge regression says of each row, fitted anew without its group, [N, K]."""
    w = weights / weights.mean()
    Z = (X.astype(np.float64) - X.mean(0, dtype=np.float64)) / X.std(0, dtype=np.float64)
    one_hot = np.eye(y.max() + 1)[y]
    said = np.empty_like(one_hot)
    for each in np.unique(group):
        out = group == each
        own, Z_in, Y_in = w[~out], Z[~out], one_hot[~out]
        middle, prior = np.average(Z_in, axis=0, weights=own), np.average(Y_in, axis=0, weights=own)
        centred = Z_in - middle
        gram = (centred.T * own) @ centred + len(Z) * penalty * np.eye(Z.shape[1])
        coefficients = np.linalg.solve(gram, (centred.T * own) @ (Y_in - prior))
        said[out] = (Z[out] - middle) @ coefficients + prior
    return said


@pytest.mark.parametrize("width", [8, 200])  # fewer features than rows, and more
@pytest.mark.parametrize("grouped", [False, True])
def test_ridge_left_out_is_a_weighted_refit(width: int, grouped: bool) -> None:
    X, y, weights = some_rows(seed=width, width=width)
    group = np.random.default_rng(1).integers(0, 30, len(y)) if grouped else np.arange(len(y))
    features = Features(X, y, groups=group if grouped else None, weights=weights)
    got = ridge_leave_one_out(features, penalty=0.1)
    said = refitted(X, y, weights, group, 0.1)
    errors = ((np.eye(3)[y] - said) ** 2).sum(1)
    np.testing.assert_allclose(got.squared_error, errors, rtol=5e-3, atol=5e-4)
    np.testing.assert_array_equal(got.correct, said.argmax(1) == y)
    assert got.accuracy == pytest.approx(np.average(said.argmax(1) == y, weights=weights))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_predicted_r2_is_over_the_mean_without_each_row_or_group(
    grouped: bool, weighted: bool, constant: bool
) -> None:
    X, y, weights = some_rows(seed=5)
    if not weighted:
        weights = np.ones(len(y))
    weights[:2] *= 50.0
    group = np.random.default_rng(1).integers(0, 12, len(y)) if grouped else np.arange(len(y))
    features = Features(
        0 * X if constant else X, y, groups=group if grouped else None, weights=weights if weighted else None
    )
    own = weights if weighted else np.ones(len(y))
    one_hot, without = np.eye(3)[y], 0.0
    for row in range(len(y)):
        rest = group != group[row]
        mean = np.average(one_hot[rest], axis=0, weights=own[rest])
        without += own[row] * ((one_hot[row] - mean) ** 2).sum()
    ridge = ridge_leave_one_out(features)
    wanted = 0.0 if constant else 1 - own @ ridge.squared_error / without
    assert score_criteria(features, names=["ridge_loo_r2"])["ridge_loo_r2"] == pytest.approx(wanted, abs=1e-6)


def test_equal_weights_are_none() -> None:
    X, y, _ = some_rows(seed=2)
    plain, same = Features(X, y), Features(X, y, weights=np.full(len(y), 7.0))
    names = ["ridge_loo", "ridge_loo_r2", "ridge_loo_information"]
    expected, got = (score_criteria(each, names=names) for each in (plain, same))
    assert got == pytest.approx(expected, rel=1e-4)
    probes = [
        fit_probe_on(each, X, y, test_weights=w) for each, w in ((plain, None), (same, np.full(len(y), 3.0)))
    ]
    assert probes[1].penalty == probes[0].penalty
    np.testing.assert_allclose(probes[1].coefficients, probes[0].coefficients, atol=1e-3)
    for name in ("accuracy", "macro_f1", "log_loss", "held_out_log_loss", "accuracy_low"):
        assert getattr(probes[1], name) == pytest.approx(getattr(probes[0], name), rel=1e-3)


def test_softmax_regression_is_scikit_learns_with_sample_weight() -> None:
    X, y, weights = some_rows(seed=3)
    Z = torch.from_numpy(X - X.mean(0))
    used = np.ones((2, len(y)), dtype=bool)
    used[1, :40] = False
    fits = fit_path(
        Z,
        torch.from_numpy(y),
        3,
        (0.05,),
        used=torch.from_numpy(used),
        weights=torch.from_numpy(weights),
    )
    for rows, fit in zip(used, fits, strict=True):
        own = weights[rows]
        model = LogisticRegression(C=1 / (0.05 * own.sum()), max_iter=2_000, tol=1e-8)
        model.fit(Z.numpy()[rows], y[rows], own)
        np.testing.assert_allclose(fit.weights.numpy(), model.coef_, atol=2e-3)


@pytest.mark.parametrize("k", [2, 3])
def test_measures_are_scikit_learns_with_sample_weight(k: int) -> None:
    X, y, weights = some_rows(seed=4, k=k)
    X_test, y_test, of_test = some_rows(seed=5, k=k)
    found = fit_probe_on(Features(X, y, weights=weights), X_test, y_test, test_weights=of_test)
    said = found.predictions
    assert found.accuracy == pytest.approx(np.average(said == y_test, weights=of_test))
    assert found.macro_f1 == pytest.approx(f1_score(y_test, said, average="macro", sample_weight=of_test))
    assert found.balanced_accuracy == pytest.approx(
        balanced_accuracy_score(y_test, said, sample_weight=of_test)
    )
    logits = (X_test - found.mean) / found.scale @ found.coefficients.T + found.intercepts
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert found.log_loss == pytest.approx(log_loss(y_test, shares, sample_weight=of_test), rel=1e-5)
    largest = np.bincount(y, weights).argmax()
    assert found.majority_accuracy == pytest.approx(np.average(y_test == largest, weights=of_test))
    if k == 2:
        assert found.detection is not None
        score = logits[:, found.detection.positive] - logits[:, 1 - found.detection.positive]
        auroc = roc_auc_score(y_test == found.detection.positive, score, sample_weight=of_test)
        assert found.detection.auroc == pytest.approx(auroc, abs=1e-6)


def test_adam_sees_weights() -> None:
    """Of two classes that cannot be told apart, the one that counts more is told."""
    X, y = np.zeros((40, 3), np.float32), np.arange(40) % 2
    X[:, 0] = np.arange(40) // 2
    found = fit_probe_on(Features(X, y, weights=np.where(y == 1, 9.0, 1.0)), X, y, protocol=ProbeProtocol.SGD)
    assert set(found.predictions) == {1}
