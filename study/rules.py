"""Rules that are tried on the study's curves, and the baselines that they have to beat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.curves import Curve
from study.measures import over_sets, split_regret
from tasks.choosing.inflection import paired_errors

Rule = Callable[[Curve], int]

DEFAULT = "expected accuracy"
LOSSES = frozenset({"squared_error", "log_loss", "held_out_log_loss"})
LEFT_OUT = ("ridge_loo", "squared_error", "log_loss")


def maximum(name: str) -> Rule:
    """The layer of the highest score, or of the lowest loss."""
    sign = -1 if name in LOSSES else 1
    return lambda curve: int((sign * curve.scores[name]).argmax())


def priced(points: float) -> Rule:
    """The product's default, with some price for all blocks."""

    def pick(curve: Curve) -> int:
        return int((curve.expectation.mean - points / 100 * curve.depth).argmax())

    return pick


def together(*names: str) -> Rule:
    """The highest mean of several scores, each brought to the scale of ridge leave-one-out accuracy on this curve.

    By the least-squares slope of that accuracy on the score, layers near the top counting most: what happens far below
    the best layer says nothing about which is best.
    """

    return lambda curve: int(np.sum([_in_accuracy(curve, name) for name in names], axis=0).argmax())


def _in_accuracy(curve: Curve, name: str) -> NDArray[np.float64]:
    hits = curve.scores["ridge_loo"]
    error = max(float(np.sqrt(curve.covariances["ridge_loo"].diagonal().mean())), 0.01)
    weight = np.exp(-0.5 * ((hits.max() - hits) / (2 * error)) ** 2) + 0.02
    score = curve.scores[name] * (-1 if name in LOSSES else 1)
    centred = score - np.average(score, weights=weight)
    slope = float((weight * centred * hits).sum()) / max(float((weight * centred**2).sum()), 1e-18)
    return slope * centred


def turns_by_ridge(metric: str, tie: float) -> Rule:
    """The default of version 0.1: both ends and the turns of a silhouette, by the hits of ridge leave-one-out."""

    def pick(curve: Curve) -> int:
        hits = curve.scores["ridge_loo"]
        layers = np.array(sorted({0, curve.trend_end, curve.last, *curve.points[metric]}))
        best = layers[hits[layers].argmax()]
        errors = paired_errors(curve.covariances["ridge_loo"])[best, layers]
        within = np.maximum(tie * errors, 1.5 / curve.train_rows if tie else 0.0)
        return int(layers[hits[best] - hits[layers] <= within][0])

    return pick


def near_turns(metric: str) -> Rule:
    """The lowest left-out log loss among both ends and the turns of a silhouette."""

    def pick(curve: Curve) -> int:
        layers = sorted({0, curve.trend_end, curve.last, *curve.points[metric]})
        return min(layers, key=lambda layer: curve.scores["log_loss"][layer])

    return pick


def best_elsewhere(curves: Sequence[Curve]) -> Rule:
    """The fixed layer that is best on average over the model's other data sets, at the same pooling and norm state."""
    by_place: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
    for curve in curves:
        place = curve.model, curve.pooling, curve.norm_state
        by_place.setdefault(place, {})[curve.dataset] = curve.accuracy

    def pick(curve: Curve) -> int:
        others = [
            accuracy - accuracy.max()
            for name, accuracy in by_place[curve.model, curve.pooling, curve.norm_state].items()
            if name != curve.dataset
        ]
        return int(np.mean(others, axis=0).argmax()) if others else curve.last

    return pick


BASELINES: dict[str, Rule] = {
    "last layer": lambda curve: curve.last,
    "middle layer": lambda curve: curve.last // 2,
    "ridge leave-one-out hits": maximum("ridge_loo"),
    "LogME": maximum("logme"),
    "LOES, k = 1": maximum("loes"),
    "five-fold cross-validation of the probe": maximum("held_out_accuracy"),
    "version 0.1": turns_by_ridge("cosine", 1.0),
}

FAMILIES: dict[str, dict[str, Rule]] = {
    "one left-out score": {name: maximum(name) for name in LEFT_OUT},
    "left-out scores together": {
        "squared error and log loss": together("squared_error", "log_loss"),
        "hits, squared error and log loss": together(*LEFT_OUT),
    },
    "with a silhouette or LogME": {
        f"left-out scores and {name}": together(*LEFT_OUT, name)
        for name in (
            "silhouette:cosine",
            "silhouette:euclidean",
            "whitened_silhouette",
            "logme",
            "class_mean_loo",
        )
    },
    "log loss at the turns": {f"turns of {metric}": near_turns(metric) for metric in ("cosine", "euclidean")},
    "depth price": {f"price {points:g}": priced(points) for points in (0.0, 0.1, 0.2, 0.5, 1.0)},
    "silhouettes alone": {
        name: maximum(name)
        for name in (
            "silhouette:cosine",
            "silhouette:sqeuclidean",
            "silhouette:euclidean",
            "whitened_silhouette",
        )
    },
    "version 0.1": {f"tie {tie:g}": turns_by_ridge("cosine", tie) for tie in (0.0, 0.5, 1.0)},
}


@dataclass(frozen=True)
class LeftOut:
    """What a family's rule that was fitted on the rest is worth on one curve that was left out."""

    family: str
    rule: str
    curve: Curve
    split_regret: float


def fit_left_out(curves: Sequence[Curve], by: str) -> list[LeftOut]:
    """One entry a family and curve: the rule with the least mean regret on all others, measured there."""
    found = []
    for family, rules in FAMILIES.items():
        regrets = {
            name: [split_regret(curve, rule(curve)) for curve in curves] for name, rule in rules.items()
        }
        for left_out in sorted({str(getattr(curve, by)) for curve in curves}):
            outside = [i for i, curve in enumerate(curves) if getattr(curve, by) != left_out]
            inside = [i for i, curve in enumerate(curves) if getattr(curve, by) == left_out]
            if not outside:
                continue
            fitted = min(rules, key=lambda name: over_sets(*_of(curves, regrets[name], outside)).mean)
            found += [LeftOut(family, fitted, curves[i], regrets[fitted][i]) for i in inside]
    return found


def _of(
    curves: Sequence[Curve], values: Sequence[float], which: Sequence[int]
) -> tuple[list[Curve], list[float]]:
    return [curves[i] for i in which], [values[i] for i in which]


def every_rule(curves: Sequence[Curve]) -> Mapping[str, Rule]:
    """The default, all families and the baselines."""
    found = {DEFAULT: priced(0.0), "best layer on other sets": best_elsewhere(curves)} | BASELINES
    for family, rules in FAMILIES.items():
        found |= {f"{family}: {name}": rule for name, rule in rules.items()}
    return found
