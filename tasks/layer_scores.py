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
from storage.layout import Layout
from storage.staged import is_staged, keyed, stage
from tasks.cores import side_by_side, use_threads
from tasks.criteria import ridge_leave_one_out, score_criteria
from tasks.dataset import Dataset
from tasks.features import Features
from tasks.probe import fit_probe_on
from tasks.retries import LONG_S, RETRIED
from tasks.silhouette import silhouette
from tasks.vocabulary import Metric, NormState, Pooling, Precision, Space

# Raised by hand when a change of the scoring code changes a number.
SCORING_VERSION = 8


@dataclass(frozen=True)
class LayerOfRun:
    """One layer of one run, and where its embeddings are: what every score of it starts from."""

    layout: Layout
    run_id: str
    shard_uris: tuple[str, ...]
    dataset: Dataset
    pooling: Pooling
    norm_state: NormState
    layer: int
    seed: int
    threads: int = 1
    """Or 2 where a core has nothing else to do: silhouettes on the one, criteria and probe on the other."""

    @property
    def part(self) -> str:
        """The name of its staged parts; the layer's digits keep their order."""
        return f"{self.pooling.value}-{self.norm_state.value}-{self.layer:03d}"

    def key(self) -> pl.DataFrame:
        """The key columns that its rows share, one row."""
        return pl.DataFrame(
            {
                "run_id": [self.run_id],
                "pooling": [self.pooling.value],
                "norm_state": [self.norm_state.value],
                "layer": pl.Series([self.layer], dtype=pl.Int32),
            }
        )


@dataclass(frozen=True)
class Rows:
    """The rows of one split of one layer."""

    X: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]
    row_id: npt.NDArray[np.int64]


def score_layer(at: LayerOfRun, metrics: tuple[Metric, ...], names: tuple[str, ...]) -> None:
    """Stage every score of the layer that is not staged yet."""
    if is_scored(at):
        return
    train, test = read_rows(at)
    # What criteria and probe share is computed once, by the first that needs it.
    features = Features(train.X, train.y)

    def fit() -> None:
        score_with_criteria(at, train, features, names)
        score_with_probe(at, features, test)

    side_by_side(at.threads, partial(score_silhouettes, at, train, metrics), fit)


def is_scored(at: LayerOfRun) -> bool:
    """Whether every score of the layer is staged, so that its embeddings are not needed any more."""
    return all(
        is_staged(at.layout, at.run_id, table, at.part) for table in ("silhouette", "criterion", "probe")
    )


def on_idle_cores(layers: list[LayerOfRun], cores: int) -> list[LayerOfRun]:
    """The same layers; those of the last round on two threads each, if it leaves as many cores without a layer."""
    left = len(layers) % cores
    shared = left if 2 * left <= cores else 0
    return [replace(at, threads=2 if i >= len(layers) - shared else 1) for i, at in enumerate(layers)]


def score_silhouettes(at: LayerOfRun, train: Rows, metrics: tuple[Metric, ...]) -> None:
    """Stage `silhouette`, `silhouette_by_class` and `silhouette_row` of the train rows, every metric."""
    if is_staged(at.layout, at.run_id, "silhouette", at.part):
        return
    means, classes, rows = [], [], []
    for metric in metrics:
        started = time.perf_counter()
        found = silhouette(train.X, train.y, metric, seed=at.seed)
        seconds = time.perf_counter() - started
        kind = {"metric": metric.value, "space": Space.RAW.value}
        means.append(
            kind
            | {"precision": Precision.EXACT.value, "mean": found.mean}
            | {"standard_error": found.standard_error, "n": found.n, "seconds": seconds}
        )
        classes += [
            kind | {"label": at.dataset.classes[label], "mean": mean, "n": n}
            for label, (mean, n) in found.by_class.items()
        ]
        scores = {"row_id": train.row_id, "silhouette": found.samples, "influence": found.influence}
        rows.append(keyed(pl.DataFrame({"metric": [metric.value]}), pl.DataFrame(scores)))
    _stage(at, "silhouette_row", pl.concat(rows))
    _stage(at, "silhouette_by_class", pl.DataFrame(classes))
    _stage(at, "silhouette", pl.DataFrame(means))


def score_with_criteria(at: LayerOfRun, train: Rows, features: Features, names: tuple[str, ...]) -> None:
    """Stage `criterion` and, for the paired errors of ridge leave-one-out, `ridge_row`, of the train rows."""
    if is_staged(at.layout, at.run_id, "criterion", at.part):
        return
    values: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name in names:
        started = time.perf_counter()
        values |= score_criteria(features, names=[name])
        seconds[name] = time.perf_counter() - started
    ridge = features.once(ridge_leave_one_out)
    _stage(at, "ridge_row", pl.DataFrame({"row_id": train.row_id, "correct": ridge.correct}))
    _stage(
        at,
        "criterion",
        pl.DataFrame([{"name": name, "value": values[name], "seconds": seconds[name]} for name in values]),
    )


def score_with_probe(at: LayerOfRun, train: Features, test: Rows) -> None:
    """Stage `probe` and `prediction`: fitted on train rows, measured on test rows."""
    if is_staged(at.layout, at.run_id, "probe", at.part):
        return
    started = time.perf_counter()
    found = fit_probe_on(train, test.X, test.y, seed=at.seed)
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
    _stage(at, "prediction", pl.DataFrame(predictions))
    _stage(at, "probe", pl.DataFrame([row]))


def read_rows(at: LayerOfRun) -> tuple[Rows, Rows]:
    """Train and test rows of the layer; row ids count train rows first."""
    # OpenMP counts threads by calling thread: the workers of a pool share the cores between them.
    use_threads(1)
    found = read_layer(
        at.shard_uris, layer=at.layer, norm_state=at.norm_state.value, pooling=at.pooling.value
    )
    # Shards hold the rows of the data set in its order: parts of the arrays, not copies.
    train = int(np.searchsorted(found.row_id, at.dataset.train_rows))
    return (
        Rows(found.embeddings[:train], found.label[:train], found.row_id[:train]),
        Rows(found.embeddings[train:], found.label[train:], found.row_id[train:]),
    )


def _stage(at: LayerOfRun, table: str, rows: pl.DataFrame) -> None:
    stage(at.layout, at.run_id, table, at.part, keyed(at.key(), rows))


@task(
    name="score-layer",
    task_run_name="score {at.pooling.value} {at.norm_state.value} layer {at.layer}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def score_layer_task(at: LayerOfRun, metrics: tuple[Metric, ...], names: tuple[str, ...]) -> None:
    """Silhouettes, criteria and probe of one layer."""
    score_layer(at, metrics, names)
