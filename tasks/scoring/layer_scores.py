"""The scores of one layer, from its embeddings in storage to staged rows: one task, which reads the layer once.

A score whose rows are staged is not computed again. Of the tables of one kind of score `silhouette`, `criterion` and
`probe` are written last, so that their presence means that the finer rows beside them are there too.
"""

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl
from prefect import task

from storage.embeddings import read_layer
from storage.staged import is_staged, keyed, stage
from tasks.curves import LayerOfRun
from tasks.numerics.cores import side_by_side, use_threads
from tasks.retries import LONG_S, RETRIED
from tasks.scoring.criteria import ridge_leave_one_out, score_criteria
from tasks.scoring.features import Features
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.silhouette import silhouette
from tasks.vocabulary import Metric, Precision, Space

# Raised by hand when a change of the scoring code changes a number.
SCORING_VERSION = 8


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split of one layer."""

    X: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]
    row_id: npt.NDArray[np.int64]


def score_layer(layer: LayerOfRun, metrics: tuple[Metric, ...], names: tuple[str, ...]) -> None:
    """Stage every score of the layer that is not staged yet."""
    if is_scored(layer):
        return
    train, test = read_rows(layer)
    # What criteria and probe share is computed once, by the first that needs it.
    features = Features(train.X, train.y)

    def fit() -> None:
        score_with_criteria(layer, train, features, names)
        score_with_probe(layer, features, test)

    side_by_side(layer.threads, partial(score_silhouettes, layer, train, metrics), fit)


def is_scored(layer: LayerOfRun) -> bool:
    """Whether every score of the layer is staged, so that its embeddings are not needed any more."""
    return all(
        is_staged(layer.layout, layer.run_id, table, layer.part)
        for table in ("silhouette", "criterion", "probe")
    )


def on_idle_cores(layers: list[LayerOfRun], cores: int) -> list[LayerOfRun]:
    """The same layers; those of the last round on two threads each, if it leaves as many cores without a layer."""
    left = len(layers) % cores
    shared = left if 2 * left <= cores else 0
    return [replace(layer, threads=2 if i >= len(layers) - shared else 1) for i, layer in enumerate(layers)]


def score_silhouettes(layer: LayerOfRun, train: SplitRows, metrics: tuple[Metric, ...]) -> None:
    """Stage `silhouette`, `silhouette_by_class` and `silhouette_row` of the train rows, every metric."""
    if is_staged(layer.layout, layer.run_id, "silhouette", layer.part):
        return
    means, classes, rows = [], [], []
    for metric in metrics:
        started = time.perf_counter()
        found = silhouette(train.X, train.y, metric, seed=layer.seed)
        seconds = time.perf_counter() - started
        kind = {"metric": metric.value, "space": Space.RAW.value}
        means.append(
            kind
            | {"precision": Precision.EXACT.value, "mean": found.mean}
            | {"standard_error": found.standard_error, "n": found.n, "seconds": seconds}
        )
        classes += [
            kind | {"label": layer.dataset.classes[label], "mean": mean, "n": n}
            for label, (mean, n) in found.by_class.items()
        ]
        scores = {"row_id": train.row_id, "silhouette": found.samples, "influence": found.influence}
        rows.append(keyed(pl.DataFrame({"metric": [metric.value]}), pl.DataFrame(scores)))
    _stage(layer, "silhouette_row", pl.concat(rows))
    _stage(layer, "silhouette_by_class", pl.DataFrame(classes))
    _stage(layer, "silhouette", pl.DataFrame(means))


def score_with_criteria(
    layer: LayerOfRun, train: SplitRows, features: Features, names: tuple[str, ...]
) -> None:
    """Stage `criterion` and, for the paired errors of ridge leave-one-out, `ridge_row`, of the train rows."""
    if is_staged(layer.layout, layer.run_id, "criterion", layer.part):
        return
    values: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name in names:
        started = time.perf_counter()
        values |= score_criteria(features, names=[name])
        seconds[name] = time.perf_counter() - started
    ridge = features.once(ridge_leave_one_out)
    _stage(layer, "ridge_row", pl.DataFrame({"row_id": train.row_id, "correct": ridge.correct}))
    _stage(
        layer,
        "criterion",
        pl.DataFrame([{"name": name, "value": values[name], "seconds": seconds[name]} for name in values]),
    )


def score_with_probe(layer: LayerOfRun, train: Features, test: SplitRows) -> None:
    """Stage `probe` and `prediction`: fitted on train rows, measured on test rows."""
    if is_staged(layer.layout, layer.run_id, "probe", layer.part):
        return
    started = time.perf_counter()
    found = fit_probe_on(train, test.X, test.y, seed=layer.seed)
    row = {
        "protocol": "logistic",
        "accuracy": found.accuracy,
        "accuracy_low": found.accuracy_low,
        "accuracy_high": found.accuracy_high,
        "macro_f1": found.macro_f1,
        "balanced_accuracy": found.balanced_accuracy,
        "majority_accuracy": found.majority_accuracy,
        "log_loss": found.log_loss,
        "penalty": found.penalty,
        "iterations": found.iterations,
        "converged": found.converged,
        "n_train": found.n_train,
        "n_test": found.n_test,
        "seconds": time.perf_counter() - started,
    }
    predictions = {"row_id": test.row_id, "label": test.y, "predicted": found.predictions}
    _stage(layer, "prediction", pl.DataFrame(predictions))
    _stage(layer, "probe", pl.DataFrame([row]))


def read_rows(layer: LayerOfRun) -> tuple[SplitRows, SplitRows]:
    """Train and test rows of the layer; row ids count train rows first."""
    # OpenMP counts threads by calling thread: the workers of a pool share the cores between them.
    use_threads(1)
    found = read_layer(
        layer.shard_uris, layer=layer.layer, norm_state=layer.norm_state.value, pooling=layer.pooling.value
    )
    # Shards hold the rows of the data set in its order: parts of the arrays, not copies.
    train = int(np.searchsorted(found.row_id, layer.dataset.train_rows))
    return (
        SplitRows(found.embeddings[:train], found.label[:train], found.row_id[:train]),
        SplitRows(found.embeddings[train:], found.label[train:], found.row_id[train:]),
    )


def _stage(layer: LayerOfRun, table: str, rows: pl.DataFrame) -> None:
    stage(layer.layout, layer.run_id, table, layer.part, keyed(layer.key(), rows))


@task(
    name="score-layer",
    task_run_name="score {layer.pooling.value} {layer.norm_state.value} layer {layer.layer}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def score_layer_task(layer: LayerOfRun, metrics: tuple[Metric, ...], names: tuple[str, ...]) -> None:
    """Silhouettes, criteria and probe of one layer."""
    score_layer(layer, metrics, names)
