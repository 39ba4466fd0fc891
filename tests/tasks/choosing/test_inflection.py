"""Planted curves, the paper's shapes, and a slow reference of what counts as a real move."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.choosing.inflection import (
    SMALLEST_KNEE,
    SMALLEST_TURN,
    Direction,
    Kind,
    curve_noise,
    draw_errors,
    error_covariance,
    find_inflection_points,
    paired_errors,
)


def planted(stops, layers=29):
    """A curve through (layer, value) stops, straight in between."""
    at, values = zip(*stops, strict=True)
    return np.interp(np.arange(layers), at, values)


def noiseless(values):
    return np.zeros((len(values), 1))


def rows_around(values, rng, rows=2000, own=0.02, shared=0.3):
    """Influence whose mean is the curve plus chance: a large part of the noise is shared by all layers."""
    common = shared * rng.standard_normal(rows)
    influence = values[:, None] + common + own * rng.standard_normal((len(values), rows))
    return influence.mean(axis=1), influence


def shape_of(values, influence=None, **options):
    return find_inflection_points(values, noiseless(values) if influence is None else influence, **options)


def kinds(shape):
    return [(point.layer, point.kind) for point in shape.points]


# The paper's Table 1, as curves whose trend and inflection points are those that it names.
PAPER = {
    "Qwen3-1.7B, Emotion": ([(0, 0.70), (1, 0.79), (24, 0.50), (28, 0.55)], [1, 24], Direction.DOWN),
    "Qwen3-1.7B, AG News": (
        [(0, 0.5), (2, 0.7), (6, 0.55), (10, 0.8), (16, 0.5), (22, 0.75), (28, 0.55)],
        [2, 6, 10, 16, 22],
        Direction.FLAT,
    ),
    "LLaMA-3.2-1B, Emotion": ([(0, 0.65), (1, 0.756), (5, 0.5), (16, 0.3)], [1, 5], Direction.DOWN),
    "LLaMA-3.2-1B, AG News": ([(0, 0.2), (12, 0.9), (14, 0.75), (16, 0.85)], [12, 14], Direction.UP),
}


@pytest.mark.parametrize("name", PAPER)
def test_shapes_of_the_paper(name):
    stops, layers, direction = PAPER[name]
    values, influence = rows_around(planted(stops, stops[-1][0] + 1), np.random.default_rng(7))
    shape = shape_of(values, influence)
    assert [point.layer for point in shape.points] == layers
    assert shape.direction is direction
    assert all(point.strength > 3 for point in shape.points)


def test_peaks_of_ag_news_are_peaks():
    shape = shape_of(planted(PAPER["Qwen3-1.7B, AG News"][0]))
    assert [layer for layer, kind in kinds(shape) if kind is Kind.PEAK] == [2, 10, 22]
    assert [layer for layer, kind in kinds(shape) if kind is Kind.TROUGH] == [6, 16]


def test_changes_are_shares_of_the_range():
    # Range 2 (−1 … 1), so the peak of 1 stands 1.5 above its lower side: 0.75. Zero is crossed on the way.
    shape = shape_of(planted([(0, -0.5), (4, 1.0), (8, -1.0)], layers=9))
    (point,) = shape.points
    assert (point.layer, point.kind) == (4, Kind.PEAK)
    assert point.relative_change == pytest.approx(0.75)
    assert [segment.relative_change for segment in shape.trend] == pytest.approx([0.75, -1.0])
    assert [segment.direction for segment in shape.trend] == [Direction.UP, Direction.DOWN]
    (trough,) = shape_of(-planted([(0, -0.5), (4, 1.0), (8, -1.0)], layers=9)).points
    assert (trough.kind, trough.relative_change) == (Kind.TROUGH, pytest.approx(-0.75))


def test_knees_break_the_slope_without_turning():
    shape = shape_of(planted([(0, 1.0), (3, 0.2), (28, 0.0)]))
    assert kinds(shape) == [(3, Kind.KNEE)]
    assert shape.points[0].relative_change < -SMALLEST_KNEE
    assert [segment.direction for segment in shape.trend] == [Direction.DOWN, Direction.DOWN]
    shape = shape_of(planted([(0, 0.0), (5, 1.0), (28, 1.0)]))
    assert kinds(shape) == [(5, Kind.KNEE)]
    assert shape.points[0].relative_change > SMALLEST_KNEE
    assert [segment.direction for segment in shape.trend] == [Direction.UP, Direction.FLAT]


def test_straight_line_has_no_point():
    shape = shape_of(np.linspace(0.1, 0.4, 25))
    assert shape.points == ()
    assert [(s.from_layer, s.to_layer, s.direction) for s in shape.trend] == [(0, 24, Direction.UP)]
    assert shape.direction is Direction.UP


def test_ripples_are_no_turns_even_without_noise():
    ripple = 0.3 * SMALLEST_TURN * (-1.0) ** np.arange(29)
    assert kinds(shape_of(planted([(0, 0.0), (14, 1.0), (28, 0.0)]) + ripple)) == [(14, Kind.PEAK)]


def test_noise_makes_no_turn():
    """A flat curve's own chance: at most about 5 % of curves may show any point."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(60):
        values, influence = rows_around(np.full(25, 0.2), rng, rows=300, own=0.3)
        shape = shape_of(values, influence)
        wrong += bool(shape.points)
        if not shape.points:
            assert [segment.direction for segment in shape.trend] == [Direction.FLAT]
    assert wrong <= 7


def test_the_same_turn_with_fewer_rows_is_noise():
    rng = np.random.default_rng(5)
    curve = planted([(0, 0.2), (14, 0.25), (28, 0.2)])
    many = shape_of(*rows_around(curve, rng, rows=20_000, own=0.3))
    few = shape_of(*rows_around(curve, rng, rows=100, own=0.3))
    assert [point.kind for point in many.points] == [Kind.PEAK]
    assert abs(many.points[0].layer - 14) <= 3
    assert few.points == ()


def test_noise_shared_by_all_layers_hides_nothing():
    """Rows differ by far more than layers do; only paired errors see the turn."""
    values, influence = rows_around(
        planted([(0, 0.2), (14, 0.25), (28, 0.2)]), np.random.default_rng(1), rows=400, shared=5.0, own=0.01
    )
    assert kinds(shape_of(values, influence)) == [(14, Kind.PEAK)]


def test_jump_of_the_final_norm_is_left_out():
    falling = planted([(0, 0.3), (2, 0.5), (28, 0.1)])
    falling[28] = 0.9
    honest = shape_of(falling, last_is_normed=True)
    assert kinds(honest) == [(2, Kind.PEAK)]
    assert honest.trend[-1].to_layer == 27
    assert honest.points[0].relative_change == pytest.approx(0.2 / np.ptp(falling[:28]))
    naive = shape_of(falling)
    assert (27, Kind.TROUGH) in kinds(naive)


def test_lowest_layer_of_equals_is_the_turn():
    assert kinds(shape_of(np.array([0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])))[0] == (2, Kind.PEAK)


@pytest.mark.parametrize(
    ("values", "segments"),
    [
        ([0.3], []),
        ([0.3, 0.3], [Direction.FLAT]),
        ([0.3, 0.4], [Direction.UP]),
        ([0.2] * 5, [Direction.FLAT]),
    ],
)
def test_short_and_constant_curves(values, segments):
    shape = shape_of(np.array(values))
    assert shape.points == ()
    assert [segment.direction for segment in shape.trend] == segments


def test_one_block_keeps_its_last_value():
    assert shape_of(np.array([0.1, 0.5]), last_is_normed=True).trend[0].to_layer == 1


def test_rounding_in_equal_layers_is_not_a_move():
    influence = np.tile(np.random.default_rng(0).random(50), (6, 1))
    values = influence.mean(axis=1) + np.array([0, 1e-17, 0, 1e-16, 0, 0])
    assert shape_of(values, influence).points == ()


@pytest.mark.parametrize(
    ("values", "influence", "message"),
    [
        (np.zeros(3), np.zeros((2, 5)), "not \\[L\\] and \\[L, N\\]"),
        (np.zeros((3, 1)), np.zeros((3, 5)), "not \\[L\\] and \\[L, N\\]"),
        (np.zeros(3), np.zeros((3, 0)), "not \\[L\\] and \\[L, N\\]"),
        (np.array([0.0, np.nan, 0.0]), np.zeros((3, 5)), "values of layer 1"),
        (np.zeros(3), np.array([[0.0], [0.0], [np.inf]]), "influence of layer 2"),
    ],
)
def test_bad_input_is_named(values, influence, message):
    with pytest.raises(ValueError, match=message):
        find_inflection_points(values, influence)


def test_paired_errors_are_those_of_the_differences():
    influence = np.random.default_rng(2).random((5, 40)) + np.linspace(0, 3, 40)
    slow = [[np.std(a - b) / 40**0.5 for b in influence] for a in influence]
    np.testing.assert_allclose(paired_errors(error_covariance(influence)), slow, atol=1e-9)


def test_critical_value_is_the_quantile_of_the_largest_difference():
    """Against drawing whole sets of rows anew from a flat curve."""
    rng = np.random.default_rng(4)
    mix = rng.standard_normal((6, 6))
    largest = []
    for _ in range(1500):
        influence = mix @ rng.standard_normal((6, 60))
        means, errors = influence.mean(axis=1), paired_errors(error_covariance(influence))
        largest.append(
            max(abs(means[i] - means[j]) / errors[i, j] for i, j in itertools.combinations(range(6), 2))
        )
    critical = curve_noise(mix @ rng.standard_normal((6, 60))).critical
    assert critical == pytest.approx(np.quantile(largest, 0.95), abs=0.3)


def test_drawn_errors_have_the_covariance():
    influence = np.random.default_rng(2).random((4, 40))
    influence[3] = influence[1]
    covariance = error_covariance(influence)
    draws = draw_errors(covariance, 40_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.05 * covariance.max())
    np.testing.assert_allclose(draws[:, 3], draws[:, 1], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=14), st.integers(0, 2**16))
def test_every_shape_is_sound(steps, seed):
    """What any shape owes: gapless, alternating, each turn real on both sides by a plain recount, repeatable."""
    values, influence = rows_around(np.cumsum(steps) / 20, np.random.default_rng(seed), rows=80, own=0.5)
    shape = shape_of(values, influence)
    assert shape == shape_of(values, influence)
    stops = [0, *(point.layer for point in shape.points), len(values) - 1]
    assert [(s.from_layer, s.to_layer) for s in shape.trend] == list(itertools.pairwise(stops))
    assert all(a < b for a, b in itertools.pairwise(stops))
    turns = [point for point in shape.points if point.kind is not Kind.KNEE]
    assert all(a.kind is not b.kind for a, b in itertools.pairwise(turns))
    critical, reach = curve_noise(influence).critical, np.ptp(values)
    ends = [0, *(turn.layer for turn in turns), len(values) - 1]
    for turn, before, after in zip(turns, ends[:-2], ends[2:], strict=True):
        sign = 1 if turn.kind is Kind.PEAK else -1
        for side in (range(before, turn.layer), range(turn.layer + 1, after + 1)):
            far = min(side, key=lambda layer: sign * values[layer])
            drop = sign * (values[turn.layer] - values[far])
            error = np.std(influence[turn.layer] - influence[far]) / 80**0.5
            assert drop >= SMALLEST_TURN * reach * (1 - 1e-9)
            assert drop / error >= turn.strength * (1 - 1e-6)
        # The curve is never farther out between its neighbours than at the turn.
        assert sign * values[turn.layer] >= max(sign * values[before + 1 : after]) - 1e-12
    knees = [point for point in shape.points if point.kind is Kind.KNEE]
    assert all(knee.strength >= critical and abs(knee.relative_change) >= SMALLEST_KNEE for knee in knees)
    assert all(abs(point.relative_change) <= 1 + 1e-9 for point in shape.points)
