"""Inflection points and train-only criteria → the chosen layer, with its reason and a confidence.

No gradient-trained probe and no test row takes part. Both ends of the model are always candidates: with
`mean` pooling the embedding output can be the best layer, with `last` pooling the last layer often is, and
neither can be a peak. Where the best candidates are within noise of each other they are a tie, and the
shallowest of a tie is chosen: it is the cheapest to run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tasks.choosing.inflection import (
    CurveNoise,
    CurveShape,
    FloatArray,
    Kind,
    curve_noise,
    curve_shape,
    draw_errors,
    error_covariance,
    paired_errors,
)
from tasks.numerics.cached_property import cached_property

TIE = 1.0
"""Candidates tie with the best where their ridge accuracy falls short of its by no more paired standard
errors than this: one, the rule of Breiman, Friedman, Olshen and Stone (1984, section 3.4.3). docs/study.md
lays other widths beside it."""

_WITHIN_NOISE = 1.96
_RESAMPLES = 200
_METRICS = ("cosine", "sqeuclidean", "euclidean")


class Rule(StrEnum):
    """How one layer is picked. Candidates first, then what ranks them."""

    TURNS_BY_RIDGE_LOO = "turns_by_ridge_loo"
    """Of both ends and the silhouette's inflection points, the one with the best ridge leave-one-out
    accuracy."""
    TURNS_BY_LOGME = "turns_by_logme"
    """The same candidates, the highest LogME."""
    TURNS_BY_WHITENED_SILHOUETTE = "turns_by_whitened_silhouette"
    """The same candidates, the largest macro-averaged share of rows with a positive silhouette in the whitened space:
    nothing but silhouettes."""
    SILHOUETTE_PEAK = "silhouette_peak"
    """Of both ends and the silhouette's peaks, the highest silhouette, but the deepest of those within noise
    of it: nothing but silhouettes is used, and where they cannot tell, the usual choice stands."""
    LAST_TURN = "last_turn"
    """The deepest inflection point of the silhouette, or the last layer if it has none."""
    RIDGE_LOO_MAXIMUM = "ridge_loo_maximum"
    """Of all layers, the best ridge leave-one-out accuracy; a maximum has no ties."""
    LOGME_MAXIMUM = "logme_maximum"
    """Of all layers, the highest LogME."""
    SILHOUETTE_MAXIMUM = "silhouette_maximum"
    """Of all layers, the highest silhouette."""
    MIDDLE_LAYER = "middle_layer"
    """Half the depth, rounded down: what a rule has to beat."""
    LAST_LAYER = "last_layer"
    """The usual choice: what a rule has to beat."""


DEFAULT_RULE = Rule.TURNS_BY_RIDGE_LOO

_RANKED_BY = {
    Rule.TURNS_BY_RIDGE_LOO: "ridge_loo",
    Rule.TURNS_BY_LOGME: "logme",
    Rule.TURNS_BY_WHITENED_SILHOUETTE: "whitened_silhouette",
    Rule.SILHOUETTE_PEAK: "silhouette",
    Rule.RIDGE_LOO_MAXIMUM: "ridge_loo",
    Rule.LOGME_MAXIMUM: "logme",
    Rule.SILHOUETTE_MAXIMUM: "silhouette",
}
"""What ranks the candidates of a rule: a criterion, or the silhouette itself."""

_OF_ALL_LAYERS = (Rule.RIDGE_LOO_MAXIMUM, Rule.LOGME_MAXIMUM, Rule.SILHOUETTE_MAXIMUM)


@dataclass(frozen=True)
class LayerEvidence:
    """All that a rule may see of the L layers of one pooling and norm state: train rows only."""

    silhouettes: Mapping[str, tuple[FloatArray, npt.NDArray]]
    """metric → (silhouette curve [L], its influence [L, N]). The rules read `cosine` where it is there, else
    `sqeuclidean`, else `euclidean`."""
    criteria: Mapping[str, FloatArray]
    """name → score [L], the higher the better; some rules read `logme` or `whitened_silhouette`."""
    ridge_correct: npt.NDArray[np.bool_]
    """[L, M]: whether ridge regression fitted without the row gives the row its label."""
    last_is_normed: bool
    """The last layer alone has passed the final norm (norm state `as_returned`): see
    `find_inflection_points`."""


@dataclass(frozen=True)
class LayerChoice:
    rule: Rule
    layer: int
    confidence: float
    """0–1: the share of resampled training rows for which the rule picks this layer or one whose ridge
    leave-one-out accuracy is within noise of it. Scores without rows of their own (LogME) stay as they are
    when rows are drawn."""
    reason: str
    """For people: what was compared and why this one."""
    score: float
    """Ridge leave-one-out accuracy of the layer, 0–1: the same for every rule, so that choices of different
    poolings and norm states can be compared."""


@dataclass(frozen=True)
class _Noise:
    silhouette: CurveNoise
    ridge: FloatArray
    """Covariance of the errors of the ridge accuracies, float64 [L, L]."""
    one_row: float
    """What one row is worth in ridge accuracy, and half of that for rounding: one row's difference is chance."""

    @cached_property
    def paired_ridge(self) -> FloatArray:
        """float64 [L, L]: `paired_errors`."""
        return paired_errors(self.ridge)


@dataclass(frozen=True)
class _Curves:
    """One draw of the rows: the curves that rules read."""

    metric: str
    silhouette: FloatArray
    ridge: FloatArray
    criteria: Mapping[str, FloatArray]
    noise: _Noise
    last_is_normed: bool

    def ranking(self, rule: Rule) -> FloatArray:
        scores = {**self.criteria, "silhouette": self.silhouette, "ridge_loo": self.ridge}
        return scores[_RANKED_BY[rule]]

    @cached_property
    def shape(self) -> CurveShape:
        """Of the silhouette; several rules read it."""
        return curve_shape(self.silhouette, self.noise.silhouette, last_is_normed=self.last_is_normed)


@dataclass(frozen=True)
class _Pick:
    layer: int
    candidates: tuple[int, ...]
    tied: tuple[int, ...]
    """The other candidates of the tie, the best of them included."""
    best: int


def choose_layers(
    evidence: LayerEvidence, rules: Sequence[Rule] = tuple(Rule), *, seed: int = 0
) -> list[LayerChoice]:
    """One layer a rule, 0 … L − 1, from train rows alone. Same evidence, rule and seed, same choice.

    The confidence redraws the rows 200 times: every curve gets normal errors with the covariance of its
    rows, which is what a bootstrap of many rows comes to, without reading them again. Silhouette and ridge
    rows are drawn independently. Raises ValueError if the evidence does not fit together or lacks what a
    rule reads.
    """
    curves = _read(evidence, rules, seed)
    redrawn = _redraw(curves, seed)
    choices = []
    for rule in rules:
        pick = _pick(curves, rule)
        choices.append(
            LayerChoice(
                rule=rule,
                layer=pick.layer,
                confidence=_confidence(curves, redrawn, rule, pick.layer),
                reason=_reason(curves, rule, pick),
                score=float(curves.ridge[pick.layer]),
            )
        )
    return choices


def _read(evidence: LayerEvidence, rules: Sequence[Rule], seed: int) -> _Curves:
    metric = next((name for name in _METRICS if name in evidence.silhouettes), None)
    if metric is None:
        raise ValueError(f"no silhouette among {sorted(evidence.silhouettes)}; one of {_METRICS} is needed")
    known = {"silhouette", "ridge_loo", *evidence.criteria}
    for rule in rules:
        if _RANKED_BY.get(rule, "silhouette") not in known:
            raise ValueError(
                f"rule {rule.value} reads the criterion {_RANKED_BY[rule]}; there are {sorted(evidence.criteria)}"
            )
    criteria = {name: np.asarray(score, dtype=np.float64) for name, score in evidence.criteria.items()}
    silhouette, influence = evidence.silhouettes[metric]
    ridge = np.asarray(evidence.ridge_correct)
    lengths = {len(each) for each in (silhouette, influence, ridge, *criteria.values())}
    if len(lengths) != 1:
        raise ValueError(
            f"silhouette, influence, ridge_correct and criteria differ in layers: {sorted(lengths)}"
        )
    return _Curves(
        metric=metric,
        silhouette=np.asarray(silhouette, dtype=np.float64),
        ridge=ridge.mean(axis=1),
        criteria=criteria,
        noise=_Noise(curve_noise(influence, seed=seed), error_covariance(ridge), 1.5 / ridge.shape[1]),
        last_is_normed=evidence.last_is_normed,
    )


def _redraw(curves: _Curves, seed: int) -> list[_Curves]:
    rng = np.random.default_rng(seed)
    silhouettes = curves.silhouette + draw_errors(curves.noise.silhouette.covariance, _RESAMPLES, rng)
    ridges = curves.ridge + draw_errors(curves.noise.ridge, _RESAMPLES, rng)
    return [
        replace(curves, silhouette=silhouette, ridge=ridge)
        for silhouette, ridge in zip(silhouettes, ridges, strict=True)
    ]


def _pick(curves: _Curves, rule: Rule) -> _Pick:
    last = len(curves.ridge) - 1
    if rule is Rule.LAST_LAYER:
        return _Pick(last, (), (), last)
    if rule is Rule.MIDDLE_LAYER:
        return _Pick(last // 2, (), (), last // 2)
    if rule in _OF_ALL_LAYERS:
        return _highest(curves.ranking(rule), range(last + 1))
    shape, noise = curves.shape, curves.noise
    if rule is Rule.LAST_TURN:
        turns = tuple(point.layer for point in shape.points)
        layer = turns[-1] if turns else last
        return _Pick(layer, turns, (), layer)
    # Where the last layer is not comparable with the rest, the trend has an end of its own.
    ends = {0, shape.trend[-1].to_layer if shape.trend else 0, last}
    peaks_only = rule is Rule.SILHOUETTE_PEAK
    inner = {point.layer for point in shape.points if point.kind is Kind.PEAK or not peaks_only}
    pick = _highest(curves.ranking(rule), sorted(inner | ends))
    if rule is Rule.SILHOUETTE_PEAK:
        return _resolve(pick, curves.silhouette, _WITHIN_NOISE * noise.silhouette.paired[pick.best], -1)
    if rule is Rule.TURNS_BY_RIDGE_LOO:
        tolerance = np.maximum(TIE * noise.paired_ridge[pick.best], noise.one_row)
        return _resolve(pick, curves.ridge, tolerance, 0)
    return pick


def _highest(scores: FloatArray, candidates: Sequence[int]) -> _Pick:
    """The candidate with the highest score, the shallowest of exact equals."""
    best = max(candidates, key=lambda layer: (scores[layer], -layer))
    return _Pick(best, tuple(candidates), (), best)


def _resolve(pick: _Pick, scores: FloatArray, tolerance: FloatArray, place: int) -> _Pick:
    """Of the candidates that fall short of the best by no more than the tolerance [L], the one at this
    place."""
    tied = [layer for layer in pick.candidates if scores[pick.best] - scores[layer] <= tolerance[layer]]
    layer = tied.pop(place)
    return replace(pick, layer=layer, tied=tuple(tied))


def _confidence(curves: _Curves, redrawn: list[_Curves], rule: Rule, layer: int) -> float:
    gaps = np.abs(curves.ridge - curves.ridge[layer])
    same = gaps <= _WITHIN_NOISE * curves.noise.paired_ridge[layer]
    return float(same[[_pick(draw, rule).layer for draw in redrawn]].mean())


def _reason(curves: _Curves, rule: Rule, pick: _Pick) -> str:
    last = len(curves.ridge) - 1
    if rule is Rule.LAST_LAYER:
        return f"Layer {last} is the last layer, the usual choice; nothing was compared."
    if rule is Rule.MIDDLE_LAYER:
        return f"Layer {pick.layer} is half of the depth of {last}; nothing was compared."
    silhouette = f"{curves.metric} silhouette"
    if rule is Rule.LAST_TURN:
        if not pick.candidates:
            return f"The {silhouette} has no inflection point, so the last layer, {last}, stays."
        return f"Layer {pick.layer} is the deepest inflection point of the {silhouette} ({_list(pick.candidates)})."
    scores = curves.ranking(rule)
    name = {
        "silhouette": silhouette,
        "ridge_loo": "ridge leave-one-out accuracy",
        "logme": "LogME",
        "whitened_silhouette": "macro-averaged share of rows with a positive silhouette in the whitened space",
    }[_RANKED_BY[rule]]
    among = f"both ends and the inflection points of the {silhouette} ({_list(pick.candidates)})"
    if rule is Rule.SILHOUETTE_PEAK:
        among = f"both ends and the peaks of the {silhouette} ({_list(pick.candidates)})"
    elif rule in _OF_ALL_LAYERS:
        among = f"all {last + 1} layers"
    value = f"{scores[pick.layer]:.3f}"
    if not pick.tied:
        return f"Layer {pick.layer} has the highest {name}, {value}, of {among}."
    place = "the highest"
    if pick.best != pick.layer:
        place = f"within noise of the highest, {scores[pick.best]:.3f} at layer {pick.best},"
    why = "the shallowest of a tie is the cheapest to run"
    if rule is Rule.SILHOUETTE_PEAK:
        why = "where silhouettes cannot tell, the deepest stands"
    return f"Layer {pick.layer} has a {name} of {value}, {place} of {among}. It ties with {_list(pick.tied)}; {why}."


def _list(layers: tuple[int, ...]) -> str:
    return ", ".join(str(layer) for layer in layers)
