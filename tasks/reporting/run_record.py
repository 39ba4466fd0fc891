"""The staged rows of one run → its result tables, merged into the database in one short transaction."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from storage.files import exists, list_folders
from storage.layout import Layout
from storage.migrations import newest_migration, result_tables
from storage.results import merge, rebuild
from storage.staged import DamagedPartError, ended_runs, read_staged, rows_of, stage
from tasks.data.dataset import Dataset
from tasks.embedding.embedding_set import ShardOutcome
from tasks.embedding.model import ModelFolder
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import Settings
from tasks.reporting.layer_curves import Tables
from tasks.retries import RETRIED, SHORT_S

log = logging.getLogger(__name__)

# Of version 0.1.0, whose runs do not say it.
FIRST_SCHEMA_NUMBER = 4


@dataclass(frozen=True)
class Run:
    """What one run is made of. `id` is a content id: the same parameters, inputs and code are the same run."""

    id: str
    parameters: Mapping[str, Any]
    code_version: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Execution:
    """One time that a run was carried out, by one flow run."""

    flow_run_id: str
    started_at: datetime
    finished_at: datetime
    device: str


@dataclass(frozen=True)
class SweepRecord:
    """What one execution of a run leaves beside its scores: which run it was, what it read, and what it cost."""

    run: Run
    execution: Execution
    dataset: Dataset
    model: ModelFolder
    settings: Settings
    planned: EmbeddingSet
    shards: tuple[ShardOutcome, ...]


@dataclass(frozen=True)
class Rebuilt:
    """The ids of the runs that are in a rebuilt database, and of those left out, with the reason."""

    runs: tuple[str, ...]
    left_out: Mapping[str, str]
    aside: str | None
    """Where a database lies now that DuckDB could not open; None where there was none."""


def stage_run(layout: Layout, record: SweepRecord) -> None:
    """Stage the rows that describe the run itself, so that the database can be rebuilt from staged rows alone.

    `execution` is staged last: its presence says that the run has come to its end.
    """
    run, execution, dataset, model = record.run, record.execution, record.dataset, record.model
    settings, planned, shards = record.settings, record.planned, record.shards
    described: dict[str, tuple[str, dict[str, Any]]] = {
        "model": (
            "model",
            {
                "id": model.id,
                "source": model.source,
                "revision": model.revision,
                "family": model.family,
                "layers": model.layers,
                "hidden_size": model.hidden_size,
            },
        ),
        "dataset": (
            "dataset",
            {
                "id": dataset.id,
                "source": dataset.source,
                "fingerprint": dataset.fingerprint,
                "revision": dataset.revision,
                "classes": list(dataset.classes),
                "text_column": dataset.text_column,
                "label_column": dataset.label_column,
                "train_rows": dataset.train_rows,
                "test_rows": dataset.test_rows,
                "test_is_made": dataset.test_is_made,
                "task": dataset.task.value,
                "label_names": list(dataset.target_names) or None,
                "texts": dataset.texts if dataset.words is not None else None,
                "cut_words": dataset.cut_words if dataset.words is not None else None,
                "text_pairs": None if dataset.text_pairs == "joined" else dataset.text_pairs,
            },
        ),
        "embedding_set": (
            "embedding_set",
            {
                "embedding_set_id": planned.id,
                "dataset_fingerprint": dataset.fingerprint,
                "max_length": settings.max_length,
                "token_budget": planned.token_budget,
                "rows": planned.rows,
                "tokens": planned.tokens,
                "truncated_share": planned.truncated_share,
                "split_share": planned.split_share,
                "split_tokens": planned.split_tokens,
                "shards": len(planned.shards),
                "seconds": sum(shard.seconds for shard in shards),
            },
        ),
        "run": (
            "run",
            {
                "run_id": run.id,
                "model_id": model.id,
                "dataset_id": dataset.id,
                "embedding_set_id": planned.id,
                "parameters": json.dumps(run.parameters, sort_keys=True),
                "code_version": run.code_version,
                "layers": model.layers,
                "model_revision": model.revision,
                "dataset_fingerprint": dataset.fingerprint,
                "dtype": settings.dtype,
                "device_kind": settings.device.split(":")[0],
                "versions": json.dumps(run.versions, sort_keys=True),
                "prompt": settings.prompt,
                "schema_number": newest_migration(),
            },
        ),
        "execution": (
            execution.flow_run_id,
            {
                "flow_run_id": execution.flow_run_id,
                "run_id": run.id,
                "status": "completed",
                "started_at": execution.started_at,
                "finished_at": execution.finished_at,
                "seconds": (execution.finished_at - execution.started_at).total_seconds(),
                "device": execution.device,
                "shards_computed": sum(not shard.reused for shard in shards),
                "shards_reused": sum(shard.reused for shard in shards),
            },
        ),
    }
    for table, (part, row) in described.items():
        stage(layout, run.id, table, part, pl.DataFrame([row]))


def collect(layout: Layout, run_id: str) -> dict[str, pl.DataFrame]:
    """Every result table of one run from its staged rows, with the run's one answer marked.

    A table that came after the version which staged the run is empty. The answer is, of the default rule's choices over
    pooling × norm state, the one with the best train-only score, or priced accuracy where depth has a price; of equals
    the shallowest. A layer that gives every text the same embedding is no answer.

    Raises:
        FileNotFoundError: a table that the run should have has no staged rows, so it has not come to its end.
    """
    # Staged last, so a run that lacks it never came to its end.
    tables = {table: read_staged(layout, run_id, table) for table in ("execution", "run")}
    known = _schema_number(tables["run"])
    for name, described in result_tables().items():
        if described.since > known:
            tables[name] = rows_of(name, pl.DataFrame(), [])
        elif name not in tables:
            tables[name] = read_staged(layout, run_id, name)
    choices = tables["layer_choice"]
    told = ~pl.col("is_constant") if "is_constant" in choices.columns else pl.lit(True)
    default = choices.filter(pl.col("is_default"), told)
    ranked = (
        pl.coalesce("priced_accuracy", "score") if "priced_accuracy" in choices.columns else pl.col("score")
    )
    answer = default.sort([ranked, "layer"], descending=[True, False], maintain_order=True).head(1)
    for table in ("layer_choice", "audit"):
        marked = pl.struct("pooling", "norm_state", "rule").is_in(
            answer.select(pl.struct("pooling", "norm_state", "rule")).to_series().implode()
        )
        tables[table] = tables[table].with_columns(is_answer=marked)
    return tables


def _schema_number(run: pl.DataFrame) -> int:
    """The newest migration that the version knew which staged the run."""
    number = run["schema_number"].item() if "schema_number" in run.columns else None
    return FIRST_SCHEMA_NUMBER if number is None else int(number)


def summarise(layout: Layout, record: SweepRecord) -> Tables:
    """Merge the run into the results database; its tables. Where that is gone, earlier runs are merged first."""
    stage_run(layout, record)
    tables = collect(layout, record.run.id)
    if not exists(layout.results) and ended_runs(layout) != [record.run.id]:
        rebuilt = rebuild_database(layout)
        log.warning(
            "%s was gone: it is written anew, with %s runs that are staged", layout.results, len(rebuilt.runs)
        )
    merge(layout.results, record.run.id, tables)
    return tables


def rebuild_database(layout: Layout) -> Rebuilt:
    """Write the results database anew from the staged rows of every run that has come to its end."""
    ended: list[tuple[str, str]] = []
    left_out: dict[str, str] = {}

    def runs() -> Iterator[tuple[str, Tables]]:
        tables: dict[str, Tables] = {}
        ended.clear()
        left_out.clear()
        for run_id in list_folders(layout.staged_runs):
            try:
                collected = collect(layout, run_id)
                finished = str(collected["execution"]["finished_at"].max())
                tables[run_id] = collected
            except FileNotFoundError as error:
                left_out[run_id] = f"It never came to its end, or an older version ran it. {error}"
                continue
            except DamagedPartError as error:
                # A part that a disk or a hand has damaged must not cost the other runs their rows.
                left_out[run_id] = str(error)
                continue
            except (pl.exceptions.PolarsError, OSError, KeyError, ValueError) as error:
                left_out[run_id] = f"Its staged rows are not those of a run ({error}): sweep it again."
                continue
            ended.append((finished, run_id))
        # Of rows that runs share, the latest stands, as it would have if each had been merged in its time.
        for _, run_id in sorted(ended):
            yield run_id, tables.pop(run_id)

    if not list_folders(layout.staged_runs):
        return Rebuilt((), left_out, None)
    done = rebuild(layout.results, runs)
    left_out |= {run_id: f"Its rows cannot be: {why}" for run_id, why in done.refused.items()}
    merged = tuple(run_id for _, run_id in sorted(ended) if run_id not in done.refused)
    return Rebuilt(merged, left_out, done.aside)


@task(name="summarise", timeout_seconds=SHORT_S, cache_policy=NO_CACHE, **RETRIED)
def summarise_task(layout: Layout, record: SweepRecord) -> Tables:
    """Merge the run into the results database; its tables, for whoever shows them."""
    tables = summarise(layout, record)
    get_run_logger().info("Run %s is in %s", record.run.id, layout.results)
    return tables
