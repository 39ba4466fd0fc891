"""Closed-form ridge classification of one layer, with every row left out once, or every group of rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tasks.numerics.cores import cores
from tasks.numerics.matrix_products import product
from tasks.numerics.principal_axes import decompose_gram, smaller_gram
from tasks.scoring.features import RANK_SHARE, Features, features_of
from tasks.scoring.target import DecisionRule, fit_decision_rule, judge

RIDGE_PENALTIES = (10.0, 3.16, 1.0, 0.316, 0.1, 0.0316, 0.01, 0.001)
"""λ of ‖y − Zw‖²/n + λ‖w‖²; standardised features have a mean eigenvalue of 1."""
TEMPERATURES = tuple(2.0 ** (step / 3) for step in range(3, -19, -1))
"""From 2 to 1/64, tried on left-out values; the mean loss is flat between neighbours."""
# Where other groups say nothing of a group's rows, what is solved for them is singular but for this.
_LEFT = 1e-9


Rows = slice | torch.Tensor
"""Some rows: those of a slice, or of their numbers."""


@dataclass(frozen=True)
class RidgeLeaveOneOut:
    """Closed-form ridge classification with every row left out once: what the fit to the others says of each row."""

    accuracy: float
    """Fraction 0–1: the mean of `correct`, weighted if rows are."""
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

    Of features with `groups`, each row is predicted by the fit without all rows of its group: their left-out residuals
    are (I − H)⁻¹ of their residuals, H being the part of the smoother that these rows have to do with.

    Of features with `weights` w of mean 1 it minimises Σ w‖y − Zw‖²/n + λ‖w‖², and what is left out is chosen and told
    by weighted means; a target is not weighted.
    """
    features = features_of(X, y)
    smoother, n = _smoother_of(features), features.n
    prior, counted = smoother.prior, features.weights
    k = len(prior)
    penalties = RIDGE_PENALTIES if penalty is None else (penalty,)
    shrinks = torch.stack([smoother.square / (smoother.square + n * lam) for lam in penalties])
    weights = (shrinks[:, None, :] * smoother.products.T).float()  # [P, K, r]
    errors = torch.zeros(n, len(penalties), dtype=torch.float64, device=prior.device)
    groups = _groups_of(features)

    def residuals(at: Rows, tried: slice) -> torch.Tensor:
        """Left-out residuals [rows, penalties, K] of some rows, or of a group, by some of the penalties."""
        left, some = smoother.left[at], weights[tried]
        if groups is not None:
            left, some = left.double(), some.double()
        fitted = product(left, some.flatten(0, 1)).double()
        fitted = fitted.reshape(len(left), len(some), k) + prior
        residual = features.response(at)[:, None] - fitted
        if groups is not None:
            return _without_group(left, shrinks[tried], residual, n, None if counted is None else counted[at])
        leverage = product(left.square(), shrinks[tried].float()).double() + 1.0 / n
        if counted is not None:
            leverage *= counted[at, None]
        # A leverage of 1 leaves nothing to predict from: the others say nothing about such a row.
        return residual / (1.0 - leverage).clamp_min(1e-6)[:, :, None]

    def over_rows(work: Callable[[Rows], None]) -> None:
        if groups is None:
            features.over_blocks(work)
            return
        with cores(prior.device) as shared:
            shared.map(work, groups)

    def leave_out(at: Rows) -> None:
        errors[at] = residuals(at, slice(None)).square().sum(2)

    over_rows(leave_out)
    best = int((errors if counted is None else errors * counted[:, None]).sum(0).argmin())
    if features.target is not None:
        values = features.target_values.clone()

        def predict(at: Rows) -> None:
            values[at] -= residuals(at, slice(best, best + 1))[:, 0]

        over_rows(predict)
        predicted = values.cpu().numpy() * features.unit
        rule = fit_decision_rule(features.target, predicted, TEMPERATURES)
        judged = judge(features.target, predicted, rule)
        return RidgeLeaveOneOut(
            accuracy=float(judged.right.mean()),
            correct=judged.right,
            squared_error=errors[:, best].cpu().numpy() * features.unit**2,
            log_loss=judged.loss,
            penalty=penalties[best],
            rule=rule,
        )
    correct = torch.zeros(n, dtype=torch.bool, device=prior.device)
    losses = torch.zeros(n, len(TEMPERATURES), dtype=torch.float64, device=prior.device)

    def classify(at: Rows) -> None:
        codes = features.codes[at]
        values = features.one_hot(at) - residuals(at, slice(best, best + 1))[:, 0]
        correct[at] = values.argmax(1) == codes
        for i, temperature in enumerate(TEMPERATURES):
            losses[at, i] = torch.nn.functional.cross_entropy(values / temperature, codes, reduction="none")

    over_rows(classify)
    coolest = int((losses if counted is None else losses * counted[:, None]).sum(0).argmin())
    return RidgeLeaveOneOut(
        accuracy=float((correct.double() if counted is None else correct * counted).mean()),
        correct=correct.cpu().numpy(),
        squared_error=errors[:, best].cpu().numpy(),
        log_loss=losses[:, coolest].cpu().numpy(),
        penalty=penalties[best],
        rule=DecisionRule(temperature=TEMPERATURES[coolest]),
    )


def squared_error_of_none(features: Features) -> float:
    """The summed squared error, in squared `unit`s, of the mean response of all rows but a row's own, or but its
    group's; weighted if rows are."""
    n, weights = features.n, features.weights
    prior = features.response_mean if weights is None else features.class_weights / n
    counted = torch.ones(n, dtype=torch.float64, device=prior.device) if weights is None else weights
    if features.groups is None:
        if features.target is None:
            square = 1.0 - 2.0 * prior[features.codes] + prior.square().sum()
        else:
            square = (features.target_values - prior).square().sum(1)
        # A row and the mean without it lie n/(n − w) as far apart as it and the mean of all.
        return float((counted * (n / (n - counted)).square()) @ square)
    apart = features.response(slice(None)) - prior
    _, codes = np.unique(features.groups, return_inverse=True)
    of_group = torch.from_numpy(codes).to(prior.device)
    groups = int(codes.max()) + 1
    weight = counted.new_zeros(groups).index_add_(0, of_group, counted)
    sums = apart.new_zeros(groups, apart.shape[1]).index_add_(0, of_group, counted[:, None] * apart)
    without = apart + (sums / (n - weight)[:, None])[of_group]
    return float(counted @ without.square().sum(1))


@dataclass(frozen=True)
class _Smoother:
    """What ridge regression of N rows is made of, for any penalty: a row's fit is left · shrink(square) · products."""

    left: torch.Tensor
    """float32 [N, r]: U of the rows' spectrum; of weighted rows that of √w·rows, over √w."""
    square: torch.Tensor
    """float64 [r]."""
    products: torch.Tensor
    """float64 [r, K]."""
    prior: torch.Tensor
    """float64 [K]: the mean response."""


def _smoother_of(features: Features) -> _Smoother:
    if features.weights is None:
        spectrum = features.spectrum
        return _Smoother(spectrum.left, spectrum.square, features.response_products, features.response_mean)
    assert features.target is None
    counted, Z = features.weights, features.standardised
    root = counted.sqrt()
    middle = torch.stack(features.over_blocks(lambda at: counted[at] @ Z[at].double())).sum(0) / features.n
    rows = torch.cat(features.over_blocks(lambda at: ((Z[at] - middle) * root[at, None]).float()))
    values, vectors = decompose_gram(smaller_gram(rows))
    first = int((values <= RANK_SHARE * values[-1].clamp_min(0.0)).sum())
    square, vectors = values[first:], vectors[:, first:].double()
    if features.n <= features.width:
        left = vectors
    else:
        left = product(rows, (vectors / square.sqrt()).T.float().contiguous()).double()
    prior = features.class_weights / features.n
    wanted = (features.one_hot(slice(None)) - prior) * root[:, None]
    return _Smoother((left / root[:, None]).float(), square, left.T @ wanted, prior)


def _groups_of(features: Features) -> list[torch.Tensor] | None:
    """The rows of each group, int64 [n] each; None where every row is for itself."""
    if features.groups is None:
        return None
    order = np.argsort(features.groups, kind="stable")
    counts = np.unique(features.groups, return_counts=True)[1]
    device = features.codes.device
    return [torch.from_numpy(rows).to(device) for rows in np.split(order, np.cumsum(counts)[:-1])]


def _without_group(
    left: torch.Tensor, shrinks: torch.Tensor, residual: torch.Tensor, n: int, weights: torch.Tensor | None
) -> torch.Tensor:
    """(I − H)⁻¹ of the residuals [m, P, K] of a group, for each penalty's H = (1/n + left·diag(shrink)·leftᵀ)·diag(w).

    left: float64 [m, r]; weights: w, [m], or None where they are 1. √w·H/√w is symmetric, and the smaller of both
    systems is solved, of the rows or of the directions (Woodbury).
    """
    root = 1.0 if weights is None else weights.sqrt()[:, None]
    found = torch.empty_like(residual)
    for tried, shrink in enumerate(shrinks):
        ones = left.new_full((len(left), 1), n**-0.5)
        parts = torch.cat((left * shrink.sqrt(), ones), dim=1) * root  # √w·H/√w is parts·partsᵀ
        wanted = residual[:, tried] * root
        rows, directions = parts.shape
        one = torch.eye(min(rows, directions), dtype=left.dtype, device=left.device)
        if rows <= directions:
            solved = torch.linalg.solve((1.0 + _LEFT) * one - parts @ parts.T, wanted)
        else:
            inner = torch.linalg.solve((1.0 + _LEFT) * one - parts.T @ parts, parts.T @ wanted)
            solved = (wanted + parts @ inner) / (1.0 + _LEFT)
        found[:, tried] = solved / root
    return found
