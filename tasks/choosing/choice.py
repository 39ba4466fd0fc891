"""Inflection points and train-only criteria → the chosen layer, with its reason and a confidence.

No gradient-trained probe and no test row takes part. Both ends of the model are always candidates: with
`mean` pooling the embedding output can be the best layer, with `last` pooling the last layer often is, and
neither can be a peak. Where the best candidates are within noise of each other they are a tie, and the
shallowest of a tie is chosen: it is the cheapest to run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tasks.choosing.inflection import (
    FloatArray,
    MeasuredCurve,
    draw_errors,
    error_covariance,
)
from tasks.choosing.rules import RULES, WITHIN_NOISE, Curves, Noise, Rule

CONSTANT = "Every text has the same embedding there, so it tells no texts apart. "
_RESAMPLES = 200
_METRICS = ("cosine", "sqeuclidean", "euclidean")


@dataclass(frozen=True)
class LayerEvidence:
    """All that a rule may see of the L layers of one pooling and norm state: train rows only."""

    silhouettes: Mapping[str, MeasuredCurve]
    """By metric. The rules read `cosine` where it is there, else `sqeuclidean`, else `euclidean`."""
    criteria: Mapping[str, FloatArray]
    """name → score [L], the higher the better; some rules read `logme` or `whitened_silhouette`."""
    ridge_correct: npt.NDArray[np.bool_]
    """[L, M]: whether ridge regression fitted without the row gives the row its label."""
    last_is_normed: bool
    """The last layer alone has passed the final norm (norm state `as_returned`): see
    `measure_curve`."""
    constant: npt.NDArray[np.bool_] | None = None
    """[L]: every train row has the same embedding there; None: of no layer. Such a layer is chosen only where a rule
    has no other."""


@dataclass(frozen=True)
class LayerChoice:
    """What one rule chose."""

    rule: str
    layer: int
    confidence: float
    """0–1: the share of resampled training rows for which the rule picks this layer or one whose ridge
    leave-one-out accuracy is within noise of it. Scores without rows of their own (LogME) stay as they are
    when rows are drawn."""
    reason: str
    """For people: what was compared and why this one."""
    is_constant: bool
    """The layer gives every train row the same embedding: it tells no texts apart, and nothing follows from it."""
    score: float
    """Ridge leave-one-out accuracy of the layer, 0–1: the same for every rule, so that choices of different
    poolings and norm states can be compared."""


def choose_layers(
    evidence: LayerEvidence, rules: Sequence[str] | None = None, *, seed: int = 0
) -> list[LayerChoice]:
    """One layer a rule, 0 … L − 1, from train rows alone. Same evidence, rule and seed, same choice.

    rules: names in `RULES`; None takes all whose score is among the evidence. The confidence redraws the rows 200
    times: every curve gets normal errors with the covariance of its rows, which is what a bootstrap of many rows comes
    to, without reading them again. Silhouette and ridge rows are drawn independently. Raises ValueError if the evidence
    does not fit together or lacks what a rule that was named reads.
    """
    curves = _read(evidence)
    known = {name: rule for name, rule in RULES.items() if rule.ranked_by in curves.scores}
    redrawn = _redraw(curves, seed)
    choices = []
    for name in known if rules is None else rules:
        if name not in known:
            raise ValueError(
                f"rule {name} reads the criterion {RULES[name].ranked_by}; there are {sorted(evidence.criteria)}"
            )
        rule = known[name]
        pick = rule.pick(curves)
        choices.append(
            LayerChoice(
                rule=name,
                layer=pick.layer,
                confidence=_confidence(curves, redrawn, rule, pick.layer),
                reason=(CONSTANT if curves.constant[pick.layer] else "") + rule.reason(curves, pick),
                is_constant=bool(curves.constant[pick.layer]),
                score=float(curves.ridge[pick.layer]),
            )
        )
    return choices


def _read(evidence: LayerEvidence) -> Curves:
    metric = next((name for name in _METRICS if name in evidence.silhouettes), None)
    if metric is None:
        raise ValueError(f"no silhouette among {sorted(evidence.silhouettes)}; one of {_METRICS} is needed")
    criteria = {name: np.asarray(score, dtype=np.float64) for name, score in evidence.criteria.items()}
    silhouette = evidence.silhouettes[metric]
    ridge = np.asarray(evidence.ridge_correct)
    lengths = {len(each) for each in (silhouette.values, ridge, *criteria.values())}
    if len(lengths) != 1:
        raise ValueError(f"silhouette, ridge_correct and criteria differ in layers: {sorted(lengths)}")
    return Curves(
        metric=metric,
        silhouette=silhouette.values,
        ridge=ridge.mean(axis=1),
        criteria=criteria,
        noise=Noise(silhouette.noise, error_covariance(ridge), 1.5 / ridge.shape[1]),
        last_is_normed=evidence.last_is_normed,
        constant=np.zeros(len(ridge), dtype=bool) if evidence.constant is None else evidence.constant,
    )


def _redraw(curves: Curves, seed: int) -> list[Curves]:
    rng = np.random.default_rng(seed)
    silhouettes = curves.silhouette + draw_errors(curves.noise.silhouette.covariance, _RESAMPLES, rng)
    ridges = curves.ridge + draw_errors(curves.noise.ridge, _RESAMPLES, rng)
    return [
        replace(curves, silhouette=silhouette, ridge=ridge)
        for silhouette, ridge in zip(silhouettes, ridges, strict=True)
    ]


def _confidence(curves: Curves, redrawn: list[Curves], rule: Rule, layer: int) -> float:
    gaps = np.abs(curves.ridge - curves.ridge[layer])
    same = gaps <= WITHIN_NOISE * curves.noise.paired_ridge[layer]
    return float(same[[rule.pick(draw).layer for draw in redrawn]].mean())
