"""What is expected of each layer, against drawing the rows anew."""

import numpy as np
import pytest
from scipy.special import expit, logit

from tasks.choosing.expectation import LEAST_WORTH, NEAR, SURENESS, Expectation

LAYERS, ROWS = 6, 800


def seen(gaps, seed=0, noise=0.3):
    """Squared errors [L, M] whose means differ by `gaps`, paired by the rows' own difficulty, and hits [L, M]."""
    rng = np.random.default_rng(seed)
    errors = (
        rng.gamma(2.0, 0.2, ROWS) + noise * rng.standard_normal((LAYERS, ROWS)) + np.asarray(gaps)[:, None]
    )
    return errors, errors < 0.6


def test_differences_are_those_of_the_loss_and_the_level_that_of_the_hits():
    errors, correct = seen(np.linspace(0.05, 0.0, LAYERS))
    got = Expectation.of(errors, correct)
    means, hits = errors.mean(axis=1), correct.mean(axis=1)
    assert got.mean[means.argmin()] == correct[means.argmin()].mean()
    # Least squares, layers near the top counting most, with as much noise added to the errors as they have.
    near = 2 * np.sqrt(correct.var(axis=1).mean() / ROWS)
    weight = np.exp(-(((hits.max() - hits) / near) ** 2) / 2) + 0.02
    middle = np.average(errors, axis=0, weights=weight)
    noise = ((errors - means[:, None]) - (middle - middle.mean())).var(axis=1) / ROWS
    centred = means - np.average(means, weights=weight)
    slope = (weight * centred * hits).sum() / (weight * (centred**2 + noise)).sum()
    assert slope < -LEAST_WORTH
    np.testing.assert_allclose(got.mean - got.mean[0], slope * (means - means[0]), atol=1e-12)


def test_hits_that_do_not_follow_the_errors_leave_the_least_worth():
    errors, correct = seen(np.linspace(0.05, 0.0, LAYERS))
    got = Expectation.of(errors, ~correct)
    means = errors.mean(axis=1)
    np.testing.assert_allclose(got.mean - got.mean[0], -LEAST_WORTH * (means - means[0]), atol=1e-12)


def test_chance_and_regret_are_those_of_rows_drawn_anew():
    errors, correct = seen([0.03, 0.01, 0.004, 0.0, 0.02, 0.05])
    got = Expectation.of(errors, correct)
    rng = np.random.default_rng(1)
    drawn = np.stack([errors[:, rng.integers(0, ROWS, ROWS)].mean(axis=1) for _ in range(4_000)])
    worth = (got.mean[0] - got.mean[3]) / (errors[3].mean() - errors[0].mean())
    accuracy = -worth * drawn
    short = accuracy.max(axis=1, keepdims=True) - accuracy
    a, b, c = SURENESS
    for layer in range(LAYERS):
        regret, chance = short[:, layer].mean(), (short[:, layer] <= NEAR).mean()
        assert got.regret(layer) == pytest.approx(regret, rel=0.06)
        assert got.chance(layer) == pytest.approx(chance, abs=0.03)
        expected = expit(a + b * logit(np.clip(chance, 1e-3, 1 - 1e-3)) + c * 100 * regret)
        assert got.confidence(layer) == pytest.approx(expected, abs=0.03)


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
    assert [same.confidence(layer) for layer in range(LAYERS)] == pytest.approx([same.confidence(0)] * LAYERS)
    assert Expectation.of(errors[:1], correct[:1]).regret(0) == 0.0
    assert got_twice(errors, correct)


def got_twice(errors, correct):
    """Same rows and seed, same numbers."""
    return Expectation.of(errors, correct).confidence(2) == Expectation.of(errors, correct).confidence(2)
