"""A race over more and more train rows: which prompt to sweep with, and how many rows the answer takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from flows.parameters import AskedOfAll, SweepParameters
from flows.running.progress import tell
from flows.settled import settle_settings
from storage.errors import UserError
from storage.layout import Layout
from storage.sources.states import are_saved_states
from tasks.choosing.race import Contender, Course, EndedBy, Step, first_rows, judge_step, step_sizes
from tasks.data.dataset import Dataset
from tasks.embedding.embedding_set import embed_shard, using_embeddings
from tasks.embedding.model import ModelFolder
from tasks.embedding.set_plan import settle_plan
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import Settings
from tasks.machine import CORES
from tasks.scoring.left_out import FirstRows, leave_out, read_left_out
from tasks.vocabulary import NO_PROMPT, Task

Asked = TypeVar("Asked", bound=AskedOfAll)

WORTH_A_RACE = 5_000
"""Of more train rows a race embeds a part; of fewer it may embed most."""
UNLESS_ASKED = 0.9
"""The confidence of a race that nobody asked for (docs/study.md, How few rows)."""


class Work(Protocol):
    """Carries out calls of one function side by side; their results in order. The first failure is raised.

    unit and weights: what of each call is counted while they run.
    """

    def __call__(
        self,
        label: str,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        unit: str | None = None,
        weights: list[int] | None = None,
    ) -> list[Any]: ...


@dataclass(frozen=True)
class Entry:
    """One prompt in a race; embedded as far as it stayed there."""

    settings: Settings
    planned: EmbeddingSet


@dataclass(frozen=True)
class Raced:
    """What a race came to."""

    parameters: SweepParameters
    """Of the sweep that follows: with the prompt that won, over as many train rows as the race took."""
    course: Course
    entries: Mapping[str, Entry]
    """By prompt."""
    failed: Mapping[str, UserError]
    """The prompts that could not begin, and why."""

    @property
    def begun(self) -> EmbeddingSet:
        """The set of the prompt that won."""
        return self.entries[self.parameters.prompt].planned

    def without_prompt(self) -> tuple[SweepParameters, EmbeddingSet | None] | None:
        """The sweep that follows, but without a prompt, and the set that holds some of its embeddings, if one does.

        None where that won, or took no part, or the budget is spent.
        """
        if self.parameters.prompt == NO_PROMPT or NO_PROMPT not in self.entries:
            return None
        if self.course.ended_by == "budget":
            return None
        plain = self.entries[NO_PROMPT]
        is_alike = plain.settings.max_length == self.parameters.max_length
        return self.parameters.model_copy(update={"prompt": NO_PROMPT}), plain.planned if is_alike else None


def race(
    sweeps: Sequence[SweepParameters], dataset: Dataset, model: ModelFolder, layout: Layout, work: Work
) -> Raced:
    """Embed and judge more and more train rows until the leader is near the best with the confidence asked for.

    sweeps: one a prompt, equal in all else. dataset: its train rows in turn.

    Raises:
        UserError: no prompt can begin; what the first says.
    """
    asked = sweeps[0]
    tell(
        f"Of {dataset.train_rows:,} train rows no more are embedded than it takes to be {asked.until_confident:.0%} "
        "sure (--until-confident never: all of them)"
    )
    sizes = step_sizes(dataset.train_rows, len(dataset.classes))
    entries, failed = _enter(sweeps, dataset, model, layout, work, sizes)
    with ExitStack() as held:
        for entry in entries.values():
            held.enter_context(using_embeddings(entry.planned.id))
        course = _run(asked, entries, sizes, dataset, model, layout, work)
    winner = course.steps[-1].leader.contender.prompt
    # An ordinary sweep, which anybody may ask for, race or none.
    of_winner = {
        "prompt": winner,
        "max_train_rows": course.steps[-1].rows,
        "max_test_rows": asked.max_test_rows or (None if course.judged_by_all else course.test_rows),
        "row_order": "sampled",
        "max_length": entries[winner].settings.max_length,
        "until_confident": "never",
        "within": SweepParameters.model_fields["within"].default,
        "budget": None,
    }
    parameters = SweepParameters.model_validate(asked.model_dump() | of_winner)
    return Raced(parameters, course, entries, failed)


def _run(
    asked: SweepParameters,
    entries: Mapping[str, Entry],
    sizes: Sequence[int],
    dataset: Dataset,
    model: ModelFolder,
    layout: Layout,
    work: Work,
) -> Course:
    """From the first step to the one that ends it."""
    until, within, price = asked.until_confident, asked.within / 100, asked.price_of_depth(model.layers)
    assert isinstance(until, float)
    started = time.monotonic()
    layers = tuple(range((asked.max_layer or model.layers) + 1))
    staying = [
        Contender(prompt, pooling, state)
        for prompt in entries
        for pooling in asked.pooling
        for state in asked.norm_state
    ]
    steps: list[Step] = []

    def ended(by: EndedBy) -> Course:
        test_rows = dataset.test_rows
        if asked.max_test_rows is None:
            test_rows = min(test_rows, max(first_rows(len(dataset.classes)), steps[-1].audit_rows))
        tell(f"Its audit reads {test_rows:,} of {dataset.test_rows:,} test rows")
        return Course(tuple(steps), dataset.train_rows, test_rows, dataset.test_rows, by)

    for number, rows in enumerate(sizes):
        seen = {
            each: [
                FirstRows(layout, entries[each.prompt].planned, each.pooling, each.norm_state, layers, size)
                for size in sizes[max(number - 1, 0) : number + 1]
            ]
            for each in staying
        }
        _embed(seen, entries, dataset, model, work)
        parts = [
            replace(now, layers=layers[part::CORES]) for *_, now in seen.values() for part in range(CORES)
        ]
        work("Leaving out", leave_out, [(each,) for each in parts if each.layers])
        (step,) = work(
            "Judging", judge_step, [(rows, seen, dataset.train_rows, until, within, price, asked.seed)]
        )
        steps.append(step)
        leader = step.leader
        tell(
            f"After {rows:,} of {dataset.train_rows:,} train rows: layer {leader.layer} "
            f"({leader.contender.pooling} pooling, prompt {leader.contender.prompt}), near the best with "
            f"{leader.chance:.0%} confidence"
        )
        # One step shows no trend: what gains from rows may lag among the first.
        if leader.chance >= until and (steps[1:] or rows == dataset.train_rows):
            return ended("confidence")
        if asked.budget is not None and time.monotonic() - started >= 60 * asked.budget:
            return ended("budget")
        staying = [each.contender for each in step.standings if each.stays] or [leader.contender]
    return ended("rows")


def settle_race(parameters: Asked, dataset: Dataset) -> Asked:
    """The parameters with a confidence to reach, or never, in the place of auto."""
    if parameters.until_confident != "auto":
        return parameters
    can_race = (
        dataset.task is Task.SINGLE_LABEL
        and dataset.group_key is None
        and dataset.weight_column is None
        and not are_saved_states(parameters.model)
    )
    worth_it = can_race and parameters.max_train_rows is None and dataset.train_rows > WORTH_A_RACE
    return parameters.model_copy(update={"until_confident": UNLESS_ASKED if worth_it else "never"})


def delete_raced(layout: Layout, raced: Raced, swept: EmbeddingSet) -> None:
    """Delete the embeddings that a race made, but those that another run reads, or a sweep without a prompt will; what
    was left out of them stays.

    swept: of the sweep that followed, which may be one of them, and is its own to delete: it holds the lock.
    """
    plain = raced.without_prompt()
    wanted = {swept.id} if plain is None or plain[1] is None else {swept.id, plain[1].id}
    for each in raced.entries.values():
        if each.planned.id not in wanted:
            delete_embeddings(layout, each.planned)


def delete_embeddings(layout: Layout, planned: EmbeddingSet) -> None:
    """Delete a set's embeddings, unless another run reads them."""
    with using_embeddings(planned.id) as delete:
        delete([layout.shard(planned.id, shard.index) for shard in planned.shards])


def _enter(
    sweeps: Sequence[SweepParameters],
    dataset: Dataset,
    model: ModelFolder,
    layout: Layout,
    work: Work,
    sizes: Sequence[int],
) -> tuple[dict[str, Entry], dict[str, UserError]]:
    """The plan of each prompt's embeddings, whose shards end where steps do, and why others have none."""
    entries: dict[str, Entry] = {}
    failed: dict[str, UserError] = {}
    for each in sweeps:
        try:
            asked = settle_settings(each, dataset, model)
            planning = (layout, dataset, model, asked, tuple(sizes))
            ((settings, planned),) = work("Planning the shards", settle_plan, [planning])
            entries[each.prompt] = Entry(settings, planned)
        except UserError as error:  # what one prompt lacks must not cost the others their turn
            failed[each.prompt] = error
            tell(f"Prompt {each.prompt} is left out: {error}")
    if not entries:
        raise next(iter(failed.values()))
    return entries, failed


def _embed(
    seen: Mapping[Contender, Sequence[FirstRows]],
    entries: Mapping[str, Entry],
    dataset: Dataset,
    model: ModelFolder,
    work: Work,
) -> None:
    """Embed this step's rows with every prompt of which something is to be told that is not known yet."""
    wanted = {contender.prompt: now for contender, (*_, now) in seen.items() if read_left_out(now) is None}
    calls, rows = [], []
    for prompt, first in wanted.items():
        settings, planned = entries[prompt].settings, entries[prompt].planned
        for shard in planned.shards:
            if shard.stop <= first.rows:
                calls.append((first.layout, planned, shard, dataset, model, settings))
                rows.append(shard.stop - shard.start)
    if calls:
        work("Embedding", embed_shard, calls, "rows", rows)
