"""What rules read of each layer curve of a finished grid, and the test rows that judge them: read once, then kept.

A rule is tried on a few hundred curves in seconds: what it reads of a curve's staged rows, L values a score and the
L × L covariances of their errors, is kept in `<storage>/curves/`, beside the rows that it came from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.layout import Layout
from storage.sources.grammar import parse_source
from storage.staged import read_staged
from tasks.choosing.curve_choice import by_layer
from tasks.choosing.expectation import Expectation
from tasks.choosing.inflection import error_covariance, measure_curve
from tasks.numerics.cached_property import cached_property

# Of a layer's rows: what the mean over them is called among the scores.
OF_ROWS = {"correct": "ridge_loo", "squared_error": "squared_error", "log_loss": "log_loss"}


@dataclass(frozen=True)
class Curve:
    """One pooling and norm state of one run: L layers, seen by M train rows and judged by N test rows."""

    run_id: str
    model: str
    dataset: str
    pooling: str
    norm_state: str
    scores: Mapping[str, NDArray[np.float64]]
    """name → [L]: criteria, `silhouette:METRIC`, `squared_error` and `log_loss` left out, `held_out_accuracy` and
    `held_out_log_loss` of the probe on train rows."""
    covariances: Mapping[str, NDArray[np.float64]]
    """name → [L, L]: of the errors of those scores that are means over rows."""
    points: Mapping[str, list[int]]
    """metric → layers of the inflection points."""
    trend_end: int
    """The last layer whose scores compare with the others'."""
    train_rows: int
    classes: int
    correct: NDArray[np.bool_]
    """[L, N]: whether the probe gave each test row its label."""

    @property
    def last(self) -> int:
        """The last layer."""
        return len(self.correct) - 1

    @cached_property
    def accuracy(self) -> NDArray[np.float64]:
        """[L], on the test rows."""
        return self.correct.mean(axis=1)

    @cached_property
    def expectation(self) -> Expectation:
        """As the product has it, from what is kept of the rows."""
        hits, noise = self.scores["ridge_loo"], self.covariances["ridge_loo"]
        return Expectation.of_means(self.scores["log_loss"], self.covariances["log_loss"], hits, noise)

    @property
    def depth(self) -> NDArray[np.float64]:
        """[L], 0 … 1."""
        return np.arange(self.last + 1) / self.last


def read_curves(storage: str) -> list[Curve]:
    """Every curve of every finished run of a storage folder."""
    return [
        curve for folder in sorted(Path(storage, "staged").iterdir()) for curve in _of_run(storage, folder)
    ]


def _of_run(storage: str, folder: Path) -> Iterator[Curve]:
    if not (folder / "execution").is_dir():
        return
    layout = Layout(storage)
    run = read_staged(layout, folder.name, "run").row(0, named=True)
    classes = len(read_staged(layout, folder.name, "dataset")["classes"].item())
    chosen = read_staged(layout, folder.name, "layer_choice")
    for pooling, norm_state in chosen.select("pooling", "norm_state").unique(maintain_order=True).rows():
        kept = Path(storage, "curves", f"{folder.name}-{pooling}-{norm_state}.npz")
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            np.savez_compressed(kept, **_read(layout, folder.name, f"{pooling}-{norm_state}"))
        with np.load(kept) as arrays:
            yield _curve(run, classes, pooling, norm_state, dict(arrays))


def _read(layout: Layout, run_id: str, part: str) -> dict[str, Any]:
    means, influences, criteria, left_out, probe, predicted = (
        read_staged(layout, run_id, table, f"{part}-")
        for table in ("silhouette", "silhouette_row", "criterion", "ridge_row", "probe", "prediction")
    )
    trend = read_staged(layout, run_id, "trend", part).filter(pl.col("curve") == "accuracy")
    end = max(trend["to_layer"].to_list())
    arrays: dict[str, NDArray[Any]] = {"trend_end": np.array(end)}
    for metric in means["metric"].unique(maintain_order=True):
        values = by_layer(means.filter(metric=metric), "mean")[:, 0]
        influence = by_layer(influences.filter(metric=metric), "influence")
        measured = measure_curve(values, influence, last_is_normed=end != len(values) - 1)
        arrays[f"score:silhouette:{metric}"] = values
        arrays[f"covariance:silhouette:{metric}"] = measured.noise.covariance
        arrays[f"points:{metric}"] = np.array([point.layer for point in measured.shape.points], dtype=int)
    for name in criteria["name"].unique(maintain_order=True):
        arrays[f"score:{name}"] = by_layer(criteria.filter(name=name), "value")[:, 0]
    for column, name in OF_ROWS.items():
        rows = by_layer(left_out, column).astype(np.float64)
        arrays[f"score:{name}"] = rows.mean(axis=1)
        arrays[f"covariance:{name}"] = error_covariance(rows)
    for column in ("held_out_accuracy", "held_out_log_loss"):
        arrays[f"score:{column}"] = by_layer(probe, column)[:, 0]
    arrays["train_rows"] = np.array(left_out["row_id"].n_unique())
    right = by_layer(predicted.with_columns(correct=pl.col("label") == pl.col("predicted")), "correct")
    return arrays | {"correct": right}


def _curve(
    run: Mapping[str, Any], classes: int, pooling: str, norm_state: str, arrays: dict[str, NDArray[Any]]
) -> Curve:
    def named(prefix: str) -> dict[str, NDArray[Any]]:
        return {name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)}

    return Curve(
        run_id=run["run_id"],
        model=parse_source(run["model_id"]).short_name,
        dataset=parse_source(run["dataset_id"]).short_name,
        pooling=pooling,
        norm_state=norm_state,
        scores=named("score:"),
        covariances=named("covariance:"),
        points={metric: each.tolist() for metric, each in named("points:").items()},
        trend_end=int(arrays["trend_end"]),
        train_rows=int(arrays["train_rows"]),
        classes=classes,
        correct=arrays["correct"],
    )
