"""The scores of one layer, from its embeddings in storage to staged rows: one task, which reads the layer once.

A score whose rows are staged, all of them whole, is not computed again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from prefect import task

from storage.embeddings import read_layer
from storage.staged import is_staged, keyed, read_part, rows_of, stage
from tasks.curves import LayerOfRun
from tasks.data.stored_table import read_table, targets_of
from tasks.data.tagged_words import WORD_KEYS
from tasks.data.units import ROWS, Units, read_units
from tasks.numerics.cores import side_by_side, use_threads
from tasks.numerics.distances import FLOAT64_ROWS
from tasks.retries import LONG_S, RETRIED
from tasks.scoring.criteria import prepare_criteria, score_criteria
from tasks.scoring.entities import entity_f1_of
from tasks.scoring.features import Features
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.scoring.scoring_device import CPU, scoring_on
from tasks.scoring.silhouette import Silhouette, silhouette
from tasks.scoring.target import Target, interval
from tasks.scoring.target_probe import fit_target_probe
from tasks.vocabulary import Metric, Precision, ProbeProtocol, Space, Task

# Raised by hand when a change of the scoring code changes a number.
SCORING_VERSION = 15

# What one kind of score stages.
SILHOUETTE = ("silhouette", "silhouette_by_class", "silhouette_row")
PROBE = ("probe", "prediction")
RIDGE = "ridge"
"""The protocol of a probe of several labels or a number."""
# Columns of `probe` that some tasks have.
_OF_DETECTION = ("positive_class", "auroc", "tpr_at_1_percent_fpr")
_OF_TARGETS = ("micro_f1", "average_precision", "r2", "spearman", "mean_absolute_error")
_OF_WORDS = ("entity_f1",)
_NOT_MEASURED = dict.fromkeys((*_OF_DETECTION, *_OF_TARGETS, *_OF_WORDS))


@dataclass(frozen=True)
class ScoringSettings:
    """How layers are scored: all that changes a score of given embeddings, but the seed."""

    metrics: tuple[Metric, ...]
    criteria: tuple[str, ...]
    protocol: ProbeProtocol
    silhouette_rows: int
    """Most train rows of a Euclidean silhouette; of more, so many are sampled by class."""
    silhouette_precision: Precision
    """Of the Euclidean metric; the others have a closed form in float64."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split of one layer."""

    X: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]
    row_id: npt.NDArray[np.int64]
    target: Target | None = None
    """Where the task is not one class a row."""
    units: Units = ROWS
    """What of the rows is independent, and how much each counts."""
    words: pl.DataFrame | None = None
    """Of words: `text_id` and `at` (`tagged_words.WORD_KEYS`)."""


def score_layer(layer: LayerOfRun, settings: ScoringSettings) -> None:
    """Stage every score of the layer that is not staged yet."""
    if is_scored(layer, settings.criteria):
        return
    train, test = read_rows(layer)

    def score(device: str) -> None:
        # What criteria and probe share is computed once, by the first that needs it.
        features = Features(
            train.X,
            train.y,
            target=train.target,
            groups=train.units.groups,
            weights=train.units.weights,
            device=device,
        )

        def fit() -> None:
            score_with_criteria(layer, train, features, settings.criteria)
            score_with_probe(layer, features, test, settings.protocol)

        side_by_side(layer.threads, partial(score_silhouettes, layer, train, features.rows, settings), fit)

    scoring_on(layer.device, score)


def is_scored(layer: LayerOfRun, criteria: Sequence[str]) -> bool:
    """Whether every score of the layer is staged, so that its embeddings are not needed any more."""
    return _has(layer, *SILHOUETTE, *PROBE) and not _missing(criteria, _staged_criteria(layer))


def on_idle_cores(layers: list[LayerOfRun], cores: int, device: str = CPU) -> list[LayerOfRun]:
    """The same layers, for this device; those of a CPU's last round on two threads each, if it leaves as many cores
    without a layer."""
    if device != CPU:
        return [replace(layer, device=device) for layer in layers]
    left = len(layers) % cores
    shared = left if 2 * left <= cores else 0
    return [replace(layer, threads=2 if i >= len(layers) - shared else 1) for i, layer in enumerate(layers)]


def score_silhouettes(
    layer: LayerOfRun, train: SplitRows, X: torch.Tensor, settings: ScoringSettings
) -> None:
    """Stage `silhouette`, `silhouette_by_class` and `silhouette_row` of the train rows, every metric.

    X: the train rows, float32 [N, D], where they are to be scored.
    """
    if _has(layer, *SILHOUETTE):
        return
    means, classes, rows = [], [], []
    for metric in settings.metrics:
        started = time.perf_counter()
        found = silhouette_of(X, train.y, metric, settings, layer.seed)
        seconds = time.perf_counter() - started
        kind = {"metric": metric.value, "space": Space.RAW.value}
        means.append(
            kind
            | {"precision": _precision(metric, found, len(train.y), settings), "mean": found.mean}
            | {"standard_error": found.standard_error, "n": found.n, "seconds": seconds}
        )
        classes += [
            kind | {"label": layer.dataset.classes[label], "mean": mean, "n": n}
            for label, (mean, n) in found.by_class.items()
        ]
        scores = {
            "row_id": train.row_id[found.rows],
            "silhouette": found.samples,
            "influence": found.influence,
        }
        rows.append(keyed(pl.DataFrame({"metric": [metric.value]}), pl.DataFrame(scores)))
    _stage(layer, "silhouette_row", pl.concat(rows))
    _stage(layer, "silhouette_by_class", pl.DataFrame(classes))
    _stage(layer, "silhouette", pl.DataFrame(means))


def silhouette_of(
    X: torch.Tensor,
    y: npt.NDArray[np.integer],
    metric: Metric,
    settings: ScoringSettings,
    seed: int,
) -> Silhouette:
    """As the settings ask, of rows X where they are: a Euclidean one looks at every pair of rows; the others always
    take all, in float64."""
    device = str(X.device)
    if metric is not Metric.EUCLIDEAN:
        return silhouette(X, y, metric, seed=seed, device=device)
    precision, most = settings.silhouette_precision, settings.silhouette_rows
    return silhouette(X, y, metric, precision=precision, sample=most, seed=seed, device=device)


def _precision(metric: Metric, found: Silhouette, rows: int, settings: ScoringSettings) -> str:
    """`exact`, `fast`, `sampled 50,000 of 120,000` or `fast, sampled 50,000 of 120,000`."""
    fast = metric is Metric.EUCLIDEAN and settings.silhouette_precision is Precision.FAST
    # Few rows are computed in float64 in any case.
    said = [Precision.FAST.value] if fast and found.n > FLOAT64_ROWS else []
    if found.n < rows:
        said.append(f"sampled {found.n:,} of {rows:,}")
    return ", ".join(said) or Precision.EXACT.value


def score_with_criteria(
    layer: LayerOfRun, train: SplitRows, features: Features, names: Sequence[str]
) -> None:
    """Stage `criterion` and, for the paired errors of ridge leave-one-out, `ridge_row`, of the train rows."""
    staged = _staged_criteria(layer)
    missing = _missing(names, staged)
    if not missing:
        return
    found = []
    started = time.perf_counter()
    # The first criterion's seconds hold what it shares with the others.
    prepare_criteria(features, missing)
    for name in missing:
        value = score_criteria(features, names=[name])[name]
        now = time.perf_counter()
        found.append({"name": name, "value": value, "seconds": now - started})
        started = now
    rows = keyed(layer.key(), pl.DataFrame(found))
    if staged is None:
        ridge = features.once(ridge_leave_one_out)
        scores = {"correct": ridge.correct, "squared_error": ridge.squared_error, "log_loss": ridge.log_loss}
        # Whether a row is anything but the mean of all: `curve_choice` asks it of all rows of a layer.
        differs = (features.row_squares > 0).cpu().numpy()
        left_out = pl.DataFrame({"row_id": train.row_id, "differs": differs} | scores)
        _stage(layer, "ridge_row", left_out.cast({pl.Float64: pl.Float32}))
    else:
        rows = pl.concat([staged, rows])
    stage(layer.layout, layer.run_id, "criterion", layer.part, rows)


def _staged_criteria(layer: LayerOfRun) -> pl.DataFrame | None:
    if not _has(layer, "ridge_row"):
        return None
    return read_part(layer.layout, layer.run_id, "criterion", layer.part)


def _missing(names: Sequence[str], staged: pl.DataFrame | None) -> list[str]:
    """The criteria that are asked for and not staged."""
    there = set() if staged is None else set(staged["name"])
    return [name for name in names if name not in there]


def score_with_probe(layer: LayerOfRun, train: Features, test: SplitRows, protocol: ProbeProtocol) -> None:
    """Stage `probe` and `prediction`: fitted on train rows, measured on test rows."""
    if _has(layer, *PROBE):
        return
    if test.target is not None:
        _score_target(layer, train, test, test.target)
        return
    started = time.perf_counter()
    found = fit_probe_on(
        train, test.X, test.y, protocol=protocol, test_weights=test.units.weights, seed=layer.seed
    )
    row: dict[str, Any] = {
        "protocol": protocol.value,
        "accuracy": found.accuracy,
        "accuracy_low": found.accuracy_low,
        "accuracy_high": found.accuracy_high,
        "macro_f1": found.macro_f1,
        "balanced_accuracy": found.balanced_accuracy,
        "majority_accuracy": found.majority_accuracy,
        "log_loss": found.log_loss,
        "penalty": found.penalty,
        "held_out_accuracy": found.held_out_accuracy,
        "held_out_log_loss": found.held_out_log_loss,
        "held_out_rows": found.held_out_rows,
        "iterations": found.iterations,
        "converged": found.converged,
        "n_train": found.n_train,
        "n_test": found.n_test,
        "seconds": time.perf_counter() - started,
        **_NOT_MEASURED,
    }
    if found.detection is not None:
        row["positive_class"] = layer.dataset.classes[found.detection.positive]
        row["auroc"] = found.detection.auroc
        row["tpr_at_1_percent_fpr"] = found.detection.true_positive_rate
    if not test.units.are_rows:
        right = test.units.of(found.predictions == test.y)
        row["accuracy_low"], row["accuracy_high"] = interval(right)[1:]
    if test.words is not None:
        row["entity_f1"] = entity_f1_of(layer.dataset.classes, test.words, test.y, found.predictions)
    predictions = {"row_id": test.row_id, "label": test.y, "predicted": found.predictions}
    _stage(layer, "prediction", pl.DataFrame(predictions))
    stage(layer.layout, layer.run_id, "probe", layer.part, rows_of("probe", layer.key(), [row]))


def _score_target(layer: LayerOfRun, train: Features, test: SplitRows, target: Target) -> None:
    started = time.perf_counter()
    found = fit_target_probe(train, test.X, target)
    row: dict[str, Any] = _NOT_MEASURED | {
        "protocol": RIDGE,
        "accuracy": found.accuracy,
        "accuracy_low": found.accuracy_low,
        "accuracy_high": found.accuracy_high,
        "macro_f1": None,
        "balanced_accuracy": None,
        "majority_accuracy": found.majority_accuracy,
        "log_loss": float(found.judged.loss.mean()),
        "penalty": found.penalty,
        "held_out_accuracy": found.held_out_accuracy,
        "held_out_log_loss": found.held_out_loss,
        "held_out_rows": train.n,
        "iterations": 0,
        "converged": True,
        "n_train": train.n,
        "n_test": len(test.y),
        "seconds": time.perf_counter() - started,
        **found.measures,
    }
    if not test.units.are_rows:
        right = test.units.of(found.judged.right)
        row["accuracy_low"], row["accuracy_high"] = interval(right)[1:]
    predictions = {"row_id": test.row_id, "label": test.y, "right": found.judged.right}
    _stage(layer, "prediction", pl.DataFrame(predictions))
    stage(layer.layout, layer.run_id, "probe", layer.part, rows_of("probe", layer.key(), [row]))


def read_rows(layer: LayerOfRun) -> tuple[SplitRows, SplitRows]:
    """Train and test rows of the layer; row ids count train rows first."""
    # OpenMP counts threads by calling thread: the workers of a pool share the cores between them.
    use_threads(1)
    dataset = layer.dataset
    found = read_layer(
        layer.shard_uris,
        layer=layer.layer,
        norm_state=layer.norm_state.value,
        pooling=layer.pooling.value,
        most_rows=dataset.train_rows + dataset.test_rows,
    )
    # Shards hold the rows of the data set in its order: parts of the arrays, not copies.
    train = int(np.searchsorted(found.row_id, dataset.train_rows))
    targets, words = None, None
    if dataset.task is Task.TOKEN_CLASSIFICATION:
        words = read_table(dataset.uri, columns=[*WORD_KEYS])[found.row_id]
    elif dataset.task is not Task.SINGLE_LABEL:
        targets = targets_of(read_table(dataset.uri, columns=["target"]))[found.row_id]
    units = read_units(dataset)[found.row_id]

    def rows(at: slice) -> SplitRows:
        target = None if targets is None else Target(dataset.task, targets[at])
        own = None if words is None else words[at]
        return SplitRows(found.embeddings[at], found.label[at], found.row_id[at], target, units[at], own)

    return rows(slice(None, train)), rows(slice(train, None))


def _has(layer: LayerOfRun, *tables: str) -> bool:
    """Whether its parts of all these tables are staged."""
    return all(is_staged(layer.layout, layer.run_id, table, layer.part) for table in tables)


def _stage(layer: LayerOfRun, table: str, rows: pl.DataFrame) -> None:
    stage(layer.layout, layer.run_id, table, layer.part, keyed(layer.key(), rows))


@task(
    name="score-layer",
    task_run_name="score {layer.pooling.value} {layer.norm_state.value} layer {layer.layer}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def score_layer_task(layer: LayerOfRun, settings: ScoringSettings) -> None:
    """Silhouettes, criteria and probe of one layer."""
    score_layer(layer, settings)
