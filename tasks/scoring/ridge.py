"""Closed-form ridge classification of one layer, with every row left out once; of words, with every text."""

from dataclasses import dataclass

import numpy as np
import torch

from tasks.numerics.cores import cores
from tasks.numerics.matrix_products import product
from tasks.scoring.features import Features, features_of
from tasks.scoring.target import DecisionRule, fit_decision_rule, judge

RIDGE_PENALTIES = (10.0, 3.16, 1.0, 0.316, 0.1, 0.0316, 0.01, 0.001)
"""λ of ‖y − Zw‖²/n + λ‖w‖²; standardised features have a mean eigenvalue of 1."""
TEMPERATURES = tuple(2.0 ** (step / 3) for step in range(3, -19, -1))
"""From 2 to 1/64, tried on left-out values; the mean loss is flat between neighbours."""
# Where other texts say nothing of a text's words, what is solved for them is singular but for this.
_LEFT = 1e-9


@dataclass(frozen=True)
class RidgeLeaveOneOut:
    """Closed-form ridge classification with every row left out once: what the fit to the others says of each row."""

    accuracy: float
    """Fraction 0–1: the mean of `correct`."""
    correct: np.ndarray
    """bool [N]: whether the row was classified correctly by the fit without it. Of a target float64 [N]: how right it
    was predicted, as `target.Judged` has it."""
    squared_error: np.ndarray
    """float64 [N]: ‖one-hot label − left-out values‖², at least 0; of a target ‖target − left-out values‖²."""
    log_loss: np.ndarray
    """float64 [N]: −log of the label's share in the softmax of the left-out values over the temperature, in nats. Of a
    target the loss of `target.Judged`."""
    penalty: float
    """λ as in RIDGE_PENALTIES."""
    rule: DecisionRule
    """Its temperature is that of TEMPERATURES with the smallest mean log loss."""


def ridge_leave_one_out(
    X: np.ndarray | torch.Tensor | Features,
    y: np.ndarray | torch.Tensor | None = None,
    penalty: float | None = None,
) -> RidgeLeaveOneOut:
    """Ridge regression on one-hot labels, or a target, each row predicted by the fit to all others.

    The left-out residual of a linear smoother is residual/(1 − leverage), here with a free intercept (Hoerl &
    Kennard's ridge and Allen's PRESS, doi 10.1080/00401706.1974.10489157). Features are standardised over all rows
    once. Without `penalty` the one of RIDGE_PENALTIES with the smallest left-out squared error.

    Of features with `texts`, each row is predicted by the fit without all rows of its text: their left-out residuals
    are (I − H)⁻¹ of their residuals, H being the part of the smoother that these rows have to do with.
    """
    features = features_of(X, y)
    spectrum, n, prior = features.spectrum, features.n, features.response_mean
    k = len(prior)
    penalties = RIDGE_PENALTIES if penalty is None else (penalty,)
    shrinks = torch.stack([spectrum.square / (spectrum.square + n * lam) for lam in penalties])
    weights = (shrinks[:, None, :] * features.response_products.T).float()  # [P, K, r]
    errors = torch.zeros(n, len(penalties), dtype=torch.float64, device=prior.device)

    def residuals(at: slice, tried: slice) -> torch.Tensor:
        """Left-out residuals [rows, penalties, K] of some rows by some of the penalties."""
        left, some = spectrum.left[at], weights[tried]
        fitted = product(left, some.flatten(0, 1)).double()
        fitted = fitted.reshape(len(left), len(some), k) + prior
        leverage = product(left.square(), shrinks[tried].float()).double() + 1.0 / n
        # A leverage of 1 leaves nothing to predict from: the others say nothing about such a row.
        return (features.response(at)[:, None] - fitted) / (1.0 - leverage).clamp_min(1e-6)[:, :, None]

    def leave_out(at: slice) -> None:
        errors[at] = residuals(at, slice(None)).square().sum(2)

    by_text = None if features.texts is None else _left_out_texts(features, shrinks, weights)
    if by_text is None:
        features.over_blocks(leave_out)
    else:
        errors = by_text.square().sum(2)
    best = int(errors.sum(0).argmin())
    if features.target is not None:
        values = features.target_values - torch.cat(
            features.over_blocks(lambda at: residuals(at, slice(best, best + 1))[:, 0])
        )
        predicted = values.cpu().numpy()
        rule = fit_decision_rule(features.target, predicted, TEMPERATURES)
        judged = judge(features.target, predicted, rule)
        return RidgeLeaveOneOut(
            accuracy=float(judged.right.mean()),
            correct=judged.right,
            squared_error=errors[:, best].cpu().numpy(),
            log_loss=judged.loss,
            penalty=penalties[best],
            rule=rule,
        )
    correct = torch.zeros(n, dtype=torch.bool, device=prior.device)
    losses = torch.zeros(n, len(TEMPERATURES), dtype=torch.float64, device=prior.device)

    def classify(at: slice) -> None:
        codes = features.codes[at]
        left_out = residuals(at, slice(best, best + 1))[:, 0] if by_text is None else by_text[at, best]
        values = features.one_hot(at) - left_out
        correct[at] = values.argmax(1) == codes
        for i, temperature in enumerate(TEMPERATURES):
            losses[at, i] = torch.nn.functional.cross_entropy(values / temperature, codes, reduction="none")

    features.over_blocks(classify)
    coolest = int(losses.sum(0).argmin())
    return RidgeLeaveOneOut(
        accuracy=float(correct.double().mean()),
        correct=correct.cpu().numpy(),
        squared_error=errors[:, best].cpu().numpy(),
        log_loss=losses[:, coolest].cpu().numpy(),
        penalty=penalties[best],
        rule=DecisionRule(temperature=TEMPERATURES[coolest]),
    )


def _left_out_texts(features: Features, shrinks: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Residuals of each row from the fit without its text, float64 [N, penalties, K].

    shrinks: [P, r], weights: [P, K, r], as of `ridge_leave_one_out`.
    """
    spectrum, prior = features.spectrum, features.response_mean
    assert features.texts is not None
    found = torch.zeros(features.n, *weights.shape[:2], dtype=torch.float64, device=prior.device)
    order = np.argsort(features.texts, kind="stable")
    counts = np.unique(features.texts, return_counts=True)[1]
    texts = np.split(order, np.cumsum(counts)[:-1])

    def leave_out(some: list[np.ndarray]) -> None:
        for rows in some:
            at = torch.from_numpy(rows).to(prior.device)
            left = spectrum.left[at].double()
            wanted = (features.codes[at, None] == torch.arange(len(prior), device=prior.device)).double()
            one = torch.eye(len(rows), dtype=torch.float64, device=prior.device)
            for tried, (shrink, weight) in enumerate(zip(shrinks, weights, strict=True)):
                residual = wanted - left @ weight.double().T - prior
                system = (1.0 + _LEFT) * one - 1.0 / features.n - (left * shrink) @ left.T
                found[at, tried] = torch.linalg.solve(system, residual)

    with cores(prior.device) as shared:
        shared.map(leave_out, [texts[i :: shared.count] for i in range(shared.count)])
    return found
