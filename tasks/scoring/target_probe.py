"""A linear probe of several labels, or of a number: ridge regression, its penalty by rows left out of train."""

from dataclasses import dataclass

import numpy as np
import torch

from storage.errors import UserError
from tasks.numerics.matrix_rows import as_rows, check_finite
from tasks.scoring.features import Features, features_of
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.scoring.target import DecisionRule, Judged, Target, interval, judge, right_of_none
from tasks.vocabulary import Task


@dataclass(frozen=True)
class TargetProbe:
    """A fitted probe and what it is worth on the test rows."""

    predicted: np.ndarray
    """float64 [n_test, T]: the values of the test rows."""
    judged: Judged
    """Of the same rows; the mean of what is right is `accuracy`."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """Student's 95 % interval, within 0–1."""
    majority_accuracy: float
    """That of telling every row the same, which is what train rows are."""
    penalty: float
    """λ of RIDGE_PENALTIES."""
    rule: DecisionRule
    held_out_accuracy: float
    """Of train rows, each predicted by the fit to all others."""
    held_out_loss: float
    n_train: int
    n_test: int
    coefficients: np.ndarray
    """float64 [T, D], for standardised features."""
    intercepts: np.ndarray
    """float64 [T]."""
    mean: np.ndarray
    scale: np.ndarray
    """float64 [D], as of `probe.Probe`."""
    measures: dict[str, float | None]
    """As `measures_of` names them."""


def fit_target_probe(train: Features, X_test: np.ndarray | torch.Tensor, target_test: Target) -> TargetProbe:
    """Fit to the train rows' target with the penalty of `ridge_leave_one_out`, measure on X_test [m, D].

    Raises:
        UserError: no test rows, or values that are not finite.
    """
    assert train.target is not None
    test = as_rows(X_test).to(train.rows.device)
    check_finite(test, "probe", "test ")
    if len(test) == 0:
        raise UserError(
            "A probe needs test rows to be worth anything, and the test split is empty. Give one."
        )
    left_out = features_of(train).once(ridge_leave_one_out)
    along = train.principal
    Z = along.coordinates.double()
    prior = train.response_mean
    products = Z.T @ (train.target_values - prior)
    weights = (products / (Z.square().sum(0) + train.n * left_out.penalty)[:, None]).T @ along.axes.double()
    weights, prior = weights * train.unit, prior * train.unit
    scale = torch.where(train.deviation > 0, train.deviation, 1.0)
    predicted = (((test - train.mean) / scale).double() @ weights.T + prior).cpu().numpy()
    judged = judge(target_test, predicted, left_out.rule, variance=float(train.target.values.var()))
    accuracy, low, high = interval(judged.right)
    return TargetProbe(
        predicted=predicted,
        judged=judged,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        majority_accuracy=float(right_of_none(train.target, target_test).mean()),
        penalty=left_out.penalty,
        rule=left_out.rule,
        held_out_accuracy=left_out.accuracy,
        held_out_loss=float(left_out.log_loss.mean()),
        n_train=train.n,
        n_test=len(test),
        coefficients=weights.cpu().numpy(),
        intercepts=prior.cpu().numpy(),
        mean=train.mean.cpu().numpy(),
        scale=scale.cpu().numpy(),
        measures=measures_of(target_test, predicted, left_out.rule),
    )


def measures_of(target: Target, predicted: np.ndarray, rule: DecisionRule) -> dict[str, float | None]:
    """What else people ask for, by scikit-learn and SciPy; None where the task or the rows have no such measure.

    Several labels: `macro_f1` over the labels, `micro_f1`, `average_precision` (macro, over labels that a row has). A
    number: `r2`, below 1; `spearman`, −1 to 1; `mean_absolute_error`, in its own unit.
    """
    # slow to import
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score

    found: dict[str, float | None] = dict.fromkeys(
        ("macro_f1", "micro_f1", "average_precision", "r2", "spearman", "mean_absolute_error")
    )
    truth = target.values
    if target.task is Task.REGRESSION:
        number, said = truth[:, 0], predicted[:, 0]
        if np.ptp(number) > 0:
            found["r2"] = float(r2_score(number, said))
            if np.ptp(said) > 0:
                found["spearman"] = float(spearmanr(number, said).statistic)
        found["mean_absolute_error"] = float(mean_absolute_error(number, said))
        return found
    flags, labels = truth > 0.5, predicted > rule.threshold
    found["macro_f1"] = float(f1_score(flags, labels, average="macro", zero_division=0))
    found["micro_f1"] = float(f1_score(flags, labels, average="micro", zero_division=0))
    there = flags.any(axis=0)
    if there.any():
        found["average_precision"] = float(
            average_precision_score(flags[:, there], predicted[:, there], average="macro")
        )
    return found
