"""A regularised linear probe of one layer: how well a plain linear layer reads the labels off it.

Multinomial logistic regression on standardised features, fitted to convergence, its L2 penalty chosen on train
rows alone (see `softmax_regression` for the objective and how λ relates to scikit-learn's C).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from storage.errors import UserError
from tasks.numerics.matrix_rows import as_labels, as_rows, blocks_of, check_finite
from tasks.numerics.proportion import wilson_interval
from tasks.numerics.softmax_regression import Fit, fit_path, onward
from tasks.scoring.features import Features
from tasks.scoring.folds import FOLDS, Folds, folds_of
from tasks.vocabulary import ProbeProtocol

PENALTIES = tuple(10.0 ** (-step / 2) for step in range(11))
"""λ from 1 to 0.00001, strongest first; on 4,000 rows they are scikit-learn's C from 0.00025 to 25. Each is fitted from
where the optima of the last two lead, until the held-out loss rises: weak ones take longest, and few layers ask for
them."""
# Held-out losses differ by far more than this share of the objective leaves open.
CHOOSING_TOLERANCE = 1e-4
# Logits (fits × classes × rows) that are worked on at a time: folds of few rows go together.
FITTED_VALUES = 2**21
# Up to so many train rows, and rows × classes, every fold is held out once; beyond, one fold is enough rows to tell
# penalties apart, and five would take five times as long.
CROSS_VALIDATED_ROWS, CROSS_VALIDATED_VALUES = 2_000, 2**16
# Of the rows, if nothing that is held out has their classes: beyond, what is held out is not like test rows.
UNTOLD = 0.05
# That a detector may have of rows that are none.
FALSE_POSITIVES = 0.01
# Of the protocol `sgd`.
SGD_EPOCHS = 20
SGD_BATCH = 64
SGD_RATE = 1e-3


@dataclass(frozen=True)
class Detection:
    """How well the rarer of two classes is found, whatever threshold is set. Fractions 0–1."""

    positive: int
    """Its label; of equally many train rows the larger one."""
    auroc: float
    """Area under the ROC curve (Fawcett 2006, doi 10.1016/j.patrec.2005.10.010), 0.5 by chance."""
    true_positive_rate: float
    """The highest with a false positive rate of at most FALSE_POSITIVES."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe and what it is worth on the test rows. Accuracies, F1 and recalls are fractions 0–1."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """Wilson's 95 % interval of the accuracy, for these n_test rows."""
    macro_f1: float
    """Over classes that occur among the test labels or predictions, as in scikit-learn."""
    balanced_accuracy: float
    log_loss: float
    """Mean −log p of the true label in nats; a label never seen in training counts with the smallest p > 0."""
    penalty: float
    """λ of `softmax_regression`; 0 for `sgd`."""
    held_out_accuracy: float | None
    """Of train rows, each predicted by a fit without its fold, with this penalty; None where none was chosen."""
    held_out_log_loss: float | None
    """In nats, of the same rows."""
    held_out_rows: int
    """How many they are; 0 where no penalty was chosen."""
    iterations: int
    """Of the final fit: quasi-Newton iterations, or Adam steps."""
    converged: bool
    n_train: int
    n_test: int
    majority_accuracy: float
    """Accuracy of always naming the most frequent train label: the floor."""
    recall_by_class: dict[int, float]
    detection: "Detection | None"
    """Where there are two classes, and both have test rows."""
    predictions: np.ndarray
    """int32 [n_test] labels."""
    coefficients: np.ndarray
    """float64 [K, D], for standardised features; rows in the order of `classes`."""
    intercepts: np.ndarray
    """float64 [K]."""
    mean: np.ndarray
    """float64 [D], of the train rows."""
    scale: np.ndarray
    """float64 [D], population deviation of the train rows, 1 for a constant feature."""
    classes: np.ndarray
    """int64 [K], increasing: the labels seen in training."""


def fit_probe(
    X_train: np.ndarray | torch.Tensor,
    y_train: np.ndarray | torch.Tensor,
    X_test: np.ndarray | torch.Tensor,
    y_test: np.ndarray | torch.Tensor,
    *,
    protocol: ProbeProtocol = ProbeProtocol.LOGISTIC,
    penalties: Sequence[float] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Probe:
    """Fit on float X_train [n, D] and int y_train [n], evaluate on X_test [m, D], y_test [m].

    The penalty is the one with the lowest held-out log-loss on train rows, of `penalties` or else of PENALTIES as far
    as it pays; the final fit uses all train rows. Raises UserError for fewer than two train classes,
    no test rows, or values that are not finite.
    """
    rows = as_rows(X_train)
    check_finite(rows, "probe", "train ")
    train = Features(rows, y_train, device=device)
    return fit_probe_on(train, X_test, y_test, protocol=protocol, penalties=penalties, seed=seed)


def fit_probe_on(
    train: Features,
    X_test: np.ndarray | torch.Tensor,
    y_test: np.ndarray | torch.Tensor,
    *,
    protocol: ProbeProtocol = ProbeProtocol.LOGISTIC,
    penalties: Sequence[float] | None = None,
    test_weights: np.ndarray | None = None,
    seed: int = 0,
) -> Probe:
    """`fit_probe` on the features whose criteria are wanted too: what both need is computed once.

    test_weights: [m], above 0, of features with weights; every measure is a weighted one then.
    """
    test = as_rows(X_test).to(train.rows.device)
    y_test = as_labels(y_test, len(test))
    check_finite(test, "probe", "test ")
    k, codes = len(train.labels), train.codes.cpu().numpy()
    if k < 2:
        raise UserError(
            f"A probe needs two classes to tell apart, and the {train.n} train rows have {k}. "
            "Give more train rows, or another label column."
        )
    if len(y_test) == 0:
        raise UserError(
            "A probe needs test rows to be worth anything, and the test split is empty. Give one."
        )
    mean, scale = train.mean, torch.where(train.deviation > 0, train.deviation, 1.0)
    if protocol is ProbeProtocol.SGD:
        fit = _fit_by_sgd(train.standardised, train.codes, k, seed, train.weights)
        chosen = _HeldOut(0.0)
    else:
        along = train.principal
        folds = folds_of(codes, train.groups, seed)
        told = folds.share_told(codes, _folds_held_out(len(codes), k))
        # No other group has a row's class: rows choose a penalty all the same.
        if train.groups is not None and told == 0:
            folds = folds_of(codes, None, seed)
        chosen = _choose_penalty(along.coordinates, codes, k, penalties, folds, train.weights)
        if told < 1 - UNTOLD:
            chosen = replace(chosen, rows=0)
        start = chosen.middle(train.class_weights / train.n)
        fit = fit_path(
            along.coordinates, train.codes, k, (chosen.penalty,), weights=train.weights, start=start
        )[0]
        fit = replace(fit, weights=fit.weights @ along.axes.double())
    logits = torch.cat([_logits((test[at] - mean) / scale, fit) for at in blocks_of(test)])
    most = train.labels[int(train.class_weights.argmax())]
    of_test = np.ones(len(y_test)) if test_weights is None else test_weights / test_weights.mean()
    return _evaluate(
        logits.cpu().numpy(), train.labels, codes, y_test, of_test, most, fit, chosen, mean, scale
    )


@dataclass(frozen=True)
class _HeldOut:
    """What a penalty is worth on train rows, each predicted by a fit without its fold."""

    penalty: float
    fits: tuple[Fit, ...] = ()
    """One a fold; none where nothing was held out."""
    has_class: torch.Tensor | None = None
    """bool [fits, K]: whether the fit has a row of the class."""
    rows: int = 0
    counted: float = 0.0
    """The rows, or the sum of their weights."""
    hits: float = 0.0
    """Of what is counted."""
    loss: float = 0.0
    """Summed over the rows, weighted if they are, in nats."""

    def middle(self, prior: torch.Tensor) -> list[Fit] | None:
        """The mean of the fits, from which that to all rows is near; prior: shares of the classes, float64 [K].

        A fit without rows of a class only says that it is rare, and the rarer, the further its path went.
        """
        if self.has_class is None or not self.fits:
            return None
        fits = self.has_class.sum(0)
        told = self.has_class.double() / fits.clamp_min(1)
        weights = (told[:, :, None] * torch.stack([fit.weights for fit in self.fits])).sum(0)
        intercepts = (told * torch.stack([fit.intercepts for fit in self.fits])).sum(0)
        # As far from the others as the shares are, which is all that is known of it.
        level = (intercepts - prior.log())[fits > 0].mean()
        intercepts = torch.where(fits > 0, intercepts, prior.log() + level)
        return [replace(self.fits[0], weights=weights, intercepts=intercepts)]


def _choose_penalty(
    Z: torch.Tensor,
    codes: np.ndarray,
    k: int,
    penalties: Sequence[float] | None,
    folds: Folds,
    weights: torch.Tensor | None,
) -> _HeldOut:
    """The penalty with the lowest held-out log-loss, on train rows only."""
    if penalties is not None and len(penalties) == 1:
        return _HeldOut(penalties[0])
    labels = torch.from_numpy(codes).to(Z.device)
    tried: list[_HeldOut] = []
    for penalty in PENALTIES if penalties is None else penalties:
        tried.append(_hold_out(Z, labels, folds, k, penalty, _start(tried, penalty), weights))
        if penalties is None and len(tried) > 1 and tried[-1].loss > tried[-2].loss:
            break
    return min(tried, key=lambda each: each.loss)


def _start(tried: Sequence[_HeldOut], penalty: float) -> tuple[Fit, ...] | None:
    """Where each fold's search for the next optimum begins; None: nowhere in particular."""
    if len(tried) < 2:
        return tried[-1].fits if tried else None
    before, last = tried[-2:]
    return tuple(onward(fit, other, penalty) for fit, other in zip(last.fits, before.fits, strict=True))


def _folds_held_out(rows: int, k: int) -> int:
    few = rows <= CROSS_VALIDATED_ROWS and rows * k <= CROSS_VALIDATED_VALUES
    return FOLDS if few else 1


def _hold_out(
    Z: torch.Tensor,
    labels: torch.Tensor,
    held: Folds,
    k: int,
    penalty: float,
    start: tuple[Fit, ...] | None,
    weights: torch.Tensor | None,
) -> _HeldOut:
    """Fit without each fold in turn, and predict it."""
    fold = held.fold
    folds = [i for i in range(_folds_held_out(len(fold), k)) if (fold == i).any()]
    together = max(1, FITTED_VALUES // (k * len(fold)))
    fits: list[Fit] = []
    in_use = torch.from_numpy(fold != np.array(folds)[:, None]).to(labels.device, torch.float32)
    has_class = in_use.new_zeros(len(folds), k).index_add_(1, labels, in_use) > 0
    rows, counted, hits, loss = 0, 0.0, 0.0, 0.0
    for first in range(0, len(folds), together):
        picked = folds[first : first + together]
        held_out = torch.from_numpy(fold == np.array(picked)[:, None]).to(labels.device)
        # A fold's own mean is not quite zero; the intercepts take it up.
        found = fit_path(
            Z,
            labels,
            k,
            (penalty,),
            used=~held_out,
            weights=weights,
            tolerance=CHOOSING_TOLERANCE,
            start=start and start[first : first + together],
        )
        predicted = held_out & torch.from_numpy(held.predicted).to(labels.device)
        for outside, fit in zip(predicted, found, strict=True):
            logits = _logits(Z[outside], fit)
            right = logits.argmax(1) == labels[outside]
            rows += len(logits)
            if weights is None:
                loss += float(torch.nn.functional.cross_entropy(logits, labels[outside], reduction="sum"))
                hits, counted = hits + int(right.sum()), counted + len(logits)
                continue
            own = weights[outside]
            losses = torch.nn.functional.cross_entropy(logits, labels[outside], reduction="none")
            loss, hits = loss + float(losses @ own), hits + float(right.double() @ own)
            counted += float(own.sum())
        fits += found
    return _HeldOut(penalty, tuple(fits), has_class, rows, counted, hits, loss)


def _logits(rows: torch.Tensor, fit: Fit) -> torch.Tensor:
    """float64 [n, K] of rows as the fit has seen them."""
    return rows.double() @ fit.weights.T + fit.intercepts


def _fit_by_sgd(Z: torch.Tensor, codes: torch.Tensor, k: int, seed: int, counted: torch.Tensor | None) -> Fit:
    """Adam on mini-batches, from zero; converged where the last epoch moved the mean loss by under 1 %."""
    n, d = Z.shape
    draw = torch.Generator().manual_seed(seed)
    weights = torch.zeros(k, d, device=Z.device, requires_grad=True)
    intercepts = torch.zeros(k, device=Z.device, requires_grad=True)
    optimiser = torch.optim.Adam([weights, intercepts], lr=SGD_RATE)
    steps, losses = 0, []
    with torch.enable_grad():
        for _ in range(SGD_EPOCHS):
            total = 0.0
            for batch in torch.randperm(n, generator=draw).split(SGD_BATCH):
                rows = batch.to(Z.device)
                logits = torch.nn.functional.linear(Z[rows], weights, intercepts)
                if counted is None:
                    loss = torch.nn.functional.cross_entropy(logits, codes[rows])
                else:
                    each = torch.nn.functional.cross_entropy(logits, codes[rows], reduction="none")
                    loss = (each * counted[rows].float()).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(rows)
                steps += 1
            losses.append(total / n)
    settled = len(losses) > 1 and abs(losses[-2] - losses[-1]) <= 0.01 * losses[-2]
    return Fit(weights.detach().double(), intercepts.detach().double(), 0.0, losses[-1], steps, settled)


def _evaluate(
    logits: np.ndarray,
    classes: np.ndarray,
    codes: np.ndarray,
    y_test: np.ndarray,
    weights: np.ndarray,
    most: int,
    fit: Fit,
    chosen: _HeldOut,
    mean: torch.Tensor,
    scale: torch.Tensor,
) -> Probe:
    """weights: [m] of mean 1, of the test rows. most: the label that most train rows have, or the largest weight."""
    m = len(y_test)
    predicted = classes[logits.argmax(1)]
    correct = predicted == y_test
    low, high = wilson_interval(float(weights[correct].sum()), m)
    recalls, f1 = {}, []
    for label in np.union1d(y_test, predicted):
        truly, named = y_test == label, predicted == label
        hits, of_label = float(weights[truly & named].sum()), float(weights[truly].sum())
        f1.append(2 * hits / (of_label + float(weights[named].sum())))
        if truly.any():
            recalls[int(label)] = hits / of_label
    return Probe(
        accuracy=float(np.average(correct, weights=weights)),
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=float(np.mean(f1)),
        balanced_accuracy=float(np.mean(list(recalls.values()))),
        log_loss=_log_loss(logits, classes, y_test, weights),
        penalty=chosen.penalty,
        held_out_accuracy=chosen.hits / chosen.counted if chosen.rows else None,
        held_out_log_loss=chosen.loss / chosen.counted if chosen.rows else None,
        held_out_rows=chosen.rows,
        iterations=fit.iterations,
        converged=fit.converged,
        n_train=len(codes),
        n_test=m,
        majority_accuracy=float(np.average(y_test == most, weights=weights)),
        recall_by_class=recalls,
        detection=_detection(logits, classes, codes, y_test, weights),
        predictions=predicted.astype(np.int32),
        coefficients=fit.weights.cpu().numpy(),
        intercepts=fit.intercepts.cpu().numpy(),
        mean=mean.cpu().numpy(),
        scale=scale.cpu().numpy(),
        classes=classes.astype(np.int64),
    )


def _detection(
    logits: np.ndarray, classes: np.ndarray, codes: np.ndarray, y_test: np.ndarray, weights: np.ndarray
) -> Detection | None:
    if len(classes) != 2 or set(np.unique(y_test)) != set(classes):
        return None
    from sklearn.metrics import roc_auc_score, roc_curve  # slow to import

    rarer = int(np.bincount(codes)[1] <= np.bincount(codes)[0])
    truly, score = y_test == classes[rarer], logits[:, rarer] - logits[:, 1 - rarer]
    false, true, _ = roc_curve(truly, score, sample_weight=weights, drop_intermediate=False)
    return Detection(
        positive=int(classes[rarer]),
        auroc=float(roc_auc_score(truly, score, sample_weight=weights)),
        true_positive_rate=float(true[false <= FALSE_POSITIVES].max()),
    )


def _log_loss(logits: np.ndarray, classes: np.ndarray, y_test: np.ndarray, weights: np.ndarray) -> float:
    log_p = logits - logits.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    at = np.searchsorted(classes, y_test).clip(max=len(classes) - 1)
    known = classes[at] == y_test
    least = np.log(np.finfo(np.float64).eps)
    told = np.where(known, np.maximum(log_p[np.arange(len(at)), at], least), least)
    return float(-np.average(told, weights=weights))
