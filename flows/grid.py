"""Many models × many data sets: one sweep a pair, then one comparison."""

from dataclasses import dataclass
from uuid import UUID

from prefect import flow, get_run_logger

from flows.grid_parameters import GridParameters, pair_name
from flows.layer_sweep import SweepOutcome, layer_sweep
from flows.parameters import SweepParameters
from flows.running.failure import failing_in_words
from flows.running.progress import tell, working
from flows.running.tags import tag_flow_run
from storage.errors import UserError
from storage.layout import Layout
from storage.sources.grammar import parse_source
from tasks.data.dataset import read_dataset
from tasks.embedding.model import resolve_model
from tasks.reporting.grid_comparison import ComparisonFiles, compare_runs_task
from tasks.scoring.criteria import check_criteria


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
    """Sweep every pair, one after the other, and compare them.

    A pair is a sub-flow run of its own. What an earlier execution finished, shards and scores, is not computed again,
    so the same grid goes on where it was ended. A pair that fails does not keep the others from running.

    Raises:
        UserError: pairs failed; the others are in the database all the same.
    """
    tag_flow_run()
    pairs = parameters.pairs()
    done: list[SweepOutcome] = []
    failed: dict[str, BaseException] = {}
    for number, pair in enumerate(pairs, start=1):
        name = pair_name(pair)
        tell(f"{number} of {len(pairs)}: {name}")
        try:
            done.append(layer_sweep(pair))
        except Exception as error:
            # Whatever ended one pair must not cost the others their turn. The grid's own error names it, and the
            # sub-flow's record keeps its traceback.
            get_run_logger().error("%s failed: %s", name, error)
            failed[name] = error
    if failed:
        reasons = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in failed.items())
        raise UserError(
            f"{len(failed)} of {len(pairs)} pairs failed ({reasons}). The others are in the database; the same "
            "command goes on with what is missing."
        )
    layout = done[0].layout
    run_ids = tuple(outcome.run_id for outcome in done)
    with working("Comparing the pairs"):
        comparing = compare_runs_task.submit(layout, run_ids)
        files = comparing.result()
    return GridOutcome(run_ids, layout, files, (comparing.task_run_id,))


def examine_pairs(parameters: GridParameters) -> list[tuple[SweepParameters, str, str]]:
    """Each pair, what its model is, and what its data set is, as far as that can be told without the hub.

    Raises:
        UserError: a source that should be on this machine is not, or cannot be read; a criterion that there is not.
    """
    pairs = parameters.pairs()
    for pair in pairs:
        check_criteria(pair.criterion)
    models = {pair.model: _examine_model(pair.model) for pair in pairs}
    # A table a data set and its row limits; it is read as a sweep reads it.
    datasets = {_asked_rows(pair): _examine_dataset(pair) for pair in pairs}
    return [(pair, models[pair.model], datasets[_asked_rows(pair)]) for pair in pairs]


def _asked_rows(pair: SweepParameters) -> tuple[object, ...]:
    return pair.dataset, *pair.rows_asked.values()


def _examine_model(spec: str) -> str:
    told = parse_source(spec, "model").describe("model")
    if told is not None:
        return told
    model = resolve_model(spec)
    return f"{model.family}, {model.layers} blocks of width {model.hidden_size:,}"


def _examine_dataset(pair: SweepParameters) -> str:
    told = parse_source(pair.dataset, "dataset").describe("dataset")
    if told is not None:
        return told
    found, _ = read_dataset(pair.dataset, Layout(""), **pair.rows_asked)
    return f"{found.train_rows:,} train and {found.test_rows:,} test rows of {len(found.classes)} classes"
