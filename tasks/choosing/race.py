"""A race between prompts, poolings and norm states over more and more train rows, until the best layer is clear.

Racing (Maron and Moore 1994, "Hoeffding races") with the paired errors of the left-out rows in the place of a bound:
what no longer has a chance to hold the best layer is left behind, and no further row is embedded for it. What a layer
promises is told for all the train rows there are, not for those that have been seen: a layer that gains more from
every row added is not lost for lagging among few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from scipy.special import ndtri

from storage.layout import Layout
from storage.staged import is_staged, rows_of, stage
from tasks.choosing.expectation import Expectation
from tasks.choosing.inflection import FloatArray
from tasks.retries import LONG_S, RETRIED
from tasks.scoring.left_out import FirstRows, read_left_out
from tasks.vocabulary import NormState, Pooling

TABLE = "race_step"
OF_ENDING = ("test_rows", "test_rows_in_all", "ended_by")
"""Its columns that the last step alone has."""
EndedBy = Literal["confidence", "rows", "budget"]

FIRST_ROWS = 500
"""Train rows of the first step; every further one has twice as many as the one before."""
LEAST_A_CLASS = 8
"""The first step has at least so many rows a class on average; an audit too."""
GAIN_WITHIN, ACCURACY_WITHIN = 0.01, 0.02
"""Half of the 95 % intervals that an audit is to have: of the gain over the last layer, and of the accuracy."""


@dataclass(frozen=True)
class Contender:
    """One prompt, pooling and norm state: all of its layers come from the same forward passes."""

    prompt: str
    """As it was asked for: a name or a template."""
    pooling: Pooling
    norm_state: NormState


@dataclass(frozen=True)
class LeftOut:
    """What ridge regression says of left-out train rows at each of L layers."""

    log_loss: npt.NDArray[np.floating]
    """[L, n], in nats."""
    correct: npt.NDArray[np.bool_]
    """[L, n]."""
    earlier: npt.NDArray[np.floating] | None
    """[L, m]: the log loss of the first m of these rows, with those alone; None in the first step."""


@dataclass(frozen=True)
class Standing:
    """How one contender stands after a step."""

    contender: Contender
    layer: int
    """Its best."""
    expected_accuracy: float
    """There, of ridge regression with all the train rows, 0–1; after the first step, which shows no trend, with those
    that were seen."""
    chance: float
    """0–1: how likely that layer is within reach of the best of all."""
    stays: bool
    """Whether the next step embeds rows for it."""


@dataclass(frozen=True)
class Step:
    """How all stand that were still in the race, the best first."""

    rows: int
    """Train rows that have been seen."""
    standings: tuple[Standing, ...]
    audit_rows: int
    """Test rows that the leader's audit takes, by `rows_to_audit`."""

    @property
    def leader(self) -> Standing:
        """The contender with the highest expected accuracy."""
        return self.standings[0]


@dataclass(frozen=True)
class Course:
    """A race from its first step to its last."""

    steps: tuple[Step, ...]
    train_rows: int
    """That there are."""
    test_rows: int
    """That the sweep which follows reads."""
    test_rows_in_all: int
    ended_by: EndedBy

    @property
    def judged_by_all(self) -> bool:
        """Whether no test row is left out that was asked for."""
        return self.test_rows == self.test_rows_in_all


def step_sizes(train_rows: int, classes: int) -> list[int]:
    """The train rows of each step, doubling, all of them in the last."""
    sizes = [first_rows(classes)]
    while sizes[-1] * 2 < train_rows:
        sizes.append(sizes[-1] * 2)
    return [size for size in sizes if size < train_rows] + [train_rows]


def first_rows(classes: int) -> int:
    """The train rows of the first step, and the least test rows of an audit."""
    return max(FIRST_ROWS, LEAST_A_CLASS * classes)


def judge(
    seen: Mapping[Contender, LeftOut],
    train_rows: int,
    *,
    until: float,
    within: float,
    depth_price: float = 0.0,
    seed: int = 0,
) -> Step:
    """How the contenders stand, all having seen the same rows.

    train_rows: that there are in all. until: a contender stays where its chance is at least what that leaves open,
    1 − until. within: accuracy, a fraction: a layer that falls short of the best by no more is as good as it.
    depth_price: accuracy, a fraction, that all blocks have to be worth; the accuracies told are without it.
    """
    losses = np.concatenate([extrapolated(each, train_rows) for each in seen.values()])
    expected = Expectation.of(losses, np.concatenate([each.correct for each in seen.values()]), seed=seed)
    # Hits are those of the rows that were seen; what the best layer's loss has yet to fall is worth some more.
    best = int(losses.mean(axis=1).argmin())
    now = np.concatenate([each.log_loss for each in seen.values()])[best]
    gained = expected.worth * float(now.mean(dtype=np.float64) - losses[best].mean())
    depth = np.concatenate([np.linspace(0, 1, len(each.log_loss)) for each in seen.values()])
    priced = replace(expected, mean=expected.mean - depth_price * depth)
    standings: list[tuple[float, Standing]] = []
    first = 0
    for contender, each in seen.items():
        layers = len(each.log_loss)
        layer = int(priced.mean[first : first + layers].argmax())
        chance = priced.confidence(first + layer, within)
        accuracy = min(float(expected.mean[first + layer]) + gained, 1.0)
        standing = Standing(contender, layer, accuracy, chance, chance >= 1 - until)
        # Not by what is told, which ends at 1: of two that end there one is better.
        standings.append((float(priced.mean[first + layer]), standing))
        first += layers
    in_order = tuple(each for _, each in sorted(standings, key=lambda each: -each[0]))
    leader = in_order[0]
    right = seen[leader.contender].correct
    return Step(losses.shape[1], in_order, rows_to_audit(right[leader.layer], right[-1]))


def rows_to_audit(chosen: npt.NDArray[np.bool_], last: npt.NDArray[np.bool_]) -> int:
    """So many test rows that the 95 % intervals are no wider than ± GAIN_WITHIN and ± ACCURACY_WITHIN, as expected.

    chosen and last: [n], which left-out train rows two layers told right. Since these are train rows, no test row has a
    say in how many are read, and the intervals of the audit are what they say they are.
    """
    right = chosen.astype(np.float64)
    gain, accuracy = (right - last).var() / GAIN_WITHIN**2, right.var() / ACCURACY_WITHIN**2
    return int(np.ceil(float(ndtri(0.975)) ** 2 * max(gain, accuracy)))


def extrapolated(seen: LeftOut, train_rows: int) -> FloatArray:
    """float64 [L, n]: each row's share in the log loss that the layer is expected to have with all train rows.

    A loss falls towards its end as a/n, so that what the last rows took off it says what the rest will: of the same
    rows' losses before and after, which is why their chance cancels.
    """
    losses = seen.log_loss.astype(np.float64)
    if seen.earlier is None:
        return losses
    rows, before = losses.shape[1], seen.earlier.shape[1]
    still = (1 / rows - 1 / train_rows) / (1 / before - 1 / rows)
    losses[:, :before] += still * (rows / before) * (losses[:, :before] - seen.earlier)
    return losses


def judge_step(
    step_rows: int,
    contenders: Mapping[Contender, Sequence[FirstRows]],
    train_rows: int,
    until: float,
    within: float,
    depth_price: float,
    seed: int,
) -> Step:
    """`judge` from what was left out: of each contender the rows of the step before, where there was one, and of this
    one, which has `step_rows`.

    Raises:
        FileNotFoundError: what a layer tells is not kept.
    """
    seen = {}
    for contender, steps in contenders.items():
        *before, now = [_kept(each) for each in steps]
        seen[contender] = LeftOut(*now, before[-1][0] if before else None)
    return judge(seen, train_rows, until=until, within=within, depth_price=depth_price, seed=seed)


def stage_race(layout: Layout, run_id: str, course: Course | None) -> None:
    """Stage `race_step`: a row a contender and step; none where no race said how many rows to read.

    What an earlier race staged of the same run stays.
    """
    if course is None and is_staged(layout, run_id, TABLE, TABLE):
        return
    ending = {} if course is None else {name: getattr(course, name) for name in OF_ENDING}
    rows = [
        {
            "step": number,
            "train_rows": step.rows,
            "train_rows_in_all": course.train_rows,
            "is_leader": each is step.leader,
            **(ending if step is course.steps[-1] else dict.fromkeys(ending)),
            **shown(each),
        }
        for course in ([] if course is None else [course])
        for number, step in enumerate(course.steps, start=1)
        for each in step.standings
    ]
    stage(layout, run_id, TABLE, TABLE, rows_of(TABLE, pl.DataFrame({"run_id": [run_id]}), rows))


def shown(standing: Standing) -> dict[str, Any]:
    """A standing as a row."""
    contender = standing.contender
    return {
        "prompt": contender.prompt,
        "pooling": contender.pooling.value,
        "norm_state": contender.norm_state.value,
        "layer": standing.layer,
        "expected_accuracy": standing.expected_accuracy,
        "chance": standing.chance,
        "stays": standing.stays,
    }


def _kept(first: FirstRows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    found = read_left_out(first)
    if found is None:
        raise FileNotFoundError(
            f"What was left out of {first.uri(first.layers[0])} is not there, or damaged."
        )
    return found


@task(name="judge", task_run_name="judge {step_rows} rows", timeout_seconds=LONG_S, **RETRIED)
def judge_step_task(
    step_rows: int,
    contenders: Mapping[Contender, Sequence[FirstRows]],
    train_rows: int,
    until: float,
    within: float,
    depth_price: float,
    seed: int,
) -> Step:
    """Who still has a chance to hold the best layer; shown in the Prefect UI."""
    step = judge_step(step_rows, contenders, train_rows, until, within, depth_price, seed)
    create_table_artifact(
        [shown(each) for each in step.standings],
        key="race",
        description=f"How prompts, poolings and norm states stand after {step_rows:,} of {train_rows:,} train rows.",
    )
    leader = step.leader
    get_run_logger().info(
        "After %s of %s train rows: layer %s (%s, %s), within reach of the best with %.0f %%; %s of %s stay",
        f"{step_rows:,}",
        f"{train_rows:,}",
        leader.layer,
        leader.contender.prompt,
        leader.contender.pooling.value,
        100 * leader.chance,
        sum(each.stays for each in step.standings),
        len(step.standings),
    )
    return step
