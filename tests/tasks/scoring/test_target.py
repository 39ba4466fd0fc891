"""Ridge regression on several labels, or a number: against refits without each row, and scikit-learn's measures."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, f1_score, log_loss, mean_absolute_error, r2_score
from sklearn.preprocessing import StandardScaler

from storage.errors import UserError
from tasks.scoring.criteria import ridge_loo, ridge_loo_information, ridge_loo_r2
from tasks.scoring.features import Features
from tasks.scoring.ridge import TEMPERATURES, ridge_leave_one_out
from tasks.scoring.target import (
    THRESHOLDS,
    DecisionRule,
    Target,
    fit_decision_rule,
    judge,
    loss_of_none,
    right_of_none,
)
from tasks.scoring.target_probe import fit_target_probe, measures_of
from tasks.scoring.text_baseline import fit_text_target
from tasks.vocabulary import Task

TASKS = (Task.MULTI_LABEL, Task.REGRESSION)


def planted(task: Task, rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, Target]:
    """Features and what a plane through them tells, with noise."""
    rng, same = np.random.default_rng(seed), np.random.default_rng(9)
    X = rng.normal(size=(rows, width)) * same.uniform(0.1, 5, width) + same.normal(size=width)
    planes = same.normal(size=(width, 3 if task is Task.MULTI_LABEL else 1))
    values = (X - X.mean(0)) / X.std(0) @ planes + rng.normal(size=(rows, planes.shape[1]))
    return X.astype(np.float32), Target(task, (values > 0.5).astype(float) if planes.shape[1] > 1 else values)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("width", [6, 60])
def test_each_row_is_told_by_the_fit_to_all_others(task: Task, width: int) -> None:
    X, target = planted(task, 40, width)
    got = ridge_leave_one_out(Features(X, np.arange(40) % 2, target=target), penalty=0.316)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    told = np.empty_like(target.values)
    for row in range(40):
        rest = np.arange(40) != row
        model = Ridge(40 * 0.316).fit(Z[rest], target.values[rest])
        told[row] = model.predict(Z[[row]]).reshape(-1)
    error = ((told - target.values) ** 2).sum(1)
    np.testing.assert_allclose(got.squared_error, error, rtol=1e-4, atol=1e-6)
    expected = judge(target, told, got.rule)
    np.testing.assert_allclose(got.correct, expected.right, atol=1e-9)
    np.testing.assert_allclose(got.log_loss, expected.loss, rtol=1e-3, atol=1e-5)
    assert got.accuracy == pytest.approx(got.correct.mean())
    assert got.rule == fit_decision_rule(target, told, TEMPERATURES)


@pytest.mark.parametrize("unit", [1e-60, 1e39, 1e90])
def test_the_unit_of_numbers_does_not_matter(unit: float) -> None:
    X, target = planted(Task.REGRESSION, 80, 6)
    y = np.arange(60) % 2
    parts = []
    for factor in (1.0, unit):
        values = factor * target.values
        train = Features(X[:60], y, target=Target(Task.REGRESSION, values[:60]))
        probe = fit_target_probe(train, X[60:], Target(Task.REGRESSION, values[60:]))
        parts.append((ridge_leave_one_out(train), probe, ridge_loo_r2(train)))
    (ridge, probe, r2), (scaled, of_scaled, scaled_r2) = parts
    assert (scaled.penalty, of_scaled.penalty) == (ridge.penalty, probe.penalty)
    np.testing.assert_allclose(scaled.log_loss, ridge.log_loss, rtol=1e-6)
    np.testing.assert_allclose(scaled.squared_error / unit / unit, ridge.squared_error, rtol=1e-6)
    np.testing.assert_allclose(of_scaled.predicted / unit, probe.predicted, rtol=1e-6)
    np.testing.assert_allclose(of_scaled.coefficients / unit, probe.coefficients, rtol=1e-6)
    assert (of_scaled.accuracy, scaled_r2) == (probe.accuracy, pytest.approx(r2))


@pytest.mark.parametrize("task", TASKS)
def test_criteria_of_ridge_read_the_target(task: Task) -> None:
    X, target = planted(task, 200, 12)
    features = Features(X, np.arange(200) % 3, target=target)
    left_out = ridge_leave_one_out(features)
    assert ridge_loo(features) == left_out.accuracy
    told_by_the_rest = (target.values.sum(0) - target.values) / 199
    press = ((target.values - told_by_the_rest) ** 2).sum()
    assert ridge_loo_r2(features) == pytest.approx(1 - left_out.squared_error.sum() / press)
    assert ridge_loo_information(features) == pytest.approx(
        1 - left_out.log_loss.mean() / loss_of_none(target)
    )
    nothing = np.broadcast_to(target.values.mean(0), target.values.shape)
    if task is Task.REGRESSION:
        assert judge(target, nothing, DecisionRule()).loss.mean() == pytest.approx(loss_of_none(target))
        assert ridge_loo_information(features) == pytest.approx(ridge_loo_r2(features), abs=0.02)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rows", [50, 300])
def test_the_probe_is_ridge_regression_at_the_left_out_penalty(task: Task, rows: int) -> None:
    X, target = planted(task, rows, 80)
    X_test, of_test = planted(task, 90, 80, seed=5)
    train = Features(X, np.arange(rows) % 2, target=target)
    got = fit_target_probe(train, X_test, of_test)
    scaler = StandardScaler().fit(X.astype(np.float64))
    model = Ridge(rows * got.penalty).fit(scaler.transform(X.astype(np.float64)), target.values)
    told = model.predict(scaler.transform(X_test.astype(np.float64))).reshape(90, -1)
    np.testing.assert_allclose(got.predicted, told, atol=1e-3 * np.abs(told).max())
    by_weights = ((X_test - got.mean) / got.scale) @ got.coefficients.T + got.intercepts
    np.testing.assert_allclose(by_weights, told, atol=1e-3 * np.abs(told).max())
    assert got.penalty == ridge_leave_one_out(train).penalty
    assert got.accuracy == pytest.approx(got.judged.right.mean())
    assert got.accuracy_low < got.accuracy < got.accuracy_high
    assert got.accuracy > got.majority_accuracy
    assert (got.n_train, got.n_test) == (rows, 90)


def test_measures_of_labels_are_scikit_learns() -> None:
    _, target = planted(Task.MULTI_LABEL, 80, 4)
    told = target.values + np.random.default_rng(0).normal(size=target.values.shape) * 0.6
    rule = fit_decision_rule(target, told, TEMPERATURES)
    truth, labels = target.values > 0.5, told > rule.threshold
    judged = judge(target, told, rule)
    assert judged.right.mean() == pytest.approx(f1_score(truth, labels, average="samples", zero_division=1))
    tried = [f1_score(truth, told > each, average="samples", zero_division=1) for each in THRESHOLDS]
    assert judged.right.mean() == pytest.approx(max(tried))
    likely = 1 / (1 + np.exp(-(told - 0.5) / rule.temperature))
    losses = sum(log_loss(truth[:, each], likely[:, each]) for each in range(3))
    assert judged.loss.mean() == pytest.approx(losses)
    found = measures_of(target, told, rule)
    assert found == {
        "macro_f1": pytest.approx(f1_score(truth, labels, average="macro")),
        "micro_f1": pytest.approx(f1_score(truth, labels, average="micro")),
        "average_precision": pytest.approx(average_precision_score(truth, told, average="macro")),
        "r2": None,
        "spearman": None,
        "mean_absolute_error": None,
    }


def test_measures_of_numbers_are_scikit_learns() -> None:
    _, target = planted(Task.REGRESSION, 80, 4)
    told = target.values + np.random.default_rng(0).normal(size=target.values.shape)
    truth, said = target.values[:, 0], told[:, 0]
    found = measures_of(target, told, DecisionRule())
    assert found["r2"] == pytest.approx(r2_score(truth, said))
    assert found["spearman"] == pytest.approx(spearmanr(truth, said).statistic)
    assert found["mean_absolute_error"] == pytest.approx(mean_absolute_error(truth, said))
    assert judge(target, told, DecisionRule()).loss.mean() == pytest.approx(0.5 * (1 - r2_score(truth, said)))
    constant = measures_of(Target(Task.REGRESSION, np.ones((5, 1))), np.ones((5, 1)), DecisionRule())
    assert (constant["r2"], constant["spearman"], constant["mean_absolute_error"]) == (None, None, 0.0)


def test_what_tells_all_rows_the_same_names_the_labels_that_are_best_in_train() -> None:
    values = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1]], dtype=float)
    train, test = (
        Target(Task.MULTI_LABEL, values),
        Target(Task.MULTI_LABEL, np.array([[1.0, 1, 0], [0, 0, 1]])),
    )
    # {first}: (2/3 + 2/3 + 1 + 2/3)/4; {first, second}: (1 + 1 + 2/3 + 1/2)/4, the best.
    assert right_of_none(train, test).tolist() == [1.0, 0.0]
    numbers = Target(Task.REGRESSION, np.arange(4.0)[:, None])
    assert right_of_none(numbers, numbers).tolist() == [0.5] * 4


def test_words_tell_labels_and_numbers() -> None:
    texts = [f"{'up' if i % 2 else 'down'} {'left' if i % 3 else 'right'} and" for i in range(120)]
    labels = Target(Task.MULTI_LABEL, np.array([[i % 2, i % 3 > 0] for i in range(120)], dtype=float))
    numbers = Target(Task.REGRESSION, labels.values.sum(1, keepdims=True))
    assert fit_text_target(texts, labels, texts, labels).mean() > 0.99
    assert fit_text_target(texts, numbers, texts, numbers).mean() > 0.99


def test_no_test_rows_are_refused() -> None:
    X, target = planted(Task.REGRESSION, 20, 4)
    with pytest.raises(UserError, match="test split is empty"):
        fit_target_probe(
            Features(X, np.arange(20) % 2, target=target), X[:0], Target(Task.REGRESSION, np.empty((0, 1)))
        )
