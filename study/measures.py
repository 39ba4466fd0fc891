"""What a pick is worth on test rows, and how sure that is over data sets: sets are the unit, not curves.

Curves of one data set share their texts, so a mean over curves is a mean over sets of the mean of each, and its
interval is that of the sets' means (t distribution).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from study.curves import Curve
from tasks.choosing.comparison import compare

HALVINGS = 50
LEVEL = 0.05


@dataclass(frozen=True)
class OverSets:
    """A mean over data sets with its 95 % interval, and the worst curve."""

    mean: float
    low: float
    high: float
    worst: float


def split_regret(curve: Curve, layer: int) -> float:
    """The best layer found on one half of the test rows, the regret measured on the other, both ways; a fraction.

    Averaged over HALVINGS seeded halvings, so that one lucky halving does not decide; as the product's own, of one
    halving, it may be negative.
    """
    return _held_out_best(curve) - float(curve.accuracy[layer])


_kept: dict[tuple[str, str, str], float] = {}


def _held_out_best(curve: Curve) -> float:
    key = (curve.run_id, curve.pooling, curve.norm_state)
    if key not in _kept:
        _kept[key] = held_out_best(curve.correct)
    return _kept[key]


def held_out_best(correct: NDArray[np.bool_]) -> float:
    """Accuracy of the best of some candidates, found on one half of the test rows and measured on the other.

    correct: [candidates, test rows].
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(HALVINGS):
        halves = np.array_split(rng.permutation(correct.shape[1]), 2)
        for best_on, measured_on in (halves, halves[::-1]):
            best = int(correct[:, best_on].mean(axis=1).argmax())
            found.append(float(correct[best, measured_on].mean()))
    return float(np.mean(found))


def over_sets(curves: Sequence[Curve], values: Sequence[float]) -> OverSets:
    """The mean over data sets of one value a curve."""
    mean, low, high = mean_of_sets(list(set_means(curves, values).values()))
    return OverSets(mean, low, high, float(np.max(values)))


def mean_of_sets(means: Sequence[float]) -> tuple[float, float, float]:
    """Of one value a data set the mean and its 95 % interval (Student's t, sets being drawn); NaN of one set."""
    mean, half = float(np.mean(means)), np.nan
    if len(means) > 1:
        half = float(t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1) / len(means) ** 0.5)
    return mean, mean - half, mean + half


def set_means(curves: Sequence[Curve], values: Sequence[float]) -> dict[str, float]:
    """data set → the mean of its curves' values."""
    found: dict[str, list[float]] = {}
    for curve, value in zip(curves, values, strict=True):
        found.setdefault(curve.dataset, []).append(value)
    return {name: float(np.mean(each)) for name, each in found.items()}


def significant_against_last(curves: Sequence[Curve], picks: Sequence[int]) -> tuple[int, int]:
    """How many picks are better, and how many worse, than the last layer: McNemar, Holm over the curves, 5 %."""
    found = [
        compare(curve.correct[pick], curve.correct[-1]) for curve, pick in zip(curves, picks, strict=True)
    ]
    better = worse = 0
    for rank, each in enumerate(sorted(found, key=lambda each: each.p_value)):
        # Holm 1979: the first that does not pass ends it.
        if each.p_value > LEVEL / (len(found) - rank):
            break
        better, worse = better + (each.difference > 0), worse + (each.difference < 0)
    return better, worse
