"""Which prompt: one sweep for each, and their answers side by side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from prefect import flow

from flows.layer_sweep import (
    THREADS,
    SweepOutcome,
    check_before_work,
    layer_sweep,
    lend_hub_token,
    sweep_on_engine,
)
from flows.parameters import SweepParameters
from flows.race import delete_embeddings, settle_race
from flows.running.failure import failing_in_words
from flows.running.progress import tell, working
from flows.running.tags import tag_flow_run
from flows.search_parameters import SearchParameters
from storage.errors import UserError
from tasks.choosing.prompt_choice import PromptAnswer, compare_prompts_task
from tasks.data.dataset import prepare_dataset_task
from tasks.embedding.set_records import EmbeddingSet
from tasks.vocabulary import NO_PROMPT


@dataclass(frozen=True)
class SearchOutcome:
    """What a search leaves: what each prompt was worth, and the sweep of the one to take."""

    answers: list[PromptAnswer]
    """One a prompt, in the order in which they were asked for."""
    failed: Mapping[str, UserError]
    """The prompts that could not be swept with, and why."""
    chosen: SweepOutcome
    task_run_ids: tuple[UUID, ...]


@flow(name="search", flow_run_name="{parameters.model} × {parameters.dataset}")
@failing_in_words
def search(parameters: SearchParameters) -> SearchOutcome:
    """Sweep with each prompt, one after the other, and take the one that train rows speak for; of many rows all of them
    in a race, and a sweep with the one that wins and one without a prompt.

    A prompt's sweep is a sub-flow run of its own: what an earlier execution finished is not computed again. Test rows
    tell what the choice was worth, and take no part in it.
    """
    tag_flow_run(f"model:{parameters.model}", f"dataset:{parameters.dataset}")
    layout = check_before_work(parameters.sweeps()[0])
    lend_hub_token()
    preparing = prepare_dataset_task.submit(parameters.dataset, layout, **parameters.rows_asked)
    with working("Reading the data set"):
        parameters = settle_race(parameters, preparing.result())
    if parameters.races:
        compared: list[UUID] = []

        def compare(*asked: Any, **told: Any) -> list[PromptAnswer]:
            submitted = compare_prompts_task.submit(*asked, **told)
            compared.append(submitted.task_run_id)
            return submitted.result()

        raced = raced_search(parameters, sweep_on_engine, sweep_beside, compare)
        return replace(raced, task_run_ids=(*raced.task_run_ids, *compared))
    swept, failed = sweep_each(parameters, layer_sweep)
    tables = {prompt: outcome.tables for prompt, outcome in swept.items()}
    with working("Comparing the prompts"):
        comparing = compare_prompts_task.submit(layout, tables)
        answers = comparing.result()
    best = next(each.prompt for each in answers if each.is_answer)
    return SearchOutcome(answers, failed, swept[best], (preparing.task_run_id, comparing.task_run_id))


@flow(
    name="layer-sweep",
    flow_run_name="{parameters.model} × {parameters.dataset}",
    task_runner=THREADS,
    validate_parameters=False,
)
@failing_in_words
def sweep_beside(parameters: SweepParameters, begun: EmbeddingSet | None = None) -> SweepOutcome:
    """A sweep without a prompt, to compare with: a run of its own, of rows of which some may be embedded."""
    return sweep_on_engine(parameters, begun=begun)


def raced_search(
    parameters: SearchParameters,
    sweep: Callable[..., SweepOutcome],
    beside: Callable[..., SweepOutcome],
    compare: Callable[..., list[PromptAnswer]],
) -> SearchOutcome:
    """All prompts at once over more and more rows, a sweep with the one that is left or leads in the end, and one of
    the same rows without a prompt, which tells what that one is worth.

    sweep: takes the sweeps of all prompts. beside: takes one, and `begun` as of `sweep_on_engine`. compare: as
    `compare_prompts`.
    """
    chosen = sweep(*parameters.sweeps())
    raced = chosen.raced
    assert raced is not None
    best, failed = raced.parameters.prompt, dict(raced.failed)
    swept = {best: chosen}
    if (plain := raced.without_prompt()) is not None:
        tell(f"The same rows without a prompt, to see what {best} is worth")
        asked, begun = plain
        try:
            swept[NO_PROMPT] = beside(asked, begun=begun)
        except UserError as error:  # it is the answer all the same
            failed[NO_PROMPT] = error
        finally:
            if begun is not None and not parameters.keep_embeddings:
                delete_embeddings(chosen.layout, begun)
    tables = {prompt: swept[prompt].tables for prompt in parameters.prompts if prompt in swept}
    answers = compare(chosen.layout, tables, best=best)
    return SearchOutcome(answers, failed, chosen, chosen.task_run_ids)


def sweep_each(
    parameters: SearchParameters, sweep: Callable[[SweepParameters], SweepOutcome]
) -> tuple[dict[str, SweepOutcome], dict[str, UserError]]:
    """What the sweep of each prompt left, in the order in which they were asked for, and why the others have none.

    Raises:
        UserError: none has any; that of the first.
    """
    swept: dict[str, SweepOutcome] = {}
    failed: dict[str, UserError] = {}
    for number, each in enumerate(parameters.sweeps(), start=1):
        tell(f"{number} of {len(parameters.prompts)}: prompt {each.prompt}")
        try:
            swept[each.prompt] = sweep(each)
        except UserError as error:  # what one prompt lacks must not cost the others their turn
            failed[each.prompt] = error
            tell(f"Prompt {each.prompt} is left out: {error}")
    if not swept:
        raise next(iter(failed.values()))
    return swept, failed
