"""What rows are to tell where that is not one class: several labels, or a number; and how well values tell it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from tasks.numerics.agreement import f1_of_rows, order_of_rows
from tasks.vocabulary import Task

Values = npt.NDArray[np.float64]

THRESHOLDS = tuple(np.arange(2, 15) / 20)
"""From 0.1 to 0.7 of ridge regression's values, which are 0 and 1 of a label that is told for sure."""


@dataclass(frozen=True)
class Target:
    """Of N rows, with one way to measure each task: see `Judged`."""

    task: Task
    values: Values
    """float64 [N, T]: 0 or 1 of each of T labels; or [N, 1], a number."""


@dataclass(frozen=True)
class Reading:
    """How values become labels and probabilities; found on train rows alone. A number needs none."""

    threshold: float = 0.5
    """A label is told where its value is above it."""
    temperature: float = 1.0
    """A label's probability is σ((value − ½)/temperature)."""


@dataclass(frozen=True)
class Judged:
    """How right each row was told."""

    right: Values
    """float64 [N], whose mean is the measure, 0–1. Several labels: F1 of the row's labels. A number: the share of pairs
    of rows that are told in their true order, as `order_of_rows` gives it."""
    loss: Values
    """float64 [N], at least 0. Several labels: log loss summed over them, in nats. A number: half the squared error
    over the variance of the truth: the log loss of a normal distribution of that variance, but for a constant."""


def judge(target: Target, told: Values, reading: Reading, variance: float | None = None) -> Judged:
    """Values [N, T] against the target's. variance: of the numbers, where it is to be that of other rows."""
    truth = target.values
    if target.task is Task.REGRESSION:
        spread = float(truth.var()) if variance is None else variance
        return Judged(order_of_rows(truth[:, 0], told[:, 0]), 0.5 * (truth - told)[:, 0] ** 2 / spread)
    return Judged(
        f1_of_rows(truth > 0.5, told > reading.threshold), _log_loss(truth, told, reading.temperature)
    )


def read_best(target: Target, told: Values, temperatures: Sequence[float]) -> Reading:
    """The threshold with the highest mean F1 and the temperature with the lowest log loss, on rows left out."""
    if target.task is Task.REGRESSION:
        return Reading()
    truth = target.values > 0.5
    f1 = [float(f1_of_rows(truth, told > each).mean()) for each in THRESHOLDS]
    losses = [float(_log_loss(target.values, told, each).mean()) for each in temperatures]
    return Reading(THRESHOLDS[int(np.argmax(f1))], temperatures[int(np.argmin(losses))])


def loss_of_none(target: Target) -> float:
    """Mean loss of telling every row what all rows are on average: the labels' entropies, or ½."""
    if target.task is Task.REGRESSION:
        return 0.5
    share = target.values.mean(axis=0)
    return float(-(xlogy(share, share) + xlogy(1 - share, 1 - share)).sum())


def right_of_none(train: Target, test: Target) -> Values:
    """How right test rows are told where all are told the same: of several labels, those k that are most frequent in
    train, k by the F1 on train rows; any number orders half of the pairs."""
    if train.task is Task.REGRESSION:
        return np.full(len(test.values), 0.5)
    frequent = np.argsort(-train.values.mean(axis=0), kind="stable")
    best, highest = np.zeros(len(frequent), dtype=bool), -1.0
    for k in range(len(frequent) + 1):
        told = np.isin(np.arange(len(frequent)), frequent[:k])
        f1 = float(f1_of_rows(train.values > 0.5, np.broadcast_to(told, train.values.shape)).mean())
        if f1 > highest:
            best, highest = told, f1
    return f1_of_rows(test.values > 0.5, np.broadcast_to(best, test.values.shape))


def interval(right: Values) -> tuple[float, float, float]:
    """The mean of `right`, and the normal 95 % interval around it, within 0–1."""
    mean = float(np.clip(right.mean(), 0.0, 1.0))
    half = 1.959963984540054 * float(right.std()) / len(right) ** 0.5
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _log_loss(truth: Values, told: Values, temperature: float) -> Values:
    """Summed over the labels of each row, in nats."""
    logits = (told - 0.5) / temperature
    return np.logaddexp(0.0, np.where(truth > 0.5, -logits, logits)).sum(axis=1)
