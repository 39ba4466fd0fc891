"""From the staged scores of one layer curve to its inflection points, the chosen layer and the audit, as rows."""

from dataclasses import asdict
from typing import Any

import numpy.typing as npt
import polars as pl
from prefect import get_run_logger, task

from storage.staged import keyed, read_staged, stage
from tasks.choosing.audit import (
    audit_choice,
    audit_score,
    audit_zone,
    near_points,
    rank_correlation,
    zones,
)
from tasks.choosing.choice import DEFAULT_RULE, LayerChoice, LayerEvidence, choose_layers
from tasks.choosing.inflection import CurveShape, find_inflection_points
from tasks.curves import CurveOfRun
from tasks.retries import LONG_S, RETRIED


def choose(curve: CurveOfRun) -> LayerChoice:
    """Stage `inflection_point`, `trend` and `layer_choice` of the curve; the choice of the default rule.

    Only train rows are read: the silhouettes, the criteria and the rows of ridge leave-one-out.
    """
    means, rows = curve.read("silhouette"), curve.read("silhouette_row")
    criteria, ridge_rows = curve.read("criterion"), curve.read("ridge_row")
    curves = {
        metric: (
            _by_layer(means.filter(metric=metric), "mean")[:, 0],
            _by_layer(rows.filter(metric=metric), "influence"),
        )
        for metric in means["metric"].unique(maintain_order=True)
    }
    evidence = LayerEvidence(
        silhouettes=curves,
        criteria={
            name: _by_layer(criteria.filter(name=name), "value")[:, 0]
            for name in criteria["name"].unique(maintain_order=True)
        },
        ridge_correct=_by_layer(ridge_rows, "correct"),
        last_is_normed=curve.last_is_normed,
    )
    shapes = {
        metric: find_inflection_points(
            values, influence, last_is_normed=curve.last_is_normed, seed=curve.seed
        )
        for metric, (values, influence) in curves.items()
    }
    choices = choose_layers(evidence, seed=curve.seed)
    points = [
        {"metric": metric, "layer": point.layer, "kind": point.kind.value}
        | {"relative_change": point.relative_change, "strength": point.strength}
        for metric, shape in shapes.items()
        for point in shape.points
    ]
    _stage(curve, "inflection_point", points, _POINT)
    _stage(
        curve,
        "trend",
        [row for metric, shape in shapes.items() for row in _trend(f"silhouette:{metric}", shape)],
        _TREND,
    )
    _stage(curve, "layer_choice", [_choice_row(choice) for choice in choices], None)
    return next(choice for choice in choices if choice.rule == DEFAULT_RULE)


def audit(curve: CurveOfRun) -> None:
    """The first look at the test rows: stage `audit`, one row a rule, the `trend` of the accuracy, and how far the
    paper's claims and every train-only score reach (`curve_audit`, `zone_audit`, `score_audit`)."""
    predictions = curve.read("prediction").with_columns(correct=pl.col("label") == pl.col("predicted"))
    correct = _by_layer(predictions, "correct")
    shape = find_inflection_points(
        correct.mean(axis=1), correct, last_is_normed=curve.last_is_normed, seed=curve.seed
    )
    _stage(curve, "trend", _trend("accuracy", shape), _TREND, suffix="-accuracy")
    rows = []
    for choice in read_staged(curve.layout, curve.run_id, "layer_choice", curve.part).iter_rows(named=True):
        audited = asdict(audit_choice(choice["layer"], correct, seed=curve.seed))
        rows.append({"rule": choice["rule"], "is_default": choice["is_default"]} | audited)
    _stage(curve, "audit", rows, None)
    _audit_curves(curve, correct, shape)


def _audit_curves(curve: CurveOfRun, correct: npt.NDArray[Any], accuracy: CurveShape) -> None:
    means, influences, criteria = (
        curve.read("silhouette"),
        curve.read("silhouette_row"),
        curve.read("criterion"),
    )
    parts = zones(len(correct) - 1)
    curves, scores = [], {}
    for metric in means["metric"].unique(maintain_order=True):
        values = _by_layer(means.filter(metric=metric), "mean")[:, 0]
        influence = _by_layer(influences.filter(metric=metric), "influence")
        shape = find_inflection_points(
            values, influence, last_is_normed=curve.last_is_normed, seed=curve.seed
        )
        follows = rank_correlation(values, influence, correct, seed=curve.seed)
        curves.append(
            {"metric": metric, "silhouette_direction": shape.direction.value}
            | {"accuracy_direction": accuracy.direction.value}
            | {"rank_correlation": follows and follows.value}
            | {"rank_correlation_low": follows and follows.low}
            | {"rank_correlation_high": follows and follows.high}
        )
        parts[f"points:{metric}"] = near_points([point.layer for point in shape.points], len(correct) - 1)
        scores[f"silhouette:{metric}"] = values
    for name in criteria["name"].unique(maintain_order=True):
        scores[f"criterion:{name}"] = _by_layer(criteria.filter(name=name), "value")[:, 0]
    _stage(curve, "curve_audit", curves, _CURVE)
    zoned = [
        {"zone": zone} | asdict(audit_zone(layers, correct, seed=curve.seed))
        for zone, layers in parts.items()
    ]
    _stage(curve, "zone_audit", zoned, _ZONE)
    scored = [
        {"score": name} | asdict(audit_score(score, correct, seed=curve.seed))
        for name, score in scores.items()
    ]
    _stage(curve, "score_audit", scored, _SCORE)


_POINT = {
    "metric": pl.String,
    "layer": pl.Int32,
    "kind": pl.String,
    "relative_change": pl.Float64,
    "strength": pl.Float64,
}
_TREND = {
    "curve": pl.String,
    "segment": pl.Int32,
    "from_layer": pl.Int32,
    "to_layer": pl.Int32,
    "direction": pl.String,
    "relative_change": pl.Float64,
}
_CURVE = {
    "metric": pl.String,
    "silhouette_direction": pl.String,
    "accuracy_direction": pl.String,
    "rank_correlation": pl.Float64,
    "rank_correlation_low": pl.Float64,
    "rank_correlation_high": pl.Float64,
}
_ZONE = {
    "zone": pl.String,
    "layer_share": pl.Float64,
    "best_inside": pl.Int32,
    "best_outside": pl.Int32,
    "advantage": pl.Float64,
    "advantage_low": pl.Float64,
    "advantage_high": pl.Float64,
    "p_value": pl.Float64,
}
_SCORE = {
    "score": pl.String,
    "layer": pl.Int32,
    "regret": pl.Float64,
    "split_regret": pl.Float64,
    "gain_over_last": pl.Float64,
    "p_value": pl.Float64,
    "rank_correlation": pl.Float64,
}


def _trend(curve: str, shape: CurveShape) -> list[dict[str, object]]:
    return [{"curve": curve} | asdict(segment) for segment in shape.trend]


def _choice_row(choice: LayerChoice) -> dict[str, object]:
    return asdict(choice) | {"rule": choice.rule.value, "is_default": choice.rule == DEFAULT_RULE}


def _by_layer(rows: pl.DataFrame, column: str) -> npt.NDArray[Any]:
    """[layers, rows a layer], layers in order, the rows of a layer in the order of their ids."""
    order = ["layer", "row_id"] if "row_id" in rows.columns else ["layer"]
    return rows.sort(order)[column].to_numpy().reshape(rows["layer"].n_unique(), -1)


def _stage(
    curve: CurveOfRun,
    table: str,
    rows: list[dict[str, object]],
    schema: dict[str, type[pl.DataType]] | None,
    suffix: str = "",
) -> None:
    frame = pl.DataFrame(rows, schema=schema)  # a curve without a turn still has its columns
    stage(curve.layout, curve.run_id, table, curve.part + suffix, keyed(curve.key(), frame))


@task(
    name="choose-layer",
    task_run_name="choose layer {curve.pooling.value} {curve.norm_state.value}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def choose_layer_task(curve: CurveOfRun) -> LayerChoice:
    """Inflection points and train-only criteria → one layer."""
    choice = choose(curve)
    get_run_logger().info(
        "%s %s: layer %s. %s", curve.pooling.value, curve.norm_state.value, choice.layer, choice.reason
    )
    return choice


@task(
    name="audit",
    task_run_name="audit {curve.pooling.value} {curve.norm_state.value}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def audit_task(curve: CurveOfRun) -> None:
    """What each rule's choice was worth on the test rows."""
    audit(curve)
