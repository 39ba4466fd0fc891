"""Which prompt: one sweep for each, and their answers side by side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from prefect import flow

from flows.layer_sweep import (
    SweepOutcome,
    check_before_work,
    layer_sweep,
    lend_hub_token,
    sweep_on_engine,
)
from flows.parameters import SweepParameters
from flows.race import settle_race
from flows.running.failure import failing_in_words
from flows.running.progress import tell, working
from flows.running.tags import tag_flow_run
from flows.search_parameters import SearchParameters
from storage.errors import UserError
from tasks.choosing.prompt_choice import PromptAnswer, compare_prompts, compare_prompts_task
from tasks.data.dataset import prepare_dataset_task


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
    in a race, and a sweep with the one that wins.

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
        return raced_search(parameters, sweep_on_engine)
    swept, failed = sweep_each(parameters, layer_sweep)
    tables = {prompt: outcome.tables for prompt, outcome in swept.items()}
    with working("Comparing the prompts"):
        comparing = compare_prompts_task.submit(layout, tables, parameters.seed)
        answers = comparing.result()
    best = next(each.prompt for each in answers if each.is_answer)
    return SearchOutcome(answers, failed, swept[best], (preparing.task_run_id, comparing.task_run_id))


def raced_search(parameters: SearchParameters, sweep: Callable[..., SweepOutcome]) -> SearchOutcome:
    """All prompts at once over more and more rows, and a sweep with the one that is left or leads in the end.

    sweep: takes the sweeps of all prompts.
    """
    chosen = sweep(*parameters.sweeps())
    assert chosen.raced is not None
    prompt = chosen.raced.parameters.prompt
    answers = compare_prompts(chosen.layout, {prompt: chosen.tables}, seed=parameters.seed)
    return SearchOutcome(answers, chosen.raced.failed, chosen, chosen.task_run_ids)


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
