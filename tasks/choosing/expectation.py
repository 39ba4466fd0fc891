"""What accuracy each layer is expected to have, and how near the best one a layer is likely to be.

The left-out squared error of ridge regression moves with every row's margin, where a hit rate counts crossings, so it
tells layers apart with fewer rows. A number from the study turns its differences into differences of accuracy, and the
covariance of the rows' errors says how far chance moves these. How sure that makes anybody was measured as well: on the
study's curves a chance computed from the rows alone is too sure, and three more numbers, in the open below, mend that.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from tasks.choosing.inflection import FloatArray, draw_errors, error_covariance
from tasks.numerics.cached_property import cached_property

NEAR = 0.005
"""Half a point: a layer within so much of the best accuracy is as good as it."""

# Fitted on the study's curves by `python -m study` (study/results/expectation.csv); docs/study.md has their left-out
# measures.
ACCURACY_PER_ERROR = 0.92
"""Accuracy gained by a squared error that is smaller by one."""
SURENESS = (0.76, 0.35)
"""a, b of P(near) = σ(a + b·logit of the rows' own chance)."""
REGRET_PER_REGRET = 1.0
"""Expected regret over that which the rows alone would have."""

_DRAWS = 2_000
# A chance from so many draws is known no better than this.
_LEAST_CHANCE = 0.01


@dataclass(frozen=True)
class Expectation:
    """Of L layers, seen by M train rows."""

    mean: FloatArray
    """float64 [L]: expected accuracy, at the level of the left-out hits of the best layer."""
    covariance: FloatArray
    """float64 [L, L]: of its errors, rows being drawn anew."""
    seed: int

    @classmethod
    def of(
        cls, squared_error: npt.ArrayLike, correct: npt.NDArray[np.bool_], *, seed: int = 0
    ) -> "Expectation":
        """From float [L, M], each row's left-out squared error, and bool [L, M], whether it was a hit."""
        errors = np.asarray(squared_error, dtype=np.float64)
        gain = -ACCURACY_PER_ERROR * errors.mean(axis=1)
        best = int(gain.argmax())
        level = float(np.asarray(correct)[best].mean())
        covariance = ACCURACY_PER_ERROR**2 * error_covariance(errors)
        return cls(gain - gain[best] + level, covariance, seed)

    def confidence(self, layer: int) -> float:
        """0–1: how likely the layer's accuracy is within NEAR of the best layer's."""
        chance = float(np.clip((self._shortfalls[:, layer] <= NEAR).mean(), _LEAST_CHANCE, 1 - _LEAST_CHANCE))
        a, b = SURENESS
        return float(expit(a + b * logit(chance)))

    def regret(self, layer: int) -> float:
        """By how much the layer's accuracy is expected to fall short of the best layer's, a fraction ≥ 0."""
        return REGRET_PER_REGRET * float(self._shortfalls[:, layer].mean())

    @cached_property
    def _shortfalls(self) -> FloatArray:
        """float64 [draws, L]: of each layer to the best of its draw."""
        drawn = self.mean + draw_errors(self.covariance, _DRAWS, np.random.default_rng(self.seed))
        return drawn.max(axis=1, keepdims=True) - drawn
