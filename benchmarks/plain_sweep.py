"""A sweep as plain function calls: what Prefect's overhead is measured against, and what faults are planted in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from flows.layer_sweep import describe_run, scoring_of, settings_of
from flows.parameters import SweepParameters
from storage.layout import Layout
from storage.results import merge
from tasks.choosing.curve_choice import audit, choose
from tasks.choosing.together import audit_together, choose_together
from tasks.curves import curves_of, drawn_layers, layers_of
from tasks.data.dataset import prepare_dataset
from tasks.embedding.embedding_set import embed_shard, plan_embedding_set, resolve_settings
from tasks.embedding.model import resolve_model
from tasks.embedding.prompts import resolve_prompt
from tasks.machine import CORES
from tasks.reporting.artifacts import write_report
from tasks.reporting.run_record import Execution, SweepRecord, collect, stage_run
from tasks.scoring.layer_scores import on_idle_cores, score_layer
from tasks.scoring.projection import project
from tasks.scoring.text_baseline import score_text

T = TypeVar("T")


def plain_sweep(parameters: SweepParameters, execution_id: str = "plain", *, report: bool = True) -> str:
    """The same functions on the same threads in the same order as `layer_sweep`, without Prefect; the run's id."""
    started_at = datetime.now(UTC)
    layout = Layout(parameters.storage)
    dataset = prepare_dataset(parameters.dataset, layout, **parameters.rows_asked)
    model = resolve_model(parameters.model)
    prompt = resolve_prompt(parameters.prompt, dataset, model)
    settings = resolve_settings(settings_of(parameters, prompt))
    planned = plan_embedding_set(layout, dataset, model, settings)
    run = describe_run(parameters, planned.id)
    shards = in_threads(
        [
            lambda shard=shard: embed_shard(layout, planned, shard, dataset, model, settings)
            for shard in planned.shards
        ]
    )
    curves = curves_of(layout, run.id, planned, parameters.pooling, parameters.norm_state, parameters.seed)
    layers = layers_of(curves, planned, dataset, range((parameters.max_layer or model.layers) + 1))
    scoring = scoring_of(parameters)
    words = partial(score_text, layout, run.id, dataset, parameters.seed)
    in_threads([words, *(partial(score_layer, layer, scoring) for layer in on_idle_cores(layers, CORES))])
    price = parameters.depth_price / 100
    chosen = in_threads([lambda curve=curve: choose(curve, price) for curve in curves])
    in_threads(
        [
            partial(project, drawn_layers(layers, curve, choice.default.layer))
            for curve, choice in zip(curves, chosen, strict=True)
        ]
    )
    together = choose_together(layers, chosen, parameters.together)
    audits = [partial(audit, curve, choice) for curve, choice in zip(curves, chosen, strict=True)]
    in_threads([*audits, partial(audit_together, together, parameters.probe_protocol)])
    execution = Execution(execution_id, started_at, datetime.now(UTC), settings.device)
    stage_run(layout, SweepRecord(run, execution, dataset, model, settings, planned, tuple(shards)))
    tables = collect(layout, run.id)
    merge(layout.results, run.id, tables)
    if report:
        write_report(layout, run.id, tables)
    return run.id


def in_threads(calls: list[Callable[[], T]]) -> list[T]:
    """The results of the calls, in order, made on as many threads as there are cores."""
    with ThreadPoolExecutor(CORES) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
