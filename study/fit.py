"""Rules fitted on all other data sets, and on all other models, measured on what was left out.

A family is a set of rules that differ in their constants; the one with the least mean split regret on the rest is
taken, those first whose worst there stays within the family's bar. Everything is read from staged rows; test rows
measure and are seen by no rule.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.layout import Layout
from storage.sources.grammar import parse_source
from storage.staged import read_staged
from tasks.choosing.audit import audit_score
from tasks.choosing.inflection import error_covariance, find_inflection_points, paired_errors

METRICS = ("cosine", "sqeuclidean", "euclidean")
WORST = {"default": 0.015, "without inflection points": 0.015, "silhouettes alone": 0.04}
"""The bar of a family: its worst split regret, a fraction."""


@dataclass(frozen=True)
class Curve:
    """What rules read of one pooling and norm state of one run (train rows), and the test rows that judge them."""

    model: str
    dataset: str
    pooling: str
    norm_state: str
    silhouettes: dict[str, NDArray[np.float64]]
    points: dict[str, list[int]]
    """metric → layers of the inflection points, both ends and the end of the trend among them."""
    whitened: NDArray[np.float64]
    """The criterion `whitened_silhouette`."""
    ridge: NDArray[np.float64]
    ridge_errors: NDArray[np.float64]
    rows: int
    correct: NDArray[np.bool_]


Rule = Callable[[Curve], int]


def read_curves(storage: str) -> Iterator[Curve]:
    """Every curve of every finished run of a storage folder."""
    layout = Layout(storage)
    for folder in sorted(Path(storage, "staged").iterdir()):
        if not (folder / "execution").is_dir():
            continue
        run = read_staged(layout, folder.name, "run").row(0, named=True)
        chosen = read_staged(layout, folder.name, "layer_choice")
        for pooling, norm_state in chosen.select("pooling", "norm_state").unique(maintain_order=True).rows():
            yield _read_curve(layout, run, pooling, norm_state)


def _read_curve(layout: Layout, run: dict[str, Any], pooling: str, norm_state: str) -> Curve:
    part = f"{pooling}-{norm_state}-"
    means, influences, criteria, ridge, predicted = (
        read_staged(layout, run["run_id"], table, part)
        for table in ("silhouette", "silhouette_row", "criterion", "ridge_row", "prediction")
    )
    trend = read_staged(layout, run["run_id"], "trend", part[:-1]).filter(pl.col("curve") == "accuracy")
    end = trend["to_layer"].max()
    silhouettes, points = {}, {}
    for metric in METRICS:
        values = _by_layer(means.filter(metric=metric), "mean")[:, 0]
        influence = _by_layer(influences.filter(metric=metric), "influence")
        shape = find_inflection_points(values, influence, last_is_normed=end != len(values) - 1)
        silhouettes[metric] = values
        points[metric] = sorted({0, int(end), len(values) - 1} | {point.layer for point in shape.points})
    right = _by_layer(ridge, "correct")
    return Curve(
        model=parse_source(run["model_id"]).short_name,
        dataset=parse_source(run["dataset_id"]).short_name,
        pooling=pooling,
        norm_state=norm_state,
        silhouettes=silhouettes,
        points=points,
        whitened=_by_layer(criteria.filter(name="whitened_silhouette"), "value")[:, 0],
        ridge=right.mean(axis=1),
        ridge_errors=paired_errors(error_covariance(right)),
        rows=right.shape[1],
        correct=_by_layer(predicted.with_columns(correct=pl.col("label") == pl.col("predicted")), "correct"),
    )


def _by_layer(rows: pl.DataFrame, column: str) -> NDArray[Any]:
    order = ["layer", "row_id"] if "row_id" in rows.columns else ["layer"]
    return rows.sort(order)[column].to_numpy().reshape(rows["layer"].n_unique(), -1)


def families() -> dict[str, dict[str, Rule]]:
    """family → name → rule. The default rule of the product is `turns of cosine ± 0 by ridge, tie 1.0`."""
    ties = (0.0, 0.25, 0.5, 1.0)
    found: dict[str, dict[str, Rule]] = {
        "without inflection points": {f"all by ridge, tie {tie}": _by_ridge(None, 0, tie) for tie in ties},
        "default": {
            f"turns of {metric} ± {near} by ridge, tie {tie}": _by_ridge(metric, near, tie)
            for metric in METRICS
            for near in (0, 1, 2)
            for tie in ties
        },
        "silhouettes alone": {f"maximum of {metric}": _maximum(metric) for metric in METRICS}
        | {f"highest turn or end of {metric}": _highest_turn(metric) for metric in METRICS}
        | {f"maximum of {metric} above layer 0": _maximum(metric, first=1) for metric in METRICS}
        | {f"turns of {metric} by whitened silhouette": _whitened(metric) for metric in METRICS}
        | {
            "maximum of whitened silhouette": _whitened(None),
            "least sum of ranks": _rank_sum(METRICS),
            "least sum of ranks, two metrics": _rank_sum(METRICS[:2]),
        },
    }
    return found


def _by_ridge(metric: str | None, near: int, tie: float) -> Rule:
    def pick(curve: Curve) -> int:
        layers = np.arange(len(curve.ridge))
        if metric is not None:
            turns = np.array(curve.points[metric])
            layers = layers[np.abs(layers[:, None] - turns).min(axis=1) <= near]
        best = layers[curve.ridge[layers].argmax()]
        # One row's difference, and half of it for rounding, is chance.
        within = np.maximum(tie * curve.ridge_errors[best, layers], 1.5 / curve.rows if tie else 0.0)
        return int(layers[curve.ridge[best] - curve.ridge[layers] <= within][0])

    return pick


def _maximum(metric: str, first: int = 0) -> Rule:
    return lambda curve: first + int(curve.silhouettes[metric][first:].argmax())


def _highest_turn(metric: str) -> Rule:
    return lambda curve: max(curve.points[metric], key=lambda layer: curve.silhouettes[metric][layer])


def _whitened(metric: str | None) -> Rule:
    def pick(curve: Curve) -> int:
        layers = range(len(curve.whitened)) if metric is None else curve.points[metric]
        return max(layers, key=lambda layer: curve.whitened[layer])

    return pick


def _rank_sum(metrics: tuple[str, ...]) -> Rule:
    def pick(curve: Curve) -> int:
        ranks = sum(np.argsort(np.argsort(-curve.silhouettes[metric])) for metric in metrics)
        return int(np.asarray(ranks).argmin())

    return pick


def try_rules(curves: list[Curve]) -> pl.DataFrame:
    """One row a curve and rule of any family: the layer picked, its depth (0–1) and what it is worth (fractions)."""
    rows = []
    for family, rules in families().items():
        for curve in curves:
            for name, rule in rules.items():
                layer = rule(curve)
                rows.append(
                    {"family": family, "rule": name, "model": curve.model, "dataset": curve.dataset}
                    | {"pooling": curve.pooling, "norm_state": curve.norm_state}
                    | {"layer": layer, "depth": layer / (len(curve.ridge) - 1)}
                    | measure(layer, curve)
                )
    return pl.DataFrame(rows)


def sum_up(tried: pl.DataFrame) -> pl.DataFrame:
    """One row a rule of `try_rules`, over all curves."""
    return tried.group_by("family", "rule", maintain_order=True).agg(
        curves=pl.len(),
        mean_split_regret=pl.col("split_regret").mean(),
        worst_split_regret=pl.col("split_regret").max(),
        mean_gain_over_last=pl.col("gain_over_last").mean(),
        mean_depth=pl.col("depth").mean(),
    )


def fit_left_out(tried: pl.DataFrame) -> pl.DataFrame:
    """One row a family and thing left out: the rule that was fitted, and its split regrets there (fractions)."""
    rows = []
    for (family,), of_family in tried.group_by("family", maintain_order=True):
        for by in ("dataset", "model"):
            for left_out in sorted(of_family[by].unique()):
                rest, there = (
                    of_family.filter(pl.col(by) != left_out),
                    of_family.filter(pl.col(by) == left_out),
                )
                if rest.is_empty():
                    continue
                fitted = (
                    rest.group_by("rule", maintain_order=True)
                    .agg(mean=pl.col("split_regret").mean(), worst=pl.col("split_regret").max())
                    .sort(pl.col("worst") > WORST[str(family)], "mean", maintain_order=True)["rule"][0]
                )
                measured = there.filter(rule=fitted)
                rows.append(
                    {"family": family, "left_out_by": by, "left_out": left_out, "rule": fitted}
                    | {"curves": measured.height, "mean_split_regret": measured["split_regret"].mean()}
                    | {"worst_split_regret": measured["split_regret"].max()}
                    | {"mean_gain_over_last": measured["gain_over_last"].mean()}
                )
    return pl.DataFrame(rows)


def measure(layer: int, curve: Curve) -> dict[str, float]:
    """What picking this layer of the curve is worth on its test rows, as fractions of them."""
    score = np.zeros(len(curve.correct))
    score[layer] = 1.0
    found = audit_score(score, curve.correct)
    return {"split_regret": found.split_regret, "gain_over_last": found.gain_over_last}
