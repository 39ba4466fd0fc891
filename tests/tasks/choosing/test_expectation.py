"""What is expected of each layer, against drawing the rows anew."""

import numpy as np
import pytest
from scipy.special import expit, logit

from tasks.choosing import expectation
from tasks.choosing.expectation import ACCURACY_PER_ERROR, NEAR, SURENESS, Expectation

LAYERS, ROWS = 6, 800


def seen(gaps, seed=0, noise=0.3):
    """Squared errors [L, M] whose means differ by `gaps`, paired by the rows' own difficulty, and hits [L, M]."""
    rng = np.random.default_rng(seed)
    errors = (
        rng.gamma(2.0, 0.2, ROWS) + noise * rng.standard_normal((LAYERS, ROWS)) + np.asarray(gaps)[:, None]
    )
    return errors, errors < 0.6


def test_differences_are_those_of_the_squared_error_and_the_level_that_of_the_hits():
    errors, correct = seen(np.linspace(0.05, 0.0, LAYERS))
    got = Expectation.of(errors, correct)
    means = errors.mean(axis=1)
    assert got.mean[means.argmin()] == correct[means.argmin()].mean()
    np.testing.assert_allclose(got.mean - got.mean[0], -ACCURACY_PER_ERROR * (means - means[0]), atol=1e-12)


def test_chance_and_regret_are_those_of_rows_drawn_anew():
    errors, correct = seen([0.03, 0.01, 0.004, 0.0, 0.02, 0.05])
    got = Expectation.of(errors, correct)
    rng = np.random.default_rng(1)
    drawn = np.stack([errors[:, rng.integers(0, ROWS, ROWS)].mean(axis=1) for _ in range(4_000)])
    accuracy = -ACCURACY_PER_ERROR * drawn
    short = accuracy.max(axis=1, keepdims=True) - accuracy
    a, b = SURENESS
    for layer in range(LAYERS):
        chance = np.clip((short[:, layer] <= NEAR).mean(), 0.01, 0.99)
        assert got.confidence(layer) == pytest.approx(expit(a + b * logit(chance)), abs=0.03)
        expected = expectation.REGRET_PER_REGRET * short[:, layer].mean()
        assert got.regret(layer) == pytest.approx(expected, rel=0.06)


def test_more_rows_make_the_better_layer_surer():
    errors, correct = seen([0.02, 0.0, 0.02, 0.02, 0.02, 0.02])
    few, many = (
        Expectation.of(errors[:, :100], correct[:, :100]),
        Expectation.of(np.tile(errors, 9), np.tile(correct, 9)),
    )
    best = int(errors.mean(axis=1).argmin())
    assert many.confidence(best) > few.confidence(best)
    assert many.regret(best) < few.regret(best)


def test_equal_layers_are_equally_good_and_a_layer_alone_has_no_regret():
    errors, correct = seen(np.zeros(LAYERS))
    same = Expectation.of(np.tile(errors[:1], (LAYERS, 1)), np.tile(correct[:1], (LAYERS, 1)))
    assert [same.regret(layer) for layer in range(LAYERS)] == pytest.approx([0.0] * LAYERS, abs=1e-9)
    assert len({same.confidence(layer) for layer in range(LAYERS)}) == 1
    assert Expectation.of(errors[:1], correct[:1]).regret(0) == 0.0
    assert got_twice(errors, correct)


def got_twice(errors, correct):
    """Same rows and seed, same numbers."""
    return Expectation.of(errors, correct).confidence(2) == Expectation.of(errors, correct).confidence(2)
