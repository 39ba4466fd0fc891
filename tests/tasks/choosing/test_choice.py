"""Rules on planted evidence, and how ties fall."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tasks.choosing.choice import LayerEvidence, choose_layers
from tasks.choosing.inflection import measure_curve
from tasks.choosing.rules import DEFAULT_RULE, RULES

LAYERS, ROWS = 25, 1500
OWN_SCORES = ("logme", "whitened_silhouette", "held_out_accuracy", "loes")


def planted(silhouette, accuracy, *, seed=0, rows=ROWS):
    """Influence [L, rows] and hits [L, rows] around planted curves; a row is right in all layers whose accuracy exceeds
    its own difficulty, and flips in 4 % of cases, so that layers are as strongly paired as real ones."""
    rng = np.random.default_rng(seed)
    silhouette, accuracy = np.asarray(silhouette, dtype=float), np.asarray(accuracy, dtype=float)
    shared = 0.3 * rng.standard_normal(rows)
    influence = silhouette[:, None] + shared + 0.05 * rng.standard_normal((len(silhouette), rows))
    correct = rng.random(rows) < accuracy[:, None]
    correct ^= rng.random(correct.shape) < 0.04
    return influence, correct


def evidence(
    silhouette, accuracy, *, seed=0, rows=ROWS, last_is_normed=False, metric="cosine", **criteria: np.ndarray
):
    """What a rule sees of planted curves."""
    influence, correct = planted(silhouette, accuracy, seed=seed, rows=rows)
    measured = measure_curve(influence.mean(axis=1), influence, last_is_normed=last_is_normed)
    return of_hits({metric: measured}, correct, last_is_normed, **criteria)


def of_hits(silhouettes, correct, last_is_normed=False, **criteria):
    """The loss is 1 where a row was missed; the left-out information follows the hits."""
    scores = {"ridge_loo_information": 2 * correct.mean(axis=1) - 1} | criteria
    scores = {name: np.asarray(score, dtype=float) for name, score in scores.items()}
    return LayerEvidence(silhouettes, scores, correct, 1.0 - correct, last_is_normed)


def choose_layer(given, rule=DEFAULT_RULE):
    return choose_layers(given, (rule,))[0]


def through(*stops):
    at, values = zip(*stops, strict=True)
    return np.interp(np.arange(LAYERS), at, values)


# Peaks at 6 (high) and 18 (low), trough at 12; accuracy is best at 15, which is no turn, and of the turns at 18.
TWO_PEAKS = through((0, 0.1), (6, 0.6), (12, 0.2), (18, 0.4), (24, 0.0))
BEST_AT_15 = through((0, 0.5), (6, 0.6), (12, 0.65), (15, 0.92), (18, 0.8), (24, 0.6))


TURNS = "both ends and the inflection points of the cosine silhouette (0, 6, 12, 18, 24)"
WHITENED = "macro-averaged share of rows with a positive silhouette in the whitened space"


@pytest.mark.parametrize(
    ("rule", "layer", "reason"),
    [
        (
            "expected_accuracy",
            15,
            "has the highest expected accuracy, {ridge}, of all 25 layers, by the left-out log loss of ridge "
            "regression.",
        ),
        ("turns_by_ridge_loo", 18, f"has the highest ridge leave-one-out accuracy, {{ridge}}, of {TURNS}."),
        ("turns_by_logme", 12, f"has the highest LogME, {{logme}}, of {TURNS}."),
        ("turns_by_whitened_silhouette", 6, f"has the highest {WHITENED}, {{whitened}}, of {TURNS}."),
        (
            "silhouette_peak",
            6,
            "has the highest cosine silhouette, {silhouette}, of both ends and the peaks of the cosine silhouette "
            "(0, 6, 18, 24).",
        ),
        ("last_turn", 18, "is the deepest inflection point of the cosine silhouette (6, 12, 18)."),
        (
            "ridge_loo_maximum",
            15,
            "has the highest ridge leave-one-out accuracy, {ridge}, of all 25 layers.",
        ),
        ("logme_maximum", 14, "has the highest LogME, {logme}, of all 25 layers."),
        ("silhouette_maximum", 6, "has the highest cosine silhouette, {silhouette}, of all 25 layers."),
        (
            "cross_validation",
            3,
            "has the highest accuracy of the probe on held-out train rows, {held_out}, of all 25 layers.",
        ),
        ("loes_maximum", 4, "has the highest LOES score, {loes}, of all 25 layers."),
        ("middle_layer", 12, "is half of the depth of 24; nothing was compared."),
        ("last_layer", 24, "is the last layer, the usual choice; nothing was compared."),
    ],
)
def test_every_rule_on_a_planted_curve(rule, layer, reason):
    scores = {
        "logme": through((0, 0), (14, 1), (24, 0)),
        "whitened_silhouette": through((0, 0), (5, 1), (24, 0)),
        "held_out_accuracy": through((0, 0), (3, 1), (24, 0)),
        "loes": through((0, 0), (4, 1), (24, 0)),
    }
    given = evidence(TWO_PEAKS, BEST_AT_15, **scores)
    choice = choose_layer(given, rule)
    assert (choice.rule, choice.layer) == (rule, layer)
    assert choice.score == given.criteria["ridge_loo_information"][layer]
    curves = {
        "ridge": given.ridge_correct.mean(axis=1),
        "logme": scores["logme"],
        "whitened": scores["whitened_silhouette"],
        "held_out": scores["held_out_accuracy"],
        "loes": scores["loes"],
        "silhouette": given.silhouettes["cosine"].values,
    }
    values = {name: f"{curve[layer]:.3f}" for name, curve in curves.items()}
    assert choice.reason == f"Layer {layer} {reason.format(**values)}"
    assert (choice.confidence > 0.5) == (layer == 15)
    assert choose_layer(given, rule) == choice


@pytest.mark.parametrize("best", [0, LAYERS - 1])
@pytest.mark.parametrize("last_is_normed", [True, False])
def test_both_ends_are_candidates(best, last_is_normed):
    accuracy = np.full(LAYERS, 0.5)
    accuracy[best] = 0.9
    given = evidence(TWO_PEAKS, accuracy, logme=accuracy, last_is_normed=last_is_normed)
    for rule in (DEFAULT_RULE, "turns_by_ridge_loo", "turns_by_logme"):
        assert choose_layer(given, rule).layer == best


@pytest.mark.parametrize(("layer", "found"), [(16, False), (17, False), (18, True), (19, False)])
def test_no_layer_but_turns_and_ends_is_a_candidate(layer, found):
    accuracy = np.full(LAYERS, 0.5)
    accuracy[layer] = 0.9
    assert (choose_layer(evidence(TWO_PEAKS, accuracy), "turns_by_ridge_loo").layer == layer) is found


def test_the_end_of_the_trend_is_a_candidate_beside_the_normed_last_layer():
    rising = through((0, 0.0), (24, 1.0))
    accuracy = np.full(LAYERS, 0.5)
    accuracy[LAYERS - 2] = 0.9
    normed = choose_layer(evidence(rising, accuracy, last_is_normed=True), "turns_by_ridge_loo")
    assert normed.layer == LAYERS - 2
    assert "(0, 23, 24)" in normed.reason
    assert choose_layer(evidence(rising, accuracy), "turns_by_ridge_loo").layer != LAYERS - 2


def turns_that_tie(better_by=1):
    """Ridge is equally right at the turns 6, 12 and 18 but for some rows at 18, and worse elsewhere."""
    given = evidence(TWO_PEAKS, np.full(LAYERS, 0.5))
    correct = given.ridge_correct.copy()
    correct[[6, 12, 18]] = correct[3] | (np.arange(ROWS) < 300)
    correct[18, np.flatnonzero(~correct[18])[:better_by]] = True
    return of_hits(given.silhouettes, correct)


def test_the_shallowest_of_a_tie_is_chosen_and_said():
    choice = choose_layer(turns_that_tie(), "turns_by_ridge_loo")
    assert choice.layer == 6
    assert "ties with 12, 18; the shallowest" in choice.reason
    assert choose_layer(turns_that_tie(), "ridge_loo_maximum").layer == 18


def test_of_a_tie_the_highest_is_called_so():
    given = turns_that_tie()
    given.ridge_correct[[6, 18]] = given.ridge_correct[[18, 6]]
    choice = choose_layer(given, "turns_by_ridge_loo")
    assert choice.layer == 6
    assert f"{given.ridge_correct[6].mean():.3f}, the highest of both ends" in choice.reason


def test_layer_beyond_noise_is_no_tie():
    choice = choose_layer(turns_that_tie(better_by=40), "turns_by_ridge_loo")
    assert choice.layer == 18
    assert "ties" not in choice.reason


@pytest.mark.parametrize(("gained", "lost", "layer"), [(20, 16, 6), (26, 16, 18)])
def test_a_tie_is_one_paired_standard_error_wide(gained, lost, layer):
    """4 rows of 36 that differ are two thirds of an error, 10 of 42 one and a half."""
    given = turns_that_tie(better_by=gained)
    given.ridge_correct[18, np.flatnonzero(given.ridge_correct[6])[:lost]] = False
    assert choose_layer(given, "turns_by_ridge_loo").layer == layer


def test_all_rules_at_once_choose_as_each_alone():
    given = evidence(TWO_PEAKS, BEST_AT_15, **dict.fromkeys(OWN_SCORES, BEST_AT_15))
    assert choose_layers(given) == [choose_layer(given, rule) for rule in RULES]


def test_where_silhouettes_cannot_tell_the_deepest_stands():
    rng = np.random.default_rng(0)
    influence = 0.2 + 0.3 * rng.standard_normal((LAYERS, 300))
    values = influence.mean(axis=1)
    values[0] += max(values) - values[0] + 0.001
    measured = measure_curve(values, influence)
    given = of_hits({"cosine": measured}, rng.random((LAYERS, 300)) < 0.5)
    choice = choose_layer(given, "silhouette_peak")
    assert choice.layer == LAYERS - 1
    assert "ties with 0; where silhouettes cannot tell" in choice.reason
    assert choose_layer(given, "silhouette_maximum").layer == 0


def test_no_turn_leaves_the_last_layer_to_last_turn():
    choice = choose_layer(evidence(np.full(LAYERS, 0.1), BEST_AT_15), "last_turn")
    assert choice.layer == LAYERS - 1
    assert "no inflection point" in choice.reason


def test_of_the_first_layers_alone_the_deepest_is_not_called_the_last():
    given = replace(evidence(np.full(LAYERS, 0.1), BEST_AT_15), is_cut=True)
    reasons = [
        ("last_layer", "Layer 24 is the deepest layer run; nothing was compared."),
        ("middle_layer", "Layer 12 is half of the blocks run, 24; nothing was compared."),
        ("last_turn", "The cosine silhouette has no inflection point, so the deepest layer run, 24, stays."),
    ]
    for rule, reason in reasons:
        assert choose_layer(given, rule).reason == reason


def test_false_turn_of_the_final_norm_is_not_chosen():
    falling = through((0, 0.5), (4, 0.7), (23, 0.1), (24, 0.9))
    assert choose_layer(evidence(falling, BEST_AT_15, last_is_normed=True), "last_turn").layer == 4
    assert choose_layer(evidence(falling, BEST_AT_15), "last_turn").layer == 23


def test_rows_of_silhouette_and_ridge_may_differ_in_number():
    given = evidence(TWO_PEAKS, BEST_AT_15)
    influence, _ = planted(TWO_PEAKS, BEST_AT_15)
    measured = measure_curve(given.silhouettes["cosine"].values, influence[:, :200])
    fewer = of_hits({"cosine": measured}, given.ridge_correct)
    assert choose_layer(fewer, "ridge_loo_maximum").layer == 15


def test_cosine_is_read_first_and_another_metric_where_it_is_missing():
    given = evidence(TWO_PEAKS, BEST_AT_15)
    other = evidence(through((0, 0), (5, 1), (24, 0)), BEST_AT_15, metric="euclidean")
    both = of_hits({**other.silhouettes, **given.silhouettes}, given.ridge_correct)
    assert choose_layer(both, "silhouette_maximum").layer == 6
    assert choose_layer(other, "silhouette_maximum").layer == 5
    assert "euclidean" in choose_layer(other, "silhouette_maximum").reason


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_shallow_models(rule, layers):
    scores = {name: np.arange(layers) for name in OWN_SCORES}
    silhouette, accuracy = np.linspace(0.1, 0.5, layers), np.linspace(0.4, 0.9, layers)
    given = evidence(silhouette, accuracy, last_is_normed=True, **scores)
    assert choose_layer(given, rule).layer == (0 if rule == "middle_layer" else layers - 1)


def test_a_layer_that_tells_no_texts_apart_is_chosen_only_where_there_is_no_other():
    accuracy = np.full(LAYERS, 0.5)
    accuracy[0] = 0.9
    given = evidence(TWO_PEAKS, accuracy, **dict.fromkeys(OWN_SCORES, accuracy))
    assert choose_layer(given).layer == 0
    first = np.arange(LAYERS) == 0
    for choice in choose_layers(replace(given, constant=first)):
        assert (choice.layer, choice.is_constant) != (0, True), choice.rule
        assert not choice.reason.startswith("Every text")
    for choice in choose_layers(replace(given, constant=np.ones(LAYERS, dtype=bool))):
        assert choice.is_constant
        assert choice.reason.startswith("Every text has the same embedding there")


def test_a_rule_whose_score_is_not_there_is_left_out():
    found = {choice.rule for choice in choose_layers(evidence(TWO_PEAKS, BEST_AT_15, logme=BEST_AT_15))}
    assert set(RULES) - found == {"turns_by_whitened_silhouette", "cross_validation", "loes_maximum"}


def test_evidence_that_does_not_fit_is_refused():
    given = evidence(TWO_PEAKS, BEST_AT_15)
    with pytest.raises(ValueError, match="reads the criterion logme"):
        choose_layer(given, "logme_maximum")
    with pytest.raises(ValueError, match="differ in layers: \\[5, 25\\]"):
        choose_layer(replace(given, ridge_correct=given.ridge_correct[:5]))
    with pytest.raises(ValueError, match="no silhouette among \\['dot'\\]"):
        choose_layer(replace(given, silhouettes={"dot": given.silhouettes["cosine"]}))
    with pytest.raises(ValueError, match="ridge_loo_information is not among the criteria \\[\\]"):
        choose_layer(replace(given, criteria={}))


@pytest.mark.parametrize(
    ("deep", "more"), [(20, "15 more blocks"), (7, "2 more blocks"), (6, "1 more block")]
)
def test_blocks_have_to_be_worth_their_price(deep, more):
    """The deep layer is better than layer 5 by 30 of 1,500 rows, two points; the loss is one where a row is missed."""
    correct = evidence(TWO_PEAKS, np.full(LAYERS, 0.5)).ridge_correct
    correct[5] = correct[3] | (np.arange(ROWS) < 600)
    correct[deep] = correct[5]
    correct[deep, np.flatnonzero(~correct[5])[:30]] = True
    given = of_hits(evidence(TWO_PEAKS, BEST_AT_15).silhouettes, correct)
    worth = 2.0 / ((deep - 5) / 24)
    free, paid, dear = (
        choose_layers(given, (DEFAULT_RULE,), depth_price=points / 100)[0]
        for points in (0, 0.95 * worth, 1.05 * worth)
    )
    assert (free.layer, paid.layer, dear.layer) == (deep, deep, 5)
    # A little of the two points is put down to noise.
    assert re.search(
        rf"1\.9\d points below the highest of all 25 layers, layer {deep}: {more} would not", dear.reason
    )
    assert f"at {1.05 * worth:g} points for all 24." in dear.reason
    assert dear.expected_regret > free.expected_regret
    assert dear.confidence < free.confidence
