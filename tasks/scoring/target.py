"""What is predicted of rows where that is not one class: several labels, or a number; and how well."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit, xlogy

from tasks.numerics.agreement import concordance_of_rows, f1_of_rows
from tasks.numerics.proportion import mean_and_error, wilson_interval
from tasks.vocabulary import Task

Values = npt.NDArray[np.float64]

THRESHOLDS = tuple(np.arange(2, 15) / 20)
"""From 0.1 to 0.7 of ridge regression's values, which are 0 and 1 of a label that is sure."""


_ROUNDING = 1e-12


@dataclass(frozen=True)
class Target:
    """Of N rows, with one way to measure each task: see `Judged`."""

    task: Task
    values: Values
    """float64 [N, T]: 0 or 1 of each of T labels; or [N, 1], a number."""


@dataclass(frozen=True)
class DecisionRule:
    """How values become labels and probabilities; found on train rows alone. A number needs none."""

    threshold: float = 0.5
    """A label is predicted where its value is above it."""
    temperature: float = 1.0
    """A label's probability is σ((value − ½)/temperature)."""


@dataclass(frozen=True)
class Judged:
    """How right each row was predicted."""

    right: Values
    """float64 [N], whose mean is the measure, 0–1. Several labels: F1 of the row's labels. A number: the share of pairs
    of rows that are predicted in their true order, as `concordance_of_rows` gives it."""
    loss: Values
    """float64 [N], at least 0. Several labels: log loss summed over them, in nats. A number: half the squared error
    over the variance of the truth: the log loss of a normal distribution of that variance, but for a constant."""


def judge(target: Target, predicted: Values, rule: DecisionRule, variance: float | None = None) -> Judged:
    """Values [N, T] against the target's. variance: of the numbers, where it is to be that of other rows."""
    truth = target.values
    if target.task is Task.REGRESSION:
        spread = float(truth.var()) if variance is None else variance
        return Judged(
            concordance_of_rows(truth[:, 0], predicted[:, 0]), 0.5 * (truth - predicted)[:, 0] ** 2 / spread
        )
    return Judged(
        f1_of_rows(truth > 0.5, predicted > rule.threshold), _log_loss(truth, predicted, rule.temperature)
    )


def fit_decision_rule(target: Target, predicted: Values, temperatures: Sequence[float]) -> DecisionRule:
    """The threshold with the highest mean F1 and the temperature with the lowest log loss, on rows left out."""
    if target.task is Task.REGRESSION:
        return DecisionRule()
    truth = target.values > 0.5
    f1 = [float(f1_of_rows(truth, predicted > each).mean()) for each in THRESHOLDS]
    losses = [float(_log_loss(target.values, predicted, each).mean()) for each in temperatures]
    return DecisionRule(THRESHOLDS[int(np.argmax(f1))], temperatures[int(np.argmin(losses))])


def loss_of_none(target: Target) -> float:
    """Mean loss of predicting of every row what all rows are on average: the labels' entropies, or ½."""
    if target.task is Task.REGRESSION:
        return 0.5
    share = target.values.mean(axis=0)
    return float(-(xlogy(share, share) + xlogy(1 - share, 1 - share)).sum())


def right_of_none(train: Target, test: Target) -> Values:
    """How right test rows are where all predictions are the same: of several labels, those k that are most frequent in
    train, k by the F1 on train rows; any number orders half of the pairs."""
    if train.task is Task.REGRESSION:
        return np.full(len(test.values), 0.5)
    frequent = np.argsort(-train.values.mean(axis=0), kind="stable")
    best, highest = np.zeros(len(frequent), dtype=bool), -1.0
    for k in range(len(frequent) + 1):
        predicted = np.isin(np.arange(len(frequent)), frequent[:k])
        f1 = float(f1_of_rows(train.values > 0.5, np.broadcast_to(predicted, train.values.shape)).mean())
        if f1 > highest:
            best, highest = predicted, f1
    return f1_of_rows(test.values > 0.5, np.broadcast_to(best, test.values.shape))


def interval(right: Values) -> tuple[float, float, float]:
    """The mean of `right`, and Student's 95 % interval around it, within 0–1.

    Wilson's where all are right, or none: they do not vary, and are no proof that no other would be otherwise.
    """
    n = len(right)
    mean, error = mean_and_error(right)
    mean = min(max(mean, 0.0), 1.0)
    if max(error, min(mean, 1 - mean)) <= _ROUNDING:
        return mean, *wilson_interval(mean * n, n)
    half = float(stdtrit(n - 1, 0.975)) * error if n > 1 else 1.0
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _log_loss(truth: Values, predicted: Values, temperature: float) -> Values:
    """Summed over the labels of each row, in nats."""
    logits = (predicted - 0.5) / temperature
    return np.logaddexp(0.0, np.where(truth > 0.5, -logits, logits)).sum(axis=1)
