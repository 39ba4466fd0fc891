"""A race's layer is judged by rows that the race has not read, and by no other."""

from dataclasses import replace

import numpy as np
import pytest

from study.race import Candidates
from tasks.choosing.race import Contender
from tasks.vocabulary import NormState, Pooling

ROWS, READ = 40, 15


def test_the_train_rows_beyond_a_draws_turn_are_those_that_judge() -> None:
    draw = np.random.default_rng(0)
    turns = np.stack([draw.permutation(ROWS) for _ in range(3)])
    unread = np.zeros(ROWS, bool)
    unread[turns[2, READ:]] = True
    # One candidate is right on the rows that draw 2 does not read, one on all others; no test row has a say.
    by_place = np.stack([unread, ~unread])
    run = Candidates(
        model="model",
        dataset="set",
        sizes=[READ, ROWS],
        contenders={Contender("none", Pooling.MEAN, NormState.AS_RETURNED): slice(0, 2)},
        left_out={f"hit:0:{ROWS}": by_place[:, turns[0]]},
        correct=np.zeros((2, 0), bool),
        turns=turns,
    )
    assert [run.unread_regret(candidate, 2, READ) for candidate in (0, 1)] == [0.0, 1.0]
    # Of all rows read there is nothing left but the test rows.
    with_test = np.array([[True, True, True, False], [True, False, True, False]])
    tested = replace(run, correct=with_test)
    assert tested.unread_regret(1, 2, ROWS) == pytest.approx(tested.split_regret(1))
