"""Who leads, who is left behind, and what rows that nobody has embedded yet are expected to change."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.choosing.race import (
    ACCURACY_WITHIN,
    FIRST_ROWS,
    GAIN_WITHIN,
    LEAST_A_CLASS,
    Contender,
    LeftOut,
    extrapolated,
    judge,
    rows_to_audit,
    step_sizes,
)
from tasks.vocabulary import NormState, Pooling

MEAN = Contender("none", Pooling.MEAN, NormState.AS_RETURNED)
LAST = Contender("one-word", Pooling.LAST, NormState.AS_RETURNED)


@given(train_rows=st.integers(2, 200_000), classes=st.integers(2, 300))
def test_steps_double_and_end_with_all_rows(train_rows: int, classes: int) -> None:
    sizes = step_sizes(train_rows, classes)
    assert sizes[-1] == train_rows
    assert sizes == sorted(set(sizes))
    if len(sizes) > 1:
        assert sizes[0] == max(FIRST_ROWS, LEAST_A_CLASS * classes)
        assert all(after == 2 * before for before, after in pairwise(sizes[:-1]))
        assert sizes[-1] <= 2 * sizes[-2]


def rows_of(losses: list[float], rows: int, earlier: list[float] | None = None, *, seed: int = 0) -> LeftOut:
    """Layers whose mean losses are these; a row's own difficulty is the same at every layer, as real rows' is."""
    draw = np.random.default_rng(seed)
    shared = draw.gamma(2.0, 0.2, rows)
    own = 0.05 * draw.standard_normal((len(losses), rows))
    now = shared - shared.mean() + own - own.mean(axis=1, keepdims=True) + np.array(losses)[:, None]
    before = None
    if earlier is not None:
        half = rows // 2
        before = now[:, :half] + np.array(earlier)[:, None] - np.array(losses)[:, None]
    return LeftOut(now, now < np.median(now), before)


def test_a_loss_that_falls_as_one_over_the_rows_is_told_for_all_of_them() -> None:
    end, per_row = np.array([0.5, 0.4]), np.array([20.0, 90.0])
    at = {rows: list(end + per_row / rows) for rows in (500, 1_000, 8_000)}
    told = extrapolated(rows_of(at[1_000], 1_000, at[500]), 8_000)
    assert told.mean(axis=1) == pytest.approx(at[8_000], abs=1e-12)
    # With all rows read there is nothing left to tell, nor before a second step.
    seen = rows_of(at[1_000], 1_000, at[500])
    assert np.array_equal(extrapolated(seen, 1_000), seen.log_loss)
    assert np.array_equal(
        extrapolated(rows_of(at[500], 500), 8_000).mean(axis=1).round(12), np.round(at[500], 12)
    )


def test_the_extrapolation_is_that_of_the_means_row_by_row() -> None:
    draw = np.random.default_rng(1)
    log_loss, earlier = draw.random((3, 70)), draw.random((3, 40))
    found = extrapolated(LeftOut(log_loss, log_loss > 0.5, earlier), 300)
    for layer in range(3):
        change = np.mean([log_loss[layer, i] - earlier[layer, i] for i in range(40)])
        still = (1 / 70 - 1 / 300) / (1 / 40 - 1 / 70)
        assert found[layer].mean() == pytest.approx(log_loss[layer].mean() + still * change)
    assert np.array_equal(found[:, 40:], log_loss[:, 40:])


def test_what_gains_more_from_every_row_leads_though_it_lags() -> None:
    """At 1,000 rows the second is worse, at all 16,000 better."""
    first = rows_of([0.60], 1_000, [0.61])
    riser = rows_of([0.62], 1_000, [0.70])
    step = judge({MEAN: first, LAST: riser}, 16_000, until=0.85, within=0.005)
    assert step.leader.contender == LAST
    # Were these all the rows there are, the first would be the better one.
    assert judge({MEAN: first, LAST: riser}, 1_000, until=0.85, within=0.005).leader.contender == MEAN


def test_the_accuracy_told_is_that_with_all_rows() -> None:
    """Of layers right on 1 − loss of the rows, a loss falls as 0.3 + 100/rows on the best one."""
    draw = np.random.default_rng(0)

    def seen(rows: int) -> LeftOut:
        losses = np.array([0.3, 0.34, 0.4])[:, None] + 100 / rows
        shared = 0.02 * draw.standard_normal(rows)
        right = np.arange(rows)[None] / rows >= losses
        return LeftOut(losses + shared, right, losses + 100 / rows + shared[: rows // 2])

    step = judge({MEAN: seen(1_000)}, 10_000, until=0.85, within=0.005)
    assert step.leader.expected_accuracy == pytest.approx(1 - 0.31, abs=0.01)
    of_seen = judge({MEAN: seen(1_000)}, 1_000, until=0.85, within=0.005)
    assert of_seen.leader.expected_accuracy == pytest.approx(1 - 0.4, abs=0.01)
    # Nobody is right on more than all rows.
    sure = LeftOut(np.full((2, 100), 0.1), np.ones((2, 100), bool), np.full((2, 50), 5.0))
    assert judge({MEAN: sure}, 10_000, until=0.85, within=0.005).leader.expected_accuracy == 1.0


def test_of_two_that_are_told_to_end_at_all_rows_the_better_leads_whichever_comes_first() -> None:
    worse, better = (
        LeftOut(np.full((2, 100), loss), np.ones((2, 100), bool), np.full((2, 50), 5.0))
        for loss in (0.06, 0.05)
    )
    for seen in ({MEAN: worse, LAST: better}, {LAST: better, MEAN: worse}):
        step = judge(seen, 10_000, until=0.85, within=0.005)
        assert [each.expected_accuracy for each in step.standings] == [1.0, 1.0]
        assert step.leader.contender == LAST


def test_depth_has_its_price_in_a_race() -> None:
    """The last layer is some points better; at ten points for all blocks the first is worth more."""
    seen = {MEAN: rows_of([0.50, 0.48, 0.46], 1_000, None)}
    free, priced = (
        judge(seen, 1_000, until=0.85, within=0.005, depth_price=price).leader for price in (0.0, 0.5)
    )
    assert (free.layer, priced.layer) == (2, 0)
    assert priced.expected_accuracy < free.expected_accuracy


def test_who_has_no_chance_is_left_behind_and_who_is_level_stays() -> None:
    good, level, bad = (rows_of(losses, 1_000) for losses in ([0.9, 0.5], [0.501, 0.8], [1.5, 1.4]))
    other = Contender("none", Pooling.LAST, NormState.AS_RETURNED)
    step = judge({MEAN: good, LAST: level, other: bad}, 1_000, until=0.85, within=0.005)
    assert [each.contender for each in step.standings] == [MEAN, LAST, other]
    assert [each.layer for each in step.standings] == [1, 0, 1]
    assert [each.stays for each in step.standings] == [True, True, False]
    assert step.rows == 1_000
    assert step.leader.chance == max(each.chance for each in step.standings)
    # The wider the reach, the surer.
    wide = judge({MEAN: good, LAST: level, other: bad}, 1_000, until=0.85, within=0.2)
    assert wide.leader.chance >= step.leader.chance


@given(
    accuracy=st.floats(0.05, 0.95),
    differ=st.floats(0.0, 0.4),
    rows=st.integers(200, 3_000),
    seed=st.integers(0, 99),
)
def test_an_audit_reads_what_its_intervals_take(accuracy: float, differ: float, rows: int, seed: int) -> None:
    """The standard error of either mean over so many rows of that spread, times 1.96, is as wide as was asked for."""
    draw = np.random.default_rng(seed)
    chosen = draw.random(rows) < accuracy
    last = np.where(draw.random(rows) < differ, ~chosen, chosen)
    audited = rows_to_audit(chosen, last)
    spread = {GAIN_WITHIN: np.std(chosen.astype(int) - last.astype(int)), ACCURACY_WITHIN: np.std(chosen)}
    halves = [1.959964 * each / np.sqrt(max(audited, 1)) / half for half, each in spread.items()]
    assert max(halves) <= 1 + 1e-6
    if audited > 1:  # and one row fewer would be too few
        assert max(halves) * np.sqrt(audited / (audited - 1)) >= 1 - 1e-6


def test_of_the_same_layer_the_accuracy_alone_says_how_many() -> None:
    right = np.arange(1_000) % 5 > 0  # four of five
    assert rows_to_audit(right, right) == int(np.ceil(1.959964**2 * 0.8 * 0.2 / ACCURACY_WITHIN**2))
    assert rows_to_audit(np.ones(9, bool), np.ones(9, bool)) == 0
    # At judging, the leader's best layer is compared with its last one.
    step = judge({MEAN: rows_of([0.3, 0.9], 1_000)}, 1_000, until=0.85, within=0.005)
    seen = rows_of([0.3, 0.9], 1_000).correct
    assert step.audit_rows == rows_to_audit(seen[0], seen[1]) > rows_to_audit(seen[0], seen[0])
