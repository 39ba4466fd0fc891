"""A race's layer is judged by rows that the race has not read, and by no other."""

from dataclasses import replace

import numpy as np
import pytest

from study.race import Candidates, share_embedded, share_of_blocks, together
from tasks.choosing.expectation import NEAR
from tasks.choosing.race import Contender, Standing, Step
from tasks.vocabulary import NormState, Pooling

ROWS, READ = 40, 15


def of_prompt(prompt: str, right: list[list[bool]]) -> Candidates:
    """Two rows, a layer a list."""
    return Candidates(
        model="model",
        dataset="set",
        sizes=[2],
        contenders={Contender(prompt, Pooling.MEAN, NormState.AS_RETURNED): slice(0, len(right))},
        left_out={"loss:0:2": ~np.array(right) * np.float32(1), "hit:0:2": np.array(right)},
        correct=np.array(right),
        turns=np.arange(2)[None],
    )


def test_runs_with_several_prompts_are_one_race() -> None:
    both = together(
        [of_prompt("none", [[True, False]]), of_prompt("a {text}", [[False, False], [True, True]])]
    )
    assert {each.prompt: (own.start, own.stop) for each, own in both.contenders.items()} == {
        "none": (0, 1),
        "a {text}": (1, 3),
    }
    assert both.best_of_all_rows() == 2
    assert both.correct.tolist() == [[True, False], [False, False], [True, True]]
    others = replace(of_prompt("b {text}", [[True, True]]), turns=np.array([[1, 0]]))
    with pytest.raises(ValueError, match="other rows"):
        together([both, others])
    with pytest.raises(ValueError, match="the same prompt"):
        together([both, of_prompt("none", [[True, True]])])


def test_rows_count_for_each_prompt_that_was_still_in_the_race() -> None:
    def step(rows: int, *prompts: str) -> Step:
        contenders = [Contender(each, Pooling.MEAN, NormState.AS_RETURNED) for each in prompts]
        return Step(rows, tuple(Standing(each, 0, 0.5, 0.5, True) for each in contenders), 500)

    run = replace(
        together([of_prompt("none", [[True, True]]), of_prompt("a", [[True, True]])]), sizes=[10, 20, 100]
    )
    # Ten rows with both, ten more with one, of 200.
    assert share_embedded([step(10, "none", "a"), step(20, "none")], run) == pytest.approx(0.15)
    assert share_embedded([step(10, "none", "a")], run) == pytest.approx(0.1)
    # What a prompt is worth is told by the same rows without it.
    assert share_embedded([step(10, "none", "a"), step(20, "a")], run) == pytest.approx(0.2)


def test_blocks_above_the_highest_layer_in_play_are_counted() -> None:
    draw = np.random.default_rng(0)
    # Of four layers the second is far the best: after the first step one block of three is needed.
    rows = {
        size: np.array([2.0, 0.1, 2.0, 2.0])[:, None] + 0.01 * draw.standard_normal((4, size))
        for size in (50, 100, 400)
    }
    run = Candidates(
        model="model",
        dataset="set",
        sizes=[50, 100, 400],
        contenders={Contender("none", Pooling.MEAN, NormState.AS_RETURNED): slice(0, 4)},
        left_out={f"loss:0:{size}": told for size, told in rows.items()}
        | {f"hit:0:{size}": told < 1 for size, told in rows.items()},
        correct=np.ones((4, 10), bool),
        turns=draw.permutation(400)[None],
    )
    steps = list(run.steps(0, 0.85, NEAR))
    assert [each.rows for each in steps] == [50, 100]
    # The answer is compared with the last layer: all three blocks run over its hundred rows in the end.
    needed, with_answer = (50 * 3 + 50 * 1) / (100 * 3), (50 * 3 + 50 * 1 + 100 * 3) / (100 * 3)
    assert share_of_blocks(steps, run, 0, 0.85, NEAR) == pytest.approx((needed, with_answer))
    # Another prompt whose last layer is as good runs through all of them, and needs no more where it wins.
    other = replace(
        run,
        contenders={Contender("other", Pooling.MEAN, NormState.AS_RETURNED): slice(0, 4)},
        left_out={
            name: told[[0, 2, 3, 1]] - (0.0005 if name.startswith("loss") else 0)
            for name, told in run.left_out.items()
        },
    )
    both = together([run, other])
    steps = list(both.steps(0, 0.85, NEAR))
    assert [each.rows for each in steps] == [50, 100]
    assert steps[-1].leader.contender.prompt == "other"
    shares = share_of_blocks(steps, both, 0, 0.85, NEAR)
    assert shares == pytest.approx([(100 * 3 + 50 * 3 + 50 * 1) / (200 * 3)] * 2)


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
