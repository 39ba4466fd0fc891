"""What accuracy each layer is expected to have, and how near the best one a layer is likely to be.

The left-out log loss of ridge regression moves with every row's margin, where a hit rate counts crossings, so it tells
layers apart with fewer rows. The curve's own hits say what a loss is worth in accuracy, and the covariance of the rows'
losses how far chance moves that. How sure this makes anybody was measured as well: on the study's curves a chance
computed from the rows alone is too sure, and three numbers, in the open below, mend that.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from tasks.choosing.inflection import FloatArray, draw_errors, error_covariance
from tasks.numerics.cached_property import cached_property

NEAR = 0.005
"""Half a point: a layer within so much of the best accuracy is as good as it."""

SURENESS = (1.02, 0.25, -0.42)
"""a, b, c of P(near) = σ(a + b·logit of the rows' own chance + c·expected regret in points), fitted on the study's
curves by `python -m study` (study/results/sureness.csv); docs/study.md has how it does on curves that were left out."""
LEAST_WORTH = 0.1
"""A nat of log loss less is worth at least so much accuracy: few hits may show no slope."""
# Layers so many standard errors below the highest hit rate say little of what is best, and count less.
_NEAR_THE_TOP = 2.0
_FAR_WEIGHT = 0.02

_DRAWS = 2_000
# A chance from so many draws is known no better than this.
_LEAST_CHANCE = 1e-3


@dataclass(frozen=True)
class Expectation:
    """Of L layers, seen by M train rows."""

    mean: FloatArray
    """float64 [L]: expected accuracy, at the level of the left-out hits of the best layer."""
    covariance: FloatArray
    """float64 [L, L]: of its errors, rows being drawn anew."""
    worth: float
    """Accuracy that a nat of log loss less is worth on this curve."""
    seed: int

    @classmethod
    def of(cls, log_loss: npt.ArrayLike, correct: npt.NDArray[np.bool_], *, seed: int = 0) -> "Expectation":
        """From float [L, M], each row's left-out log loss in nats, and bool [L, M], whether it was a hit."""
        losses, right = np.asarray(log_loss, dtype=np.float64), np.asarray(correct)
        means, hits = losses.mean(axis=1), right.mean(axis=1)
        return cls.of_means(means, error_covariance(losses), hits, error_covariance(right), seed=seed)

    @classmethod
    def of_means(
        cls,
        losses: FloatArray,
        loss_noise: FloatArray,
        hits: FloatArray,
        hit_noise: FloatArray,
        *,
        seed: int = 0,
    ) -> "Expectation":
        """From what the rows come to: their means [L] and the covariances [L, L] of these."""
        worth = accuracy_per_nat(losses, loss_noise, hits, hit_noise)
        best = int(losses.argmin())
        return cls(hits[best] - worth * (losses - losses[best]), worth**2 * loss_noise, worth, seed)

    def confidence(self, layer: int, near: float = NEAR) -> float:
        """0–1: how likely the layer's accuracy falls short of the best layer's by no more than `near`."""
        return float(sureness(self.chance(layer, near), self.regret(layer)))

    def chance(self, layer: int, near: float = NEAR) -> float:
        """0–1: the same by what the rows alone allow, were they drawn anew."""
        return float((self._shortfalls[:, layer] <= near).mean())

    def regret(self, layer: int) -> float:
        """By how much the layer's accuracy is expected to fall short of the best layer's, a fraction ≥ 0."""
        return float(self._shortfalls[:, layer].mean())

    @cached_property
    def _shortfalls(self) -> FloatArray:
        """float64 [draws, L]: of each layer to the best of its draw."""
        drawn = self.mean + draw_errors(self.covariance, _DRAWS, np.random.default_rng(self.seed))
        return drawn.max(axis=1, keepdims=True) - drawn


def sureness(
    chance: npt.ArrayLike, regret: npt.ArrayLike, numbers: tuple[float, float, float] = SURENESS
) -> FloatArray:
    """How likely layers are near the best, 0–1, by what the rows alone say of them: chance 0–1, regret a fraction."""
    a, b, c = numbers
    bounded = np.clip(chance, _LEAST_CHANCE, 1 - _LEAST_CHANCE)
    return np.asarray(expit(a + b * logit(bounded) + c * 100 * np.asarray(regret)))


def accuracy_per_nat(
    losses: FloatArray, loss_noise: FloatArray, hits: FloatArray, hit_noise: FloatArray
) -> float:
    """What a nat of log loss less is worth in accuracy on this curve, at least LEAST_WORTH.

    The least-squares slope of the hits [L] on the losses [L], turned round. loss_noise and hit_noise [L, L] are the
    covariances of their errors: what of the differences in loss is noise has no worth, and makes the slope smaller, as
    in errors-in-variables regression.
    """
    near = _NEAR_THE_TOP * max(float(np.sqrt(hit_noise.diagonal().mean())), 0.01)
    weight = np.exp(-0.5 * ((hits.max() - hits) / near) ** 2) + _FAR_WEIGHT
    weight /= weight.sum()
    centre = np.eye(len(losses)) - weight
    centred = centre @ losses
    square = float(weight @ centred**2) + float(weight @ (centre @ loss_noise @ centre.T).diagonal())
    # Equal layers leave rounding, which has no slope.
    if square <= (1e-9 * float(np.abs(losses).max())) ** 2:
        return LEAST_WORTH
    return max(-float(weight @ (centred * hits)) / square, LEAST_WORTH)
