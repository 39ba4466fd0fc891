"""Train-only evidence of every layer → the chosen layer, with its reason, a confidence and an expected regret.

No gradient-trained probe and no test row takes part in the default rule. The rules of `rules` are laid beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.choosing.expectation import Expectation
from tasks.choosing.inflection import FloatArray, MeasuredCurve, error_covariance
from tasks.choosing.rules import RULES, Curves, Noise
from tasks.measures import MEASURES
from tasks.vocabulary import Task

CONSTANT = "Every text has the same embedding there, so it tells no texts apart. "
SCORE = "ridge_loo_information"
_METRICS = ("cosine", "sqeuclidean", "euclidean")


@dataclass(frozen=True)
class LayerEvidence:
    """All that a rule may see of the L layers of one pooling and norm state: train rows only."""

    silhouettes: Mapping[str, MeasuredCurve]
    """By metric. The rules read `cosine` where it is there, else `sqeuclidean`, else `euclidean`."""
    criteria: Mapping[str, FloatArray]
    """name → score [L], the higher the better; `ridge_loo_information` among them, and what else a rule reads."""
    ridge_correct: npt.NDArray[Any]
    """[L, M]: whether ridge regression fitted without the row gives the row its label, bool; or how right it tells it,
    float64."""
    ridge_loss: FloatArray
    """[L, M]: the left-out log loss of the same rows, in nats."""
    last_is_normed: bool
    """The last layer alone has passed the final norm (norm state `as_returned`): see
    `measure_curve`."""
    task: Task = Task.SINGLE_LABEL
    is_cut: bool = False
    """The model has deeper layers, which were not run (`max_layer`)."""
    constant: npt.NDArray[np.bool_] | None = None
    """[L]: every train row has the same embedding there; None: of no layer. Such a layer is chosen only where a rule
    has no other."""


@dataclass(frozen=True)
class LayerChoice:
    """What one rule chose."""

    rule: str
    layer: int
    confidence: float
    """0–1: how likely the layer's accuracy is within half a point of the best layer's; see `expectation`."""
    expected_regret: float
    """By how much its accuracy is expected to fall short of the best layer's, a fraction ≥ 0."""
    reason: str
    """For people: what was compared and why this one."""
    is_constant: bool
    """The layer gives every train row the same embedding: it tells no texts apart, and nothing follows from it."""
    score: float
    """`ridge_loo_information` of the layer, at most 1: the same for every rule, so that choices of different poolings
    and norm states can be compared."""
    priced_accuracy: float | None
    """Expected accuracy less the price of the layer's depth: what they are compared by where depth has one."""


def rank(score: float, priced_accuracy: float | None) -> float:
    """What choices of different poolings, norm states and prompts are compared by, the highest the best."""
    return score if priced_accuracy is None else priced_accuracy


def choose_layers(
    evidence: LayerEvidence, rules: Sequence[str] | None = None, *, depth_price: float = 0.0, seed: int = 0
) -> list[LayerChoice]:
    """One layer a rule, 0 … L − 1, from train rows alone. Same evidence, rule and seed, same choice.

    rules: names in `RULES`; None takes all whose score is among the evidence. depth_price: accuracy, a fraction, that
    all blocks have to be worth. Raises ValueError if the evidence does not fit together or lacks what a rule that was
    named reads.
    """
    curves = _read(evidence, depth_price, seed)
    known = {name: rule for name, rule in RULES.items() if rule.ranked_by in curves.scores}
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
                confidence=curves.expectation.confidence(pick.layer),
                expected_regret=curves.expectation.regret(pick.layer),
                reason=(CONSTANT if curves.constant[pick.layer] else "") + rule.reason(curves, pick),
                is_constant=bool(curves.constant[pick.layer]),
                score=float(curves.criteria[SCORE][pick.layer]),
                priced_accuracy=float(curves.scores["priced_accuracy"][pick.layer])
                if depth_price > 0
                else None,
            )
        )
    return choices


def _read(evidence: LayerEvidence, depth_price: float, seed: int) -> Curves:
    metric = next((name for name in _METRICS if name in evidence.silhouettes), None)
    if metric is None:
        raise ValueError(f"no silhouette among {sorted(evidence.silhouettes)}; one of {_METRICS} is needed")
    criteria = {name: np.asarray(score, dtype=np.float64) for name, score in evidence.criteria.items()}
    if SCORE not in criteria:
        raise ValueError(
            f"{SCORE} is not among the criteria {sorted(criteria)}, and every choice is told by it"
        )
    silhouette = evidence.silhouettes[metric]
    ridge, error = np.asarray(evidence.ridge_correct), np.asarray(evidence.ridge_loss)
    lengths = {len(each) for each in (silhouette.values, ridge, error, *criteria.values())}
    if len(lengths) != 1:
        raise ValueError(f"silhouette, ridge rows and criteria differ in layers: {sorted(lengths)}")
    return Curves(
        metric=metric,
        silhouette=silhouette.values,
        ridge=ridge.mean(axis=1),
        criteria=criteria,
        expectation=Expectation.of(error, ridge, seed=seed),
        depth_price=depth_price,
        noise=Noise(silhouette.noise, error_covariance(ridge), 1.5 / ridge.shape[1]),
        last_is_normed=evidence.last_is_normed,
        measure=MEASURES[evidence.task],
        constant=np.zeros(len(ridge), dtype=bool) if evidence.constant is None else evidence.constant,
        is_cut=evidence.is_cut,
    )
