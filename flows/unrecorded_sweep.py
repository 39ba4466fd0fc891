"""A sweep as plain function calls, for who asks for no record of it: no Prefect server, the same numbers."""

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from flows.layer_sweep import (
    SweepOutcome,
    check_before_work,
    nothing_told_apart,
    start_on_slots,
)
from flows.parameters import SweepParameters
from flows.race import Raced, delete_raced, race, settle_race
from flows.run_id import describe_run
from flows.running.progress import Pace, progress_bar, tell, working
from flows.settled import check_task, scoring_of, settle_curves, settle_settings, settle_words
from storage.errors import UserError
from storage.layout import Layout
from tasks.choosing.curve_choice import audit, choose
from tasks.choosing.race import stage_race
from tasks.choosing.together import audit_together, choose_together, is_found_together
from tasks.curves import drawn_layers
from tasks.data.dataset import prepare_dataset
from tasks.embedding.attention import attention_texts, is_measured, measure_attention
from tasks.embedding.embedding_set import embed_shard, recorded_shards, using_embeddings
from tasks.embedding.model import resolve_model
from tasks.embedding.set_plan import settle_plan
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.text_pairs import row_width
from tasks.machine import CORES, hold
from tasks.reporting.artifacts import write_report
from tasks.reporting.run_record import Execution, SweepRecord, collect, summarise
from tasks.scoring.layer_scores import is_scored, on_idle_cores, score_layer
from tasks.scoring.projection import project
from tasks.scoring.scoring_device import scored_on
from tasks.scoring.text_baseline import score_text

T = TypeVar("T")


def unrecorded_sweep(*sweeps: SweepParameters, begun: EmbeddingSet | None = None) -> SweepOutcome:
    """What `sweep_on_engine` does, on the threads of this process: the same functions in the same order.

    Raises:
        UserError: as `layer_sweep` does, and for an engine beyond this process.
    """
    run_id, layout, raced = run_sweep(sweeps, execution_id := str(uuid.uuid4()), begun)
    tables = collect(layout, run_id)
    with working("Writing the report"):
        files = write_report(layout, run_id, tables)
    return SweepOutcome(run_id, execution_id, tables, layout, files, task_run_ids=(), raced=raced)


def run_sweep(
    sweeps: Sequence[SweepParameters], execution_id: str, begun: EmbeddingSet | None = None
) -> tuple[str, Layout, Raced | None]:
    """A sweep up to the merged database, without its report; see `unrecorded_sweep`.

    execution_id: of the table `execution`, in the place of a flow run's.
    """
    parameters = sweeps[0]
    if parameters.runner != "threads":
        raise UserError(
            f"A sweep without a record runs on threads of this process, not on {parameters.runner} (runner): ask for "
            "a recorded one."
        )
    started_at = datetime.now(UTC)
    layout = check_before_work(parameters)
    with working("Reading the data set and the model"):
        dataset = prepare_dataset(parameters.dataset, layout, **parameters.rows_asked)
        model = resolve_model(parameters.model, trust_remote_code=parameters.trust_remote_code)
    check_task(parameters, dataset)
    as_asked = parameters.rows_asked
    parameters, *_ = sweeps = [settle_race(each, dataset) for each in sweeps]
    if parameters.rows_asked != as_asked:
        dataset = prepare_dataset(parameters.dataset, layout, **parameters.rows_asked)
    parameters, *_ = sweeps = start_on_slots(
        sweeps, model, lambda slots: hold([each.device for each in slots])
    )
    raced = None
    if parameters.races:
        raced = race(sweeps, dataset, model, layout, _work)
        parameters = raced.parameters
        dataset = prepare_dataset(parameters.dataset, layout, **parameters.rows_asked)
        begun = raced.begun
    with working("Planning the shards"):
        asked = settle_settings(parameters, dataset, model)
        dataset = settle_words(layout, parameters, dataset, model, asked)
        settings, planned = settle_plan(layout, dataset, model, asked, begun=begun)
    run = describe_run(parameters, planned.id)
    with using_embeddings(planned.id) as delete_embeddings:
        curves, layers = settle_curves(layout, run.id, parameters, planned, dataset, model)
        unscored = [layer for layer in layers if not is_scored(layer, parameters.criterion)]
        is_scored_whole = not unscored and is_found_together(layers[0], parameters.together)
        shards = (
            recorded_shards(layout, planned) if is_scored_whole and not parameters.keep_embeddings else None
        )
        if shards is None:
            shards = in_threads(
                [
                    partial(embed_shard, layout, planned, shard, dataset, model, settings, begun)
                    for shard in planned.shards
                ],
                Pace("Embedding", "rows", dataset.train_rows + dataset.test_rows),
                [each.stop - each.start for each in planned.shards],
            )
        if not is_measured(layout, run.id):
            texts = attention_texts(parameters.attention_rows, dataset, model)
            with working("Looking at attention"):
                budget, seed = planned.token_budget, parameters.seed
                why_not = measure_attention(layout, run.id, dataset, model, settings, budget, texts, seed)
            if why_not is not None:
                tell(f"Nothing is told of attention: {why_not}.")
        words = partial(score_text, layout, run.id, dataset, parameters.seed)
        scoring = scoring_of(parameters)
        device = scored_on(settings.device, dataset, row_width(dataset, model))
        in_threads(
            [
                words,
                *(partial(score_layer, layer, scoring) for layer in on_idle_cores(unscored, CORES, device)),
            ],
            Pace("Scoring", "layers and words", len(unscored) + 1),
        )
        price = parameters.price_of_depth(model.layers)
        with working("Choosing"):
            chosen = in_threads([partial(choose, curve, price) for curve in curves])
            if all(choice.default.is_constant for choice in chosen):
                raise UserError(nothing_told_apart(parameters))
            in_threads(
                [
                    partial(project, drawn_layers(layers, curve, choice.default.layer))
                    for curve, choice in zip(curves, chosen, strict=True)
                ]
            )
            together = choose_together(layers, chosen, parameters.together)
        with working("Auditing"):
            audits = [partial(audit, curve, choice) for curve, choice in zip(curves, chosen, strict=True)]
            in_threads([*audits, partial(audit_together, together, parameters.probe_protocol)])
        stage_race(layout, run.id, None if raced is None else raced.course)
        execution = Execution(execution_id, started_at, datetime.now(UTC), settings.device)
        record = SweepRecord(run, execution, dataset, model, settings, planned, tuple(shards))
        with working("Merging the results"):
            summarise(layout, record)
        if not parameters.keep_embeddings:
            delete_embeddings([shard.uri for shard in shards])
    if raced is not None and not parameters.keep_embeddings:
        delete_raced(layout, raced, planned)
    return run.id, layout, raced


def _work(
    label: str,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    unit: str | None = None,
    weights: list[int] | None = None,
) -> list[Any]:
    """See `flows.race.Work`."""
    pace = Pace(label, unit, sum(weights) if weights else len(calls))
    return in_threads([partial(function, *call) for call in calls], pace, weights)


def in_threads(
    calls: Sequence[Callable[[], T]], pace: Pace | None = None, weights: Sequence[int] | None = None
) -> list[T]:
    """The results of the calls, in order, made on as many threads as there are cores. The first failure is raised.

    pace: shown while they run; of call i it advances by weights[i], or by one.
    """
    with ThreadPoolExecutor(CORES) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            if pace is not None:
                places = {future: place for place, future in enumerate(futures)}
                with progress_bar(pace) as advance:
                    for future in as_completed(futures):
                        future.result()
                        advance(1 if weights is None else weights[places[future]])
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
