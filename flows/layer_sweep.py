"""One model × one data set: shard → embed → score → choose → audit → summarise."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.blocks.system import Secret
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import SweepParameters
from flows.race import Raced, delete_raced, race, settle_race
from flows.run_id import describe_run
from flows.running.engines import Engine
from flows.running.failure import failing_in_words
from flows.running.limits import DATABASE, limited, on_device
from flows.running.progress import stage_progress, tell, working
from flows.running.slots import Slot, plan_slots
from flows.running.tags import tag_flow_run
from flows.settled import check_task, scoring_of, settings_of, settle_curves, settle_settings, settle_words
from storage.cache import cache_folder
from storage.errors import UserError
from storage.layout import Layout
from storage.places import check_folder
from storage.results import check_database
from tasks.choosing.curve_choice import audit_task, choose_layer_task
from tasks.choosing.race import judge_step, judge_step_task, stage_race
from tasks.choosing.together import audit_together_task, choose_together_task, is_found_together
from tasks.curves import drawn_layers
from tasks.data.dataset import Dataset, prepare_dataset_task
from tasks.embedding.attention import attention_texts, is_measured, measure_attention, measure_attention_task
from tasks.embedding.embedding_set import (
    ShardOutcome,
    embed_shard,
    embed_shard_task,
    recorded_shards,
    using_embeddings,
)
from tasks.embedding.model import ModelFolder, resolve_model_task
from tasks.embedding.set_plan import plan_embedding_set_task, settle_plan
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import resolve_settings
from tasks.embedding.text_pairs import row_width
from tasks.machine import CORES
from tasks.reporting.artifacts import ReportFiles, report_task
from tasks.reporting.layer_curves import Tables
from tasks.reporting.run_record import Execution, SweepRecord, summarise_task
from tasks.scoring.criteria import check_criteria
from tasks.scoring.layer_scores import (
    is_scored,
    on_idle_cores,
    score_layer_task,
)
from tasks.scoring.left_out import leave_out, leave_out_task
from tasks.scoring.projection import project_task
from tasks.scoring.scoring_device import CPU, scored_on
from tasks.scoring.text_baseline import score_text_task

THREADS: Any = ThreadPoolTaskRunner(max_workers=CORES)


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep leaves: the result tables of its run, and where everything lies."""

    run_id: str
    flow_run_id: str
    tables: Tables
    layout: Layout
    files: ReportFiles
    task_run_ids: tuple[UUID, ...]
    raced: Raced | None = None
    """How many rows it took, of a sweep until it is confident; None where all were read, and of an earlier run."""


@flow(
    name="layer-sweep",
    flow_run_name="{parameters.model} × {parameters.dataset}",
    task_runner=THREADS,
)
@failing_in_words
def layer_sweep(parameters: SweepParameters) -> SweepOutcome:
    """Find the layer of a frozen language model that separates the labels best, before training anything."""
    return sweep_on_engine(parameters)


def sweep_on_engine(*sweeps: SweepParameters, begun: EmbeddingSet | None = None) -> SweepOutcome:
    """What `layer_sweep` does, inside a flow; of several sweeps until one is confident, with the prompt that won.

    begun: a set that may hold embeddings of the same rows and settings.
    """
    with Engine(sweeps[0].runner, sweeps[0].runner_address) as engine:
        outcome = _sweep(sweeps, engine, begun)
        return replace(outcome, task_run_ids=engine.recorded(outcome.task_run_ids))


def _sweep(sweeps: Sequence[SweepParameters], engine: Engine, begun: EmbeddingSet | None) -> SweepOutcome:
    parameters = sweeps[0]
    started_at = datetime.now(UTC)
    layout = check_before_work(parameters)
    futures: list[PrefectFuture[Any]] = []
    # So that the UI's list of runs can be asked for a model or a data set.
    tag_flow_run(f"model:{parameters.model}", f"dataset:{parameters.dataset}")
    lend_hub_token()

    preparing = prepare_dataset_task.submit(parameters.dataset, layout, **parameters.rows_asked)
    resolving = resolve_model_task.submit(parameters.model, parameters.trust_remote_code)
    futures += [preparing, resolving]
    with working("Reading the data set and the model"):
        dataset, model = preparing.result(), resolving.result()
    check_task(parameters, dataset)

    def rows_of(asked: SweepParameters, why: str) -> Dataset:
        preparing = prepare_dataset_task.submit(asked.dataset, layout, **asked.rows_asked)
        futures.append(preparing)
        with working(why):
            prepared: Dataset = preparing.result()
        return prepared

    as_asked = parameters.rows_asked
    parameters, *_ = sweeps = [settle_race(each, dataset) for each in sweeps]
    if parameters.rows_asked != as_asked:
        dataset = rows_of(parameters, "Taking the rows in turn")
    parameters, *_ = sweeps = start_on_slots(sweeps, model, engine.start)
    raced = None
    if parameters.races:
        raced = race(sweeps, dataset, model, layout, _Work(engine, futures))
        parameters = raced.parameters
        dataset = rows_of(parameters, "Taking the rows that were read")
        begun = raced.begun
    asked = settle_settings(parameters, dataset, model)
    dataset = settle_words(layout, parameters, dataset, model, asked)
    planning = engine.submit(plan_embedding_set_task, layout, dataset, model, asked, (), begun)
    futures.append(planning)
    with working("Planning the shards"):
        ((_, (settings, planned)),) = engine.results([planning])
    delete_embeddings = engine.open(using_embeddings(planned.id))
    run = describe_run(parameters, planned.id)

    curves, layers = settle_curves(layout, run.id, parameters, planned, dataset, model)
    # Finding out here that a layer's scores are staged is cheaper than a task run that finds it out.
    unscored = [layer for layer in layers if not is_scored(layer, parameters.criterion)]
    is_scored_whole = not unscored and is_found_together(layers[0], parameters.together)
    shards = recorded_shards(layout, planned) if is_scored_whole and not parameters.keep_embeddings else None
    if shards is None:
        embed = on_device(embed_shard_task, settings.device)
        embedding = [
            engine.submit(embed, layout, planned, shard, dataset, model, settings, begun)
            for shard in planned.shards
        ]
        futures += embedding
        shards = _finish(
            engine, "Embedding", embedding, "rows", [each.stop - each.start for each in planned.shards]
        )

    if not is_measured(layout, run.id):
        texts = attention_texts(parameters.attention_rows, dataset, model)
        asked_of_it = layout, run.id, dataset, model, settings, planned.token_budget, texts, parameters.seed
        if texts:
            look = on_device(measure_attention_task, settings.device)
            futures.append(engine.submit(look, *asked_of_it))
            _finish(engine, "Looking at attention", futures[-1:])
        elif why_not := measure_attention(*asked_of_it):
            get_run_logger().info("Nothing is told of attention: %s", why_not)

    if len(unscored) < len(layers):
        get_run_logger().info("%s of %s layers are scored already", len(layers) - len(unscored), len(layers))
    # Before the layers, so that it is done beside them and not after the last.
    reading = engine.submit_to_core(score_text_task, layout, run.id, dataset, parameters.seed)
    futures.append(reading)
    device = scored_on(settings.device, dataset, row_width(dataset, model))
    submit = engine.submit_to_core if device == CPU else engine.submit
    score = on_device(score_layer_task, device)
    scoring = [
        submit(score, layer, scoring_of(parameters)) for layer in on_idle_cores(unscored, CORES, device)
    ]
    futures += scoring
    if scoring:
        _finish(engine, "Scoring", scoring, "layers")

    _finish(engine, "Reading the words alone", [reading])

    price = parameters.price_of_depth(model.layers)
    choosing = [choose_layer_task.submit(curve, price) for curve in curves]
    futures += choosing
    chosen = _finish(engine, "Choosing", choosing)
    if all(choice.default.is_constant for choice in chosen):
        raise UserError(nothing_told_apart(parameters))
    # What the report draws, while the embeddings are there.
    projecting = [
        project_task.submit(drawn_layers(layers, curve, choice.default.layer))
        for curve, choice in zip(curves, chosen, strict=True)
    ]
    futures += projecting
    _finish(engine, "Projecting", projecting)
    finding = choose_together_task.submit(layers, chosen, parameters.together)
    futures.append(finding)
    with working("Looking for layers to stand side by side"):
        together = finding.result()
    # Only now are test rows looked at: the choice is made and staged.
    auditing = [audit_task.submit(curve, choice) for curve, choice in zip(curves, chosen, strict=True)]
    auditing.append(audit_together_task.submit(together, parameters.probe_protocol))
    futures += auditing
    _finish(engine, "Auditing", auditing)

    stage_race(layout, run.id, None if raced is None else raced.course)
    execution = Execution(str(flow_run.id), started_at, datetime.now(UTC), settings.device)
    record = SweepRecord(run, execution, dataset, model, settings, planned, tuple(shards))
    summarising = limited(summarise_task, DATABASE).submit(layout, record)
    with working("Merging the results"):
        tables = summarising.result()
    if not parameters.keep_embeddings and not delete_embeddings([shard.uri for shard in shards]):
        get_run_logger().warning("The embeddings of set %s are kept: another run is reading them", planned.id)
    if raced is not None and not parameters.keep_embeddings:
        delete_raced(layout, raced, planned)
    reporting = report_task.submit(layout, tables)
    futures += [summarising, reporting]
    with working("Writing the report"):
        files = reporting.result()
    return SweepOutcome(
        run_id=run.id,
        flow_run_id=str(flow_run.id),
        tables=tables,
        layout=layout,
        files=files,
        task_run_ids=tuple(future.task_run_id for future in futures),
        raced=raced,
    )


class _Work:
    """Has an engine's workers carry out what a race asks for."""

    _TASKS: ClassVar[Mapping[Any, Any]] = {
        settle_plan: plan_embedding_set_task,
        embed_shard: embed_shard_task,
        leave_out: leave_out_task,
        judge_step: judge_step_task,
    }

    def __init__(self, engine: Engine, futures: list[PrefectFuture[Any]]) -> None:
        self._engine = engine
        self._futures = futures

    def __call__(
        self,
        label: str,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        unit: str | None = None,
        weights: list[int] | None = None,
    ) -> list[Any]:
        """See `flows.race.Work`."""
        work = self._TASKS[function]
        if function is embed_shard:
            *_, settings = calls[0]
            work = on_device(work, settings.device)
        needs_model = function in (settle_plan, embed_shard)
        submit = self._engine.submit if needs_model else self._engine.submit_to_core
        futures = [submit(work, *call) for call in calls]
        self._futures += futures
        return _finish(self._engine, label, futures, unit, weights)


def check_before_work(parameters: SweepParameters) -> Layout:
    """The layout of the storage, after a look at everything that can be known to fail before anything is paid for.

    Raises:
        UserError: there is no such criterion or device, or storage, cache or database cannot be written.
    """
    check_criteria(parameters.criterion)
    layout = Layout.at(parameters.storage)
    check_folder(layout.root, "--storage")
    check_folder(str(cache_folder()), "LAYERSCOUT_CACHE")
    check_database(layout.results)
    if parameters.runner_address is None:  # a cluster's workers may have other devices
        resolve_settings(settings_of(parameters))
    return layout


def start_on_slots(
    sweeps: Sequence[SweepParameters], model: ModelFolder, start: Callable[[Sequence[Slot]], None]
) -> list[SweepParameters]:
    """Start the workers of this machine's slots, or a cluster's; the sweeps, with the device of a single slot named."""
    asked = sweeps[0]
    if asked.runner_address is not None:
        start(())
        return list(sweeps)
    plan = plan_slots(model, resolve_settings(settings_of(asked), model), asked.runner)
    if plan.words:
        tell(plan.words)
    start(plan.slots)
    device = plan.slots[0].device if len(plan.slots) == 1 else asked.device
    return [each.model_copy(update={"device": device}) for each in sweeps]


def _finish(
    engine: Engine,
    label: str,
    futures: list[PrefectFuture[Any]],
    unit: str | None = None,
    weights: list[int] | None = None,
) -> list[Any]:
    """Wait for all, showing how far they are; their results in order. The first failure is raised as it comes."""
    weights = weights or [1] * len(futures)
    outcomes: list[Any] = [None] * len(futures)
    with stage_progress(label, sum(weights), unit) as advance:
        for place, outcome in engine.results(futures):
            outcomes[place] = outcome
            reused = isinstance(outcome, ShardOutcome) and outcome.reused
            tokens = outcome.tokens if isinstance(outcome, ShardOutcome) and not reused else 0
            advance(weights[place], tokens=tokens, reused=reused)
    return outcomes


def nothing_told_apart(parameters: SweepParameters) -> str:
    """Why there is no answer where every layer gives all texts the same embedding."""
    poolings = ", ".join(pooling.value for pooling in parameters.pooling)
    length = "" if parameters.length_asked is None else f", {parameters.length_asked} tokens"
    return (
        f"Every text of {parameters.dataset} has the same embedding at every layer of {parameters.model} (pooling "
        f"{poolings}{length}), so no layer tells texts apart and there is no answer. Is the "
        "first token always the same (--pooling first), or is what differs cut away (--max-length)?"
    )


def lend_hub_token() -> None:
    """Let the hub's client find the Prefect Secret `hf-token` where no HF_TOKEN is set."""
    if "HF_TOKEN" in os.environ:
        return
    try:
        secret: Any = Secret.load("hf-token")
    except ValueError:
        return  # there is no such block: public repositories need none
    os.environ["HF_TOKEN"] = secret.get()
