"""What a choice was worth on test rows that it never saw."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.choosing.comparison import NO_DIFFERENCE, Comparison, compare

Right = npt.NDArray[Any]
"""Of test rows: whether each was told right, bool; or how right, float64."""


@dataclass(frozen=True)
class Audit:
    """Accuracies are fractions 0–1 on the test rows; differences of them are fractions −1 … 1."""

    chosen_layer: int
    chosen_accuracy: float
    first_accuracy: float
    """Of layer 0, the embedding output."""
    last_accuracy: float
    best_layer: int
    """Highest test accuracy, the shallowest of equals. Found on the rows that measure it, so it flatters
    itself."""
    best_accuracy: float
    regret: float
    """best − chosen accuracy, ≥ 0; too high by the winner's curse of `best_accuracy`."""
    regret_low: float
    regret_high: float
    """Paired 95 % interval of the regret, with the same curse."""
    regret_p_value: float
    """As of `Comparison`, of best and chosen layer: a choice that is not significantly worse than a
    best layer found on the same rows is as good as it."""
    split_regret: float
    """Regret without that curse: the best layer found on one half of the test rows, the regret measured on
    the other half, both ways, averaged. May be negative."""
    gain_over_last: float
    gain_low: float
    gain_high: float
    """Paired 95 % interval of the gain."""
    p_value: float
    """As of `Comparison`, of chosen and last layer."""
    gain_over_first: float
    gain_over_first_low: float
    gain_over_first_high: float
    gain_over_first_p_value: float


@dataclass(frozen=True)
class ZoneAudit:
    """The best layer of a part of the model (inside) against the best of the rest (outside), on test rows.

    Both were found on the rows that measure them; the larger part gains more by it.
    """

    layer_share: float
    """Share of all layers that lie inside, 0–1: how often a layer drawn blindly would."""
    best_inside: int | None
    best_outside: int | None
    """Highest test accuracy, the shallowest of equals; None where there is no layer."""
    advantage: float | None
    """Accuracy of best_inside − accuracy of best_outside; None, as all below, where one of them is missing."""
    advantage_low: float | None
    advantage_high: float | None
    """Paired 95 % interval."""
    p_value: float | None
    """As of `Comparison`."""


@dataclass(frozen=True)
class ScoreAudit:
    """What the layer with the highest train-only score is worth on test rows; fractions as in `Audit`."""

    layer: int
    """The shallowest of equals."""
    regret: float
    split_regret: float
    gain_over_last: float
    p_value: float
    rank_correlation: float | None
    """Spearman's, of score and accuracy over the layers, −1 … 1; None where one of them is constant."""


@dataclass(frozen=True)
class RankCorrelation:
    """How well accuracy follows the silhouette from layer to layer: the paper's claim (a)."""

    value: float
    """−1 … 1; 1 if the layers' order is the same."""
    low: float
    high: float
    """95 % interval."""


def audit_choice(layer: int, correct: Right, *, seed: int = 0) -> Audit:
    """Lay the chosen layer beside the last, the first and the best one, on the same rows.

    layer: the chosen one, 0 … L − 1. correct: bool [L, N], whether the probe of each layer gave each of N ≥ 2 test
    rows its label; or float64 [L, N], how right it told each, whose mean is then what is called accuracy. Intervals and
    p from `comparison.compare`; the seed draws the halves of `split_regret`. Raises ValueError for a layer that is not
    there and for fewer than two rows.
    """
    right = np.asarray(correct)
    if right.ndim != 2 or right.shape[1] < 2:
        raise ValueError(f"correct is {right.shape}; [layers, test rows] with at least 2 rows is needed")
    if not 0 <= layer < len(right):
        raise ValueError(f"layer {layer} is not among the {len(right)} audited layers, 0 … {len(right) - 1}")
    accuracy = _accuracy(right)
    best = int(accuracy.argmax())
    behind_best = _against(right, best, layer)
    over_last = _against(right, layer, len(right) - 1)
    over_first = _against(right, layer, 0)
    return Audit(
        chosen_layer=layer,
        chosen_accuracy=float(accuracy[layer]),
        first_accuracy=float(accuracy[0]),
        last_accuracy=float(accuracy[-1]),
        best_layer=best,
        best_accuracy=float(accuracy[best]),
        regret=float(accuracy[best] - accuracy[layer]),
        regret_low=behind_best.low,
        regret_high=behind_best.high,
        regret_p_value=behind_best.p_value,
        split_regret=_split_regret(right, layer, seed),
        gain_over_last=over_last.difference,
        gain_low=over_last.low,
        gain_high=over_last.high,
        p_value=over_last.p_value,
        gain_over_first=over_first.difference,
        gain_over_first_low=over_first.low,
        gain_over_first_high=over_first.high,
        gain_over_first_p_value=over_first.p_value,
    )


def rank_correlation(
    silhouettes: npt.NDArray[np.floating],
    influence: npt.NDArray[np.floating],
    correct: Right,
    *,
    seed: int = 0,
    resamples: int = 300,
) -> RankCorrelation | None:
    """Spearman's rank correlation of the silhouette [L] and the accuracy of the same layers.

    influence: float [L, M], of each train row on each silhouette. correct: bool [L, N], on test rows. The
    interval is a percentile bootstrap over both sets of rows; as chance shuffles near equal layers, it leans
    towards 0. None where there is no correlation to speak of: fewer than three layers, or a curve that is
    constant.
    """
    right = np.asarray(correct, dtype=np.float64)
    if len(silhouettes) < 3 or np.ptp(silhouettes) == 0 or np.ptp(right.mean(axis=1)) == 0:
        return None
    rng = np.random.default_rng(seed)
    shift = np.asarray(influence, dtype=np.float64)
    shift = shift - shift.mean(axis=1, keepdims=True)
    drawn = []
    for _ in range(resamples):
        redrawn = silhouettes + shift @ _counts(shift.shape[1], rng), right @ _counts(right.shape[1], rng)
        if all(np.ptp(curve) > 0 for curve in redrawn):
            drawn.append(redrawn)
    low, high = np.percentile(_spearman(drawn), [2.5, 97.5]) if drawn else (-1.0, 1.0)
    return RankCorrelation(float(_spearman([(silhouettes, right.mean(axis=1))])[0]), float(low), float(high))


def _spearman(
    pairs: Sequence[tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]],
) -> npt.NDArray[np.float64]:
    """The rank correlation of each pair of curves [L], neither constant."""
    a, b = (
        pl.from_numpy(np.stack(side, axis=1)).select(pl.all().rank()).to_numpy()
        for side in zip(*pairs, strict=True)
    )
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def _counts(rows: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """How often each row is drawn when all are drawn anew, as shares that add up to 1."""
    return np.bincount(rng.integers(0, rows, rows), minlength=rows) / rows


def audit_zone(layers: Iterable[int], correct: Right) -> ZoneAudit:
    """Is accuracy on bool [L, N] highest among these layers (0 … L − 1, in any order)?"""
    right = np.asarray(correct)
    accuracy = right.mean(axis=1)
    inside = np.zeros(len(right), dtype=bool)
    inside[list(layers)] = True
    best = [
        int(np.where(part, accuracy, -1.0).argmax()) if part.any() else None for part in (inside, ~inside)
    ]
    share = float(inside.mean())
    if best[0] is None or best[1] is None:
        return ZoneAudit(share, best[0], best[1], None, None, None, None)
    found = _against(right, best[0], best[1])
    return ZoneAudit(share, best[0], best[1], found.difference, found.low, found.high, found.p_value)


def zones(layers: int) -> dict[str, list[int]]:
    """The parts of a model with layers 0 … `layers`: `early` to a quarter of the depth, `middle` below three
    quarters, `late`. One block's two layers are early and late."""
    parts: dict[str, list[int]] = {"early": [], "middle": [], "late": []}
    for layer in range(layers + 1):
        depth = layer / layers
        parts["early" if depth <= 0.25 else "middle" if depth < 0.75 else "late"].append(layer)
    return parts


def near_points(points: Iterable[int], layers: int) -> list[int]:
    """The layers of 0 … `layers` within one layer of an inflection point: the paper does not say where it
    counts layers from."""
    at = set(points)
    return [layer for layer in range(layers + 1) if at & {layer - 1, layer, layer + 1}]


def audit_score(score: npt.NDArray[np.floating], correct: Right, *, seed: int = 0) -> ScoreAudit:
    """What picking the maximum of a score [L] would have been worth on bool [L, N]."""
    right = np.asarray(correct)
    accuracy = right.mean(axis=1)
    layer = int(np.argmax(score))
    over_last = _against(right, layer, len(right) - 1)
    follows = len(right) >= 3 and np.ptp(score) > 0 and np.ptp(accuracy) > 0
    return ScoreAudit(
        layer=layer,
        regret=float(accuracy.max() - accuracy[layer]),
        split_regret=_split_regret(right, layer, seed),
        gain_over_last=over_last.difference,
        p_value=over_last.p_value,
        rank_correlation=float(_spearman([(score, accuracy)])[0]) if follows else None,
    )


def _accuracy(right: Right) -> npt.NDArray[np.float64]:
    """Of each layer, 0–1: a mean of rows that are right in part may leave that by rounding."""
    return np.clip(right.mean(axis=1), 0.0, 1.0)


def _against(right: Right, layer: int, other: int) -> Comparison:
    return NO_DIFFERENCE if layer == other else compare(right[layer], right[other])


def _split_regret(right: Right, layer: int, seed: int) -> float:
    rows = np.random.default_rng(seed).permutation(right.shape[1])
    halves = np.array_split(rows, 2)
    regrets = []
    for found_on, measured_on in (halves, halves[::-1]):
        best = int(right[:, found_on].mean(axis=1).argmax())
        measured = right[:, measured_on]
        regrets.append(measured[best].mean() - measured[layer].mean())
    return float(np.mean(regrets))
