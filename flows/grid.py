"""Many models × many data sets: one sweep a pair, then one comparison."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from prefect import flow, get_run_logger

from flows.grid_parameters import GridParameters, pair_name
from flows.layer_sweep import layer_sweep
from flows.parameters import SweepParameters
from flows.running.failure import failing_in_words
from flows.running.on_workers import run_on_workers
from flows.running.progress import tell, working
from flows.running.tags import tag_flow_run
from storage.errors import UserError
from storage.layout import Layout
from storage.results import query
from storage.sources.grammar import parse_source
from tasks.data.dataset import read_dataset
from tasks.embedding.model import resolve_model
from tasks.reporting.grid_comparison import ComparisonFiles, compare_runs_task
from tasks.scoring.criteria import check_criteria
from tasks.vocabulary import Task


@dataclass(frozen=True)
class GridOutcome:
    """What a grid leaves: the runs of its pairs in the grid's order, and where the comparison lies."""

    run_ids: tuple[str, ...]
    layout: Layout
    files: ComparisonFiles
    task_run_ids: tuple[UUID, ...]


@flow(name="grid", flow_run_name="{parameters.title}")
@failing_in_words
def grid(parameters: GridParameters) -> GridOutcome:
    """Sweep every pair, here one after the other or on a deployment's workers, and compare them.

    A pair is a sub-flow run of its own. What an earlier execution finished, shards and scores, is not computed again,
    so the same grid goes on where it was ended. A pair that fails does not keep the others from running.

    Raises:
        UserError: pairs failed; the others are in the database, and compared, all the same.
    """
    tag_flow_run()
    pairs = parameters.pairs()
    layout = Layout.at(parameters.storage)
    workers = parameters.deployment
    swept = _swept_here(pairs) if workers is None else _swept_by_workers(workers, layout, pairs)
    run_ids: dict[int, str] = {}
    failed: dict[int, str] = {}
    for place, outcome in swept:
        if isinstance(outcome, str):
            run_ids[place] = outcome
        else:
            # Whatever ended one pair must not cost the others their turn. The grid's own error names it, and the
            # sub-flow's record keeps its traceback.
            get_run_logger().error("%s failed: %s", pair_name(pairs[place]), outcome.why)
            failed[place] = outcome.why
    ordered = tuple(run_ids[place] for place in sorted(run_ids))
    comparing = None
    if ordered:
        with working("Comparing the pairs"):
            comparing = compare_runs_task.submit(layout, ordered)
            files = comparing.result()
    if failed:
        reasons = "; ".join(f"{pair_name(pairs[place])}: {why}" for place, why in sorted(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(pairs)} pairs failed ({reasons}). The others are in the database; the same "
            "command goes on with what is missing."
        )
    assert comparing is not None
    return GridOutcome(ordered, layout, files, (comparing.task_run_id,))


@dataclass(frozen=True)
class _Failed:
    """Why a pair has no run."""

    why: str


def _swept_here(pairs: list[SweepParameters]) -> Iterator[tuple[int, str | _Failed]]:
    """The place of each pair and the id of its run, one after the other in this process."""
    for place, pair in enumerate(pairs):
        tell(f"{place + 1} of {len(pairs)}: {pair_name(pair)}")
        outcome: str | _Failed
        try:
            outcome = layer_sweep(pair).run_id
        except Exception as error:  # of any kind: it is the pair's own, and told as that
            outcome = _Failed(f"{type(error).__name__}: {error}")
        yield place, outcome


def _swept_by_workers(
    deployment: str, layout: Layout, pairs: list[SweepParameters]
) -> Iterator[tuple[int, str | _Failed]]:
    """The same, as they end on the workers, which store where this process reads."""
    asked = [{"parameters": pair.model_dump(mode="json") | {"storage": layout.root}} for pair in pairs]
    tell(f"{len(pairs)} pairs are handed to the workers of {deployment}")
    for number, (place, run) in enumerate(run_on_workers(deployment, asked), start=1):
        tell(f"{number} of {len(pairs)}: {pair_name(pairs[place])}")
        state = run.state
        if state is None or not state.is_completed():
            named = "no state" if state is None else f"{state.name}: {state.message}"
            yield place, _Failed(f"flow run {run.name}, {named}")
            continue
        found = query(layout.results, f"SELECT run_id FROM execution WHERE flow_run_id = '{run.id}'")
        if found.is_empty():
            yield place, _Failed(f"flow run {run.name} has ended, and left no run in {layout.results}")
        else:
            yield place, found["run_id"].item()


def examine_pairs(parameters: GridParameters) -> list[tuple[SweepParameters, str, str]]:
    """Each pair, what its model is, and what its data set is, as far as that can be told without the hub.

    Raises:
        UserError: a source that should be on this machine is not, or cannot be read; a criterion that there is not. It
            names every pair that cannot be swept.
    """
    pairs = parameters.pairs()
    for pair in pairs:
        check_criteria(pair.criterion)
    # A table a data set and its row limits; it is read as a sweep reads it.
    asked = [(pair.model, (pair.dataset, *pair.rows_asked.values())) for pair in pairs]
    models: dict[object, str | UserError] = {}
    datasets: dict[object, str | UserError] = {}
    for pair, (model, rows) in zip(pairs, asked, strict=True):
        if model not in models:
            models[model] = _told(_examine_model, pair)
        if rows not in datasets:
            datasets[rows] = _told(_examine_dataset, pair)
    found, problems = [], []
    for pair, (model, rows) in zip(pairs, asked, strict=True):
        of_model, of_dataset = models[model], datasets[rows]
        if isinstance(of_model, str) and isinstance(of_dataset, str):
            found.append((pair, of_model, of_dataset))
        else:
            why = " ".join(str(each) for each in (of_model, of_dataset) if isinstance(each, UserError))
            problems.append(f"{pair_name(pair)}: {why}")
    if problems:
        raise UserError(f"{len(problems)} of {len(pairs)} pairs cannot be swept. {' '.join(problems)}")
    return found


def _told(examine: Callable[[SweepParameters], str], pair: SweepParameters) -> str | UserError:
    try:
        return examine(pair)
    except UserError as error:  # what one pair lacks must not hide what the others do
        return error


def _examine_model(pair: SweepParameters) -> str:
    told = parse_source(pair.model, "model").describe("model")
    if told is not None:
        return told
    model = resolve_model(pair.model)
    return f"{model.family}, {model.layers} blocks of width {model.hidden_size:,}"


def _examine_dataset(pair: SweepParameters) -> str:
    told = parse_source(pair.dataset, "dataset").describe("dataset")
    if told is not None:
        return told
    found, _ = read_dataset(pair.dataset, Layout(""), **pair.rows_asked)
    told = f"{found.train_rows:,} train and {found.test_rows:,} test rows"
    if found.task in (Task.REGRESSION, Task.MULTI_LABEL):
        return told  # its classes are made for silhouettes alone
    return f"{told} of {len(found.classes)} classes"
