"""The rules that pick one layer, a record each: candidates, what ranks them, how ties fall, and the words for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.choosing.expectation import Expectation
from tasks.choosing.inflection import CurveNoise, CurveShape, FloatArray, Kind, curve_shape, paired_errors
from tasks.measures import Measure
from tasks.numerics.cached_property import cached_property

TIE = 1.0
"""Candidates tie with the best where their ridge accuracy falls short of its by no more paired standard
errors than this: one, the rule of Breiman, Friedman, Olshen and Stone (1984, section 3.4.3). docs/study.md
lays other widths beside it."""

WITHIN_NOISE = 1.96


@dataclass(frozen=True)
class Noise:
    """What the chance of the rows does to the curves; redrawn curves share it."""

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
class Curves:
    """One draw of the train rows: the curves [L] that rules read."""

    metric: str
    silhouette: FloatArray
    ridge: FloatArray
    """Ridge leave-one-out accuracies."""
    criteria: Mapping[str, FloatArray]
    expectation: Expectation
    depth_price: float
    """Accuracy, a fraction, that all blocks of the model have to be worth."""
    noise: Noise
    last_is_normed: bool
    measure: Measure
    """What the values of `expectation` are."""
    constant: npt.NDArray[np.bool_]
    """[L]: every train row has the same embedding there, which tells no texts apart."""
    is_cut: bool = False
    """The model has deeper layers, which were not run."""

    @property
    def last(self) -> int:
        """The last layer, or the deepest that was run."""
        return len(self.ridge) - 1

    @property
    def last_name(self) -> str:
        """What that layer is of the model's."""
        return "deepest layer run" if self.is_cut else "last layer"

    @cached_property
    def scores(self) -> Mapping[str, FloatArray]:
        """All that can rank layers, by name; of `depth` the deepest is the highest."""
        depth = np.arange(self.last + 1.0)
        own = {
            "silhouette": self.silhouette,
            "ridge_loo": self.ridge,
            "depth": depth,
            "priced_accuracy": self.expectation.mean - self.depth_price * depth / max(self.last, 1),
        }
        return {**self.criteria, **own}

    @cached_property
    def shape(self) -> CurveShape:
        """Of the silhouette; several rules read it."""
        return curve_shape(self.silhouette, self.noise.silhouette, last_is_normed=self.last_is_normed)


@dataclass(frozen=True)
class Pick:
    """What a rule makes of one draw."""

    layer: int
    candidates: tuple[int, ...]
    best: int
    """The candidate with the highest score, the shallowest of exact equals."""
    tied: tuple[int, ...] = ()
    """The other candidates of the tie, the best of them included."""


@dataclass(frozen=True)
class Candidates:
    """Which layers a rule chooses among, and how that is told: `{layers}`, `{count}` and `{silhouette}` are filled."""

    layers: Callable[[Curves], Sequence[int]]
    words: str


@dataclass(frozen=True)
class Tie:
    """Candidates that fall short of the best by no more than a tolerance are as good as it, and one is taken."""

    tolerance: Callable[[Curves, int], FloatArray]
    """[L], of the scores, given the best candidate."""
    place: int
    """Which of them, by depth: 0 the shallowest, -1 the deepest."""
    why: str


@dataclass(frozen=True)
class Rule:
    """How one layer is picked."""

    name: str
    candidates: Candidates
    ranked_by: str
    """`silhouette`, `depth`, or the name of a criterion."""
    ranking: str
    """The words for it; `{silhouette}` is filled."""
    tie: Tie | None = None
    told: "Callable[[Rule, Curves, Pick], str] | None" = None
    """Its reason in words of its own, where nothing is compared."""

    def pick(self, curves: Curves) -> Pick:
        """The layer of the candidates with the highest score; of a tie the one that the rule takes."""
        scores = curves.scores[self.ranked_by]
        offered = tuple(self.candidates.layers(curves))
        candidates = tuple(layer for layer in offered if not curves.constant[layer]) or offered
        best = max(candidates, key=lambda layer: (scores[layer], -layer))
        if self.tie is None:
            return Pick(best, candidates, best)
        tolerance = self.tie.tolerance(curves, best)
        tied = [layer for layer in candidates if scores[best] - scores[layer] <= tolerance[layer]]
        layer = tied.pop(self.tie.place)
        return Pick(layer, candidates, best, tuple(tied))

    def reason(self, curves: Curves, pick: Pick) -> str:
        """What was compared and why this layer, for people."""
        if self.told is not None:
            return self.told(self, curves, pick)
        silhouette, scores = f"{curves.metric} silhouette", curves.scores[self.ranked_by]
        name = self.ranking.format(silhouette=silhouette)
        among = self.candidates.words.format(
            layers=_list(pick.candidates), count=curves.last + 1, silhouette=silhouette
        )
        value = f"{scores[pick.layer]:.3f}"
        if self.tie is None or not pick.tied:
            return f"Layer {pick.layer} has the highest {name}, {value}, of {among}."
        place = "the highest"
        if pick.best != pick.layer:
            place = f"within noise of the highest, {scores[pick.best]:.3f} at layer {pick.best},"
        return (
            f"Layer {pick.layer} has a {name} of {value}, {place} of {among}. It ties with {_list(pick.tied)}; "
            f"{self.tie.why}."
        )


def _list(layers: Sequence[int]) -> str:
    return ", ".join(str(layer) for layer in layers)


# Candidates


def _with_ends(curves: Curves, inner: set[int]) -> list[int]:
    # Where the last layer is not comparable with the rest, the trend has an end of its own.
    ends = {0, curves.shape.trend[-1].to_layer if curves.shape.trend else 0, curves.last}
    return sorted(inner | ends)


TURNS = Candidates(
    lambda curves: _with_ends(curves, {point.layer for point in curves.shape.points}),
    "both ends and the inflection points of the {silhouette} ({layers})",
)
PEAKS = Candidates(
    lambda curves: _with_ends(
        curves, {point.layer for point in curves.shape.points if point.kind is Kind.PEAK}
    ),
    "both ends and the peaks of the {silhouette} ({layers})",
)
EVERY_LAYER = Candidates(lambda curves: range(curves.last + 1), "all {count} layers")
TURNS_OR_LAST = Candidates(
    lambda curves: [point.layer for point in curves.shape.points] or [curves.last],
    "the inflection points of the {silhouette} ({layers})",
)
HALF_DEPTH = Candidates(lambda curves: [curves.last // 2], "half of the depth")
LAST = Candidates(lambda curves: [curves.last], "the deepest layer")

# Ties

SHALLOWEST_WITHIN_AN_ERROR = Tie(
    lambda curves, best: np.maximum(TIE * curves.noise.paired_ridge[best], curves.noise.one_row),
    0,
    "the shallowest of a tie is the cheapest to run",
)
DEEPEST_WITHIN_NOISE = Tie(
    lambda curves, best: WITHIN_NOISE * curves.noise.silhouette.paired[best],
    -1,
    "where silhouettes cannot tell, the deepest stands",
)

# Words where nothing is compared


def _told_last_turn(rule: Rule, curves: Curves, pick: Pick) -> str:
    silhouette = f"{curves.metric} silhouette"
    if not curves.shape.points:
        return f"The {silhouette} has no inflection point, so the {curves.last_name}, {pick.layer}, stays."
    return (
        f"Layer {pick.layer} is the deepest inflection point of the {silhouette} ({_list(pick.candidates)})."
    )


def _told_middle(rule: Rule, curves: Curves, pick: Pick) -> str:
    depth = f"blocks run, {curves.last}" if curves.is_cut else f"depth of {curves.last}"
    return f"Layer {pick.layer} is half of the {depth}; nothing was compared."


def _told_last(rule: Rule, curves: Curves, pick: Pick) -> str:
    usual = "" if curves.is_cut else ", the usual choice"
    return f"Layer {pick.layer} is the {curves.last_name}{usual}; nothing was compared."


def _told_expected(rule: Rule, curves: Curves, pick: Pick) -> str:
    expected = curves.expectation.mean
    among = rule.candidates.words.format(count=curves.last + 1)
    name, by = curves.measure.name, f"by the left-out {curves.measure.loss} of ridge regression"
    best = max(pick.candidates, key=lambda layer: (expected[layer], -layer))
    if pick.layer == best:
        return f"Layer {best} has the highest expected {name}, {expected[best]:.3f}, of {among}, {by}."
    short = 100 * (expected[best] - expected[pick.layer])
    blocks = best - pick.layer
    return (
        f"Layer {pick.layer} has an expected {name} of {expected[pick.layer]:.3f} {by}, {short:.2f} points below the "
        f"highest of {among}, layer {best}: {blocks} more block{'s' if blocks > 1 else ''} would not be worth it at "
        f"{100 * curves.depth_price:g} points for all {curves.last}."
    )


_RIDGE = "ridge leave-one-out accuracy"
_WHITENED = "macro-averaged share of rows with a positive silhouette in the whitened space"

DEFAULT_RULE = "expected_accuracy"

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(DEFAULT_RULE, EVERY_LAYER, "priced_accuracy", "expected accuracy", told=_told_expected),
        # The default of version 0.1.
        Rule("turns_by_ridge_loo", TURNS, "ridge_loo", _RIDGE, SHALLOWEST_WITHIN_AN_ERROR),
        Rule("turns_by_logme", TURNS, "logme", "LogME"),
        # Nothing but silhouettes.
        Rule("turns_by_whitened_silhouette", TURNS, "whitened_silhouette", _WHITENED),
        # Nothing but silhouettes either; where they cannot tell, the usual choice stands.
        Rule("silhouette_peak", PEAKS, "silhouette", "{silhouette}", DEEPEST_WITHIN_NOISE),
        Rule("last_turn", TURNS_OR_LAST, "depth", "depth", told=_told_last_turn),
        # A maximum has no ties.
        Rule("ridge_loo_maximum", EVERY_LAYER, "ridge_loo", _RIDGE),
        Rule("logme_maximum", EVERY_LAYER, "logme", "LogME"),
        Rule("silhouette_maximum", EVERY_LAYER, "silhouette", "{silhouette}"),
        # What a rule has to beat. The probe's own cross-validation costs most, and is what others stand in for.
        Rule(
            "cross_validation",
            EVERY_LAYER,
            "held_out_accuracy",
            "accuracy of the probe on held-out train rows",
        ),
        Rule("loes_maximum", EVERY_LAYER, "loes", "LOES score"),
        Rule("middle_layer", HALF_DEPTH, "depth", "depth", told=_told_middle),
        Rule("last_layer", LAST, "depth", "depth", told=_told_last),
    )
}
