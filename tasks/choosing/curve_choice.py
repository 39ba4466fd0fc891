"""From the staged scores of one layer curve to its inflection points, the chosen layer and the audit, as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt
import polars as pl
from prefect import get_run_logger, task

from storage.layout import Layout
from storage.staged import read_staged, rows_of, stage
from tasks.choosing.audit import (
    audit_choice,
    audit_score,
    audit_zone,
    near_points,
    rank_correlation,
    zones,
)
from tasks.choosing.choice import LayerChoice, LayerEvidence, choose_layers
from tasks.choosing.comparison import (
    compare,
    same_clustered_mean_p_value,
    same_mean_p_value,
    same_share_p_value,
)
from tasks.choosing.inflection import CurveShape, find_inflection_points, measure_curve
from tasks.choosing.rules import DEFAULT_RULE
from tasks.curves import CurveOfRun
from tasks.data.units import Units, read_units
from tasks.retries import LONG_S, RETRIED

# Columns of `audit`.
_OVER_TEXT = ("gain_over_text", "gain_over_text_low", "gain_over_text_high", "gain_over_text_p_value")


@dataclass(frozen=True)
class CurveChoice:
    """What choosing made of one curve, from train rows alone."""

    choices: tuple[LayerChoice, ...]
    """One a rule."""
    shapes: Mapping[str, CurveShape]
    """Of the silhouette curve of each metric."""

    @property
    def default(self) -> LayerChoice:
        """The default rule's choice."""
        return next(choice for choice in self.choices if choice.rule == DEFAULT_RULE)


def choose(curve: CurveOfRun, depth_price: float = 0.0) -> CurveChoice:
    """Stage `inflection_point`, `trend` and `layer_choice` of the curve.

    Only train rows are read: the silhouettes, the criteria, the rows of ridge leave-one-out, and of the probe what it
    said of held-out train rows. depth_price: as of `choose_layers`.
    """
    influences = curve.read("silhouette_row")
    silhouettes = {
        metric: measure_curve(
            values,
            _influences(curve, influences.filter(metric=metric)),
            last_is_normed=curve.last_is_normed,
            seed=curve.seed,
        )
        for metric, values in _values(curve.read("silhouette"), "metric", "mean").items()
    }
    left_out, held_out = curve.read("ridge_row"), curve.read("probe").sort("layer")["held_out_accuracy"]
    criteria = _values(curve.read("criterion"), "name", "value")
    if held_out.null_count() == 0:
        criteria["held_out_accuracy"] = held_out.to_numpy()
    evidence = LayerEvidence(
        silhouettes=silhouettes,
        criteria=criteria,
        ridge_correct=independent_by_layer(curve, left_out, "correct"),
        ridge_loss=independent_by_layer(curve, left_out, "log_loss"),
        last_is_normed=curve.last_is_normed,
        task=curve.task,
        is_cut=curve.is_cut,
        constant=_constant_layers(left_out),
    )
    shapes = {metric: measured.shape for metric, measured in silhouettes.items()}
    chosen = CurveChoice(tuple(choose_layers(evidence, depth_price=depth_price, seed=curve.seed)), shapes)
    points = [
        {"metric": metric} | asdict(point) | {"kind": point.kind.value}
        for metric, shape in shapes.items()
        for point in shape.points
    ]
    trend = [row for metric, shape in shapes.items() for row in _trend(f"silhouette:{metric}", shape)]
    _stage(curve, "inflection_point", points)
    _stage(curve, "trend", trend)
    _stage(
        curve,
        "layer_choice",
        [asdict(choice) | {"is_default": choice.rule == DEFAULT_RULE} for choice in chosen.choices],
    )
    return chosen


def audit(curve: CurveOfRun, chosen: CurveChoice) -> None:
    """The first look at the test rows: stage `audit`, one row a rule, the `trend` of the accuracy, and how far the
    paper's claims and every train-only score reach (`curve_audit`, `zone_audit`, `score_audit`)."""
    told = _with_right(curve.read("prediction"))
    correct = independent_by_layer(curve, told, "right")
    grouped = told["row_id"].n_unique() if curve.dataset is not None else None
    accuracy = find_inflection_points(
        correct.mean(axis=1), correct, last_is_normed=curve.last_is_normed, seed=curve.seed
    )
    _stage(curve, "trend", _trend("accuracy", accuracy), suffix="-accuracy")
    text = _right_by_text(curve)
    probe, left_out = curve.read("probe").sort("layer"), curve.read("ridge_row")
    audited = [
        {"rule": choice.rule, "is_default": choice.rule == DEFAULT_RULE}
        | asdict(audit_choice(choice.layer, correct, seed=curve.seed))
        | _over_text(correct[choice.layer], text)
        | _shift(correct[choice.layer], probe.row(choice.layer, named=True), left_out, grouped)
        for choice in chosen.choices
    ]
    _stage(curve, "audit", audited)
    silhouettes = _values(curve.read("silhouette"), "metric", "mean")
    _stage(curve, "curve_audit", _audit_curves(curve, silhouettes, chosen.shapes, correct, accuracy))
    last = len(correct) - 1
    parts = zones(last) | {
        f"points:{metric}": near_points([point.layer for point in shape.points], last)
        for metric, shape in chosen.shapes.items()
    }
    zoned = [{"zone": zone} | asdict(audit_zone(layers, correct)) for zone, layers in parts.items()]
    _stage(curve, "zone_audit", zoned)
    scores = {f"silhouette:{metric}": values for metric, values in silhouettes.items()}
    scores |= {
        f"criterion:{name}": values
        for name, values in _values(curve.read("criterion"), "name", "value").items()
    }
    scored = [
        {"score": name} | asdict(audit_score(score, correct, seed=curve.seed))
        for name, score in scores.items()
    ]
    _stage(curve, "score_audit", scored)


def right_on_test(layout: Layout, run_id: str, part: str) -> npt.NDArray[Any]:
    """[test rows], in the order of their ids: whether a layer's probe, as it was staged, gave each its label, bool; or
    how right it told each, float64."""
    rows = read_staged(layout, run_id, "prediction", part).sort("row_id")
    return _with_right(rows)["right"].to_numpy()


def _with_right(predictions: pl.DataFrame) -> pl.DataFrame:
    """What each row's column `right` says, which a row of several labels, or of a number, has already."""
    if "right" in predictions.columns:
        return predictions
    return predictions.with_columns(right=pl.col("label") == pl.col("predicted"))


def _right_by_text(curve: CurveOfRun) -> npt.NDArray[Any]:
    """As `right_on_test`, of the words alone, independent; [0] of a data set without texts."""
    rows = _with_right(read_staged(curve.layout, curve.run_id, "text_prediction", "baseline")).sort("row_id")
    return curve.independent(rows["right"].to_numpy(), rows["row_id"].to_numpy())


def _over_text(right: npt.NDArray[Any], text: npt.NDArray[Any]) -> dict[str, float | None]:
    if not len(text):
        return dict.fromkeys(_OVER_TEXT)
    over = compare(right, text)
    return dict(zip(_OVER_TEXT, (over.difference, over.low, over.high, over.p_value), strict=True))


def _shift(
    right: npt.NDArray[Any], probe: Mapping[str, Any], left_out: pl.DataFrame, grouped: int | None
) -> dict[str, float | None]:
    """Whether the probe is as good on train rows that were held out as on test rows; None where none were.

    grouped: test rows, where `right` is of groups of them.
    """
    rows, accuracy = probe["held_out_rows"], probe["held_out_accuracy"]
    if not rows:
        return {"held_out_accuracy": None, "shift_p_value": None}
    if grouped is not None:
        same = same_clustered_mean_p_value(right, grouped, accuracy, rows)
        return {"held_out_accuracy": accuracy, "shift_p_value": same}
    if right.dtype != bool:
        of_layer = left_out.filter(layer=probe["layer"])["correct"].to_numpy()
        return {"held_out_accuracy": accuracy, "shift_p_value": same_mean_p_value(of_layer, right)}
    hits = round(accuracy * rows)
    same = same_share_p_value(hits, rows, int(right.sum()), len(right))
    return {"held_out_accuracy": accuracy, "shift_p_value": same}


def _audit_curves(
    curve: CurveOfRun,
    silhouettes: Mapping[str, npt.NDArray[Any]],
    shapes: Mapping[str, CurveShape],
    correct: npt.NDArray[Any],
    accuracy: CurveShape,
) -> list[dict[str, Any]]:
    """Whether the accuracy follows each silhouette: rows of `curve_audit`."""
    influences = curve.read("silhouette_row")
    rows = []
    for metric, values in silhouettes.items():
        influence = _influences(curve, influences.filter(metric=metric))
        follows = rank_correlation(values, influence, correct, seed=curve.seed)
        rows.append(
            {"metric": metric, "silhouette_direction": shapes[metric].direction.value}
            | {"accuracy_direction": accuracy.direction.value}
            | {"rank_correlation": follows and follows.value}
            | {"rank_correlation_low": follows and follows.low}
            | {"rank_correlation_high": follows and follows.high}
        )
    return rows


def _trend(name: str, shape: CurveShape) -> list[dict[str, Any]]:
    return [
        {"curve": name} | asdict(segment) | {"direction": segment.direction.value} for segment in shape.trend
    ]


def _values(rows: pl.DataFrame, by: str, column: str) -> dict[str, npt.NDArray[Any]]:
    """The curve [L] of each score, in the order in which they were staged."""
    return {
        str(name): by_layer(rows.filter(pl.col(by) == name), column)[:, 0]
        for name in rows[by].unique(maintain_order=True)
    }


def _constant_layers(rows: pl.DataFrame) -> npt.NDArray[Any]:
    """bool [layers]: where no train row differs from the mean of all, all have one embedding."""
    return rows.group_by("layer").agg(~pl.col("differs").any()).sort("layer")["differs"].to_numpy()


def by_layer(rows: pl.DataFrame, column: str) -> npt.NDArray[Any]:
    """[layers, rows a layer], layers in order, the rows of a layer in the order of their ids."""
    order = ["layer", "row_id"] if "row_id" in rows.columns else ["layer"]
    return rows.sort(order)[column].to_numpy().reshape(rows["layer"].n_unique(), -1)


def independent_by_layer(curve: CurveOfRun, rows: pl.DataFrame, column: str) -> npt.NDArray[Any]:
    """As `by_layer`, of units that are independent (`CurveOfRun.independent`)."""
    return curve.independent(by_layer(rows, column), _row_ids(rows))


def _influences(curve: CurveOfRun, rows: pl.DataFrame) -> npt.NDArray[Any]:
    """Of a silhouette's rows, of which all count alike."""
    if curve.dataset is None:
        return by_layer(rows, "influence")
    groups = Units(read_units(curve.dataset).groups)
    return groups[_row_ids(rows)].of(by_layer(rows, "influence"))


def _row_ids(rows: pl.DataFrame) -> npt.NDArray[Any]:
    """Of the rows of one layer, as `by_layer` has them."""
    return rows.filter(layer=rows["layer"].min()).sort("row_id")["row_id"].to_numpy()


def _stage(curve: CurveOfRun, table: str, rows: Sequence[Mapping[str, Any]], suffix: str = "") -> None:
    stage(curve.layout, curve.run_id, table, curve.part + suffix, rows_of(table, curve.key(), rows))


@task(
    name="choose-layer",
    task_run_name="choose layer {curve.pooling.value} {curve.norm_state.value}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def choose_layer_task(curve: CurveOfRun, depth_price: float) -> CurveChoice:
    """Inflection points and train-only criteria → one layer a rule."""
    chosen = choose(curve, depth_price)
    get_run_logger().info(
        "%s %s: layer %s. %s",
        curve.pooling.value,
        curve.norm_state.value,
        chosen.default.layer,
        chosen.default.reason,
    )
    return chosen


@task(
    name="audit",
    task_run_name="audit {curve.pooling.value} {curve.norm_state.value}",
    timeout_seconds=LONG_S,
    **RETRIED,
)
def audit_task(curve: CurveOfRun, chosen: CurveChoice) -> None:
    """What each rule's choice was worth on the test rows."""
    audit(curve, chosen)
