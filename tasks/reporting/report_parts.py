"""What the sections of a report show, from the tables of its run: plain values that a template lays out."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.reporting.answer import percent, shortened, split_words, table_of
from tasks.reporting.layer_curves import LayerCurves, Row, Tables, rows_where
from tasks.vocabulary import NO_PROMPT, Task

_ARROWS = {"up": "↗", "down": "↘", "flat": "→"}
# As many classes as the palette tells apart; the others share a grey.
_COLOURS = 8
_SPARK_WIDTH, _SPARK_HEIGHT = 150, 34
_OF_ATTENTION = {
    "entropy": "entropy of a head, of the most it can be",
    "sink_mass": "share on the first token",
    "distance": "distance, in tokens",
    "distance_share": "distance, of the text's length",
    "function_words": "share on punctuation and function words",
    "head_divergence": "divergence of the heads",
}
_WORDS = {"loo": "leave-one-out", "logme": "LogME", "knn": "k-NN", "h": "H"}


def group(tables: Tables, curves: LayerCurves) -> Row:
    """What the tables of one pooling and norm state show."""
    where = {"run_id": curves.run["run_id"], "pooling": curves.pooling, "norm_state": curves.norm_state}
    choices = rows_where(tables, "layer_choice", **where)
    audits = rows_where(tables, "audit", **where)
    audit_of = {audit["rule"]: audit for audit in audits.to_dicts()}
    order = ["is_default", "score", "rule"]
    ranked = choices.sort(order, descending=[True, True, False]).to_dicts() if len(choices) else []
    return {
        "pooling": curves.pooling,
        "norm_state": curves.norm_state,
        "curves": curves,
        "layers": table_of(curves),
        "ends_early": any(each.ends < curves.deepest for each in curves.silhouettes),
        "shapes": _shapes(rows_where(tables, "trend", **where), curves),
        "criteria": _criteria(
            rows_where(tables, "criterion", **where), rows_where(tables, "score_audit", **where), curves
        ),
        "rules": [{"choice": choice, "audit": audit_of.get(choice["rule"])} for choice in ranked],
    }


def _shapes(trend: pl.DataFrame, curves: LayerCurves) -> list[Row]:
    """Trend and inflection points of each curve, as the paper's Table 1 lays them out."""
    shapes = []
    accuracy_of = curves.accuracy.by_layer if curves.accuracy else {}
    turns = {f"silhouette:{each.metric}": each.points for each in curves.silhouettes}
    names = dict.fromkeys([*turns, *(trend["curve"].unique(maintain_order=True) if len(trend) else [])])
    for curve in names:
        segments = trend.filter(pl.col("curve") == curve).sort("segment").to_dicts() if len(trend) else []
        found = [point | {"accuracy": accuracy_of.get(point["layer"])} for point in turns.get(curve, [])]
        if segments or found:
            kind, _, metric = curve.partition(":")
            shapes.append(
                {
                    "name": f"{metric} {kind}" if metric else kind,
                    "segments": [each | {"arrow": _ARROWS[each["direction"]]} for each in segments],
                    "points": found,
                }
            )
    return shapes


def _criteria(criterion: pl.DataFrame, score_audit: pl.DataFrame, curves: LayerCurves) -> list[Row]:
    """Every score of a layer that needs no gradient training, and what its highest layer would have been worth.

    The second is read from `score_audit`; a silhouette in another space than `raw` has no row there.
    """
    audits = {audit["score"]: audit for audit in score_audit.to_dicts()}
    found = []
    for each in curves.silhouettes:
        audit = audits.get(f"silhouette:{each.metric}") if each.space == "raw" else None
        found.append(_criterion(f"{each.name} silhouette", each.layers, each.mean, audit, curves))
    if len(criterion):
        for (name,), part in criterion.sort("name", "layer").group_by(["name"], maintain_order=True):
            layers, values = part["layer"].to_list(), part["value"].to_list()
            found.append(
                _criterion(named(str(name)), layers, values, audits.get(f"criterion:{name}"), curves)
            )
    return sorted(found, key=lambda row: (row["audit"]["regret"] if row["audit"] else math.inf, row["name"]))


def _criterion(
    name: str, layers: Sequence[int], values: Sequence[float], audit: Row | None, curves: LayerCurves
) -> Row:
    highest = None if audit is None else int(audit["layer"])
    accuracy_of = curves.accuracy.by_layer if curves.accuracy else {}
    return {
        "name": name,
        "spark": _spark(layers, values, highest, curves),
        "audit": audit,
        "accuracy": None if highest is None else accuracy_of.get(highest),
    }


def _spark(layers: Sequence[int], values: Sequence[float], highest: int | None, curves: LayerCurves) -> Row:
    low, reach = min(values), max(values) - min(values) or 1.0
    inner = _SPARK_HEIGHT - 8
    place = {
        layer: (
            4 + layer / curves.last * (_SPARK_WIDTH - 8),
            _SPARK_HEIGHT - 4 - (value - low) / reach * inner,
        )
        for layer, value in zip(layers, values, strict=True)
    }
    return {
        "width": _SPARK_WIDTH,
        "height": _SPARK_HEIGHT,
        "path": "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in place.values()),
        "highest": None if highest is None else place.get(highest),
        "chosen": place.get(curves.chosen) if curves.chosen is not None else None,
    }


def attention_rows(tables: Tables, curves: LayerCurves) -> list[Row]:
    """One row a measure of attention, which is of the whole model: its curve, and how it follows that accuracy."""
    attention = rows_where(tables, "attention", run_id=curves.run["run_id"])
    found = []
    for name in attention["measure"].unique(maintain_order=True) if len(attention) else []:
        own = attention.filter(measure=name).sort("layer")
        layers, values = own["layer"].to_list(), own["value"].to_list()
        extremes = {kind: pick(values) for kind, pick in (("lowest", min), ("highest", max))}
        found.append(
            {"name": _OF_ATTENTION.get(name, named(name)), "spark": _spark(layers, values, None, curves)}
            | {
                "texts": max(own["texts"]),
                "chosen": dict(zip(layers, values, strict=True)).get(curves.chosen),
            }
            | {kind: (layers[values.index(value)], value) for kind, value in extremes.items()}
            | {"rank_correlation": _rank_correlation(own, curves)}
        )
    return found


def _rank_correlation(attention: pl.DataFrame, curves: LayerCurves) -> float | None:
    """Spearman's, between a measure and the accuracy of the layers that have both; None where one is constant."""
    accuracy_of = curves.accuracy.by_layer if curves.accuracy else {}
    both = attention.with_columns(
        accuracy=pl.col("layer").replace_strict(accuracy_of, default=None, return_dtype=pl.Float64)
    ).drop_nulls("accuracy")
    found = both.select(pl.corr("value", "accuracy", method="spearman")).item()
    return None if found is None or math.isnan(found) else float(found)


def race_steps(curves: LayerCurves) -> list[Row]:
    """One row a step of the race: its rows, its leader, and who was left behind after it."""
    steps: dict[int, Row] = {}
    for row in curves.race:
        step = steps.setdefault(row["step"], {"rows": row["train_rows"], "left_behind": []})
        if row["is_leader"]:
            step |= {"leader": _contender(row), "layer": row["layer"], "chance": row["chance"]}
            step |= {"expected": row["expected_accuracy"], "ended_by": row["ended_by"]}
        if not row["stays"]:
            step["left_behind"].append(_contender(row))
    return list(steps.values())


def _contender(row: Row) -> str:
    prompt = "no prompt" if row["prompt"] == NO_PROMPT else shortened(row["prompt"])
    states = "" if row["norm_state"] == "as_returned" else f", {row['norm_state']}"
    return f"{prompt}, {row['pooling']}{states}"


def strip(curves: LayerCurves) -> Row | None:
    """The model as a core sample: a cell a layer, the darker the better."""
    if curves.accuracy is not None:
        layers, values, what = curves.accuracy.layers, curves.accuracy.accuracy, curves.measure.axis
        low, high = percent(min(values)), percent(max(values))
    elif curves.silhouettes:
        first = curves.silhouettes[0]
        layers, values, what = first.layers, first.mean, f"{first.name} silhouette"
        low, high = silhouette_value(min(values)), silhouette_value(max(values))
    else:
        return None
    reach = max(values) - min(values) or 1.0
    shades = [(value - min(values)) / reach for value in values]
    return {"cells": list(zip(layers, shades, strict=True)), "what": what, "low": low, "high": high}


def notes(tables: Tables, answer: LayerCurves, described: Mapping[str, Row]) -> list[str]:
    """What a careful reader should know before trusting the answer."""
    notes = []
    share = described["embedding_set"].get("truncated_share", 0)
    if share >= 0.01:
        length = described["embedding_set"]["max_length"]
        notes.append(f"{percent(share)} of the texts were cut at {length:,} tokens.")
    if described["embedding_set"].get("split_share"):
        notes.append(split_words(described["embedding_set"]))
    if described["dataset"].get("cut_words"):
        cut, rows = described["dataset"]["cut_words"], described["embedding_set"].get("rows", 0)
        notes.append(
            f"{cut:,} of {cut + rows:,} words lie beyond the tokens that are read, or have none: they are not scored."
        )
    if answer.task is Task.TOKEN_CLASSIFICATION:
        texts = described["dataset"]["texts"]
        notes.append(
            f"Rows are the words of {texts:,} texts. Left out are whole texts, and intervals are over these."
        )
    elif answer.task is not Task.SINGLE_LABEL:
        notes.append(f"What is called accuracy on this page is the {answer.measure.axis}.")
    asked = json.loads(answer.run["parameters"])
    time_column = asked.get("time_column")
    if asked.get("weight_column"):
        notes.append(
            f"Rows count as much as {asked['weight_column']} says in what is fitted, in accuracies and in left-out "
            "scores; in silhouettes and other criteria all count alike."
        )
    if asked.get("group_column"):
        notes.append(
            f"Rows of one {asked['group_column']} depend on each other. All of them are left out together, and "
            "intervals are over such groups."
        )
    if described["dataset"].get("test_is_made"):
        taken = "a seeded, stratified one was taken from train."
        if time_column is not None:
            taken = f"the latest rows by {time_column} were taken."
        notes.append(f"The data set has no test split of its own: {taken}")
    if time_column is not None:
        notes.append(
            f"No test row is earlier by {time_column} than a train row. Within train, rows that were left out were "
            "judged by all others, later ones too."
        )
    if answer.choice is not None and answer.choice["confidence"] < 0.7:
        sure = f"{100 * answer.choice['confidence']:.0f} %"
        meant = "likely to be within half a point of the best layer"
        if answer.choice.get("expected_regret") is None:  # of an older version
            meant = "of redrawn train rows lead to this layer or to one within noise of it"
        notes.append(f"The choice is shaky: {sure} {meant}. More train rows would help.")
    probe = rows_where(tables, "probe", pooling=answer.pooling, norm_state=answer.norm_state)
    if len(probe):
        stuck = probe.filter(~pl.col("converged"))["layer"].unique().sort().to_list()
        if stuck:
            notes.append(f"The probe did not converge at layer {', '.join(map(str, stuck))}.")
        majority = float(probe["majority_accuracy"].to_list()[0])
        if answer.accuracy is not None and max(answer.accuracy.low) <= majority:
            notes.append(
                "No layer of the answer's curve reads the labels surely better than nothing does: "
                f"{answer.measure.floor.format(percent(majority))}."
            )
    return notes


def drawn(tables: Tables, curves: LayerCurves) -> Row:
    """What the script draws of one pooling and norm state; rounded, for it is looked at."""
    accuracy = curves.accuracy
    return {
        "pooling": curves.pooling,
        "norm": curves.norm_state,
        "answer": curves.is_answer,
        "chosen": curves.chosen,
        "best": curves.best,
        "last": curves.last,
        "measure": [curves.measure.axis, curves.measure.name],
        "accuracy": None
        if accuracy is None
        else {
            "x": accuracy.layers,
            "y": _rounded(accuracy.accuracy),
            "low": _rounded(accuracy.low),
            "high": _rounded(accuracy.high),
        },
        "silhouettes": {
            each.name: {
                "x": each.layers,
                "y": _rounded(each.mean),
                "low": _rounded([mean - error for mean, error in zip(each.mean, each.error, strict=True)]),
                "high": _rounded([mean + error for mean, error in zip(each.mean, each.error, strict=True)]),
                "ends": each.ends,
                "points": [{"x": point["layer"], "kind": point["kind"]} for point in each.points],
                "classes": _classes(
                    rows_where(
                        tables,
                        "silhouette_by_class",
                        run_id=curves.run["run_id"],
                        pooling=curves.pooling,
                        norm_state=curves.norm_state,
                        metric=each.metric,
                        space=each.space,
                    ),
                    each.layers,
                ),
            }
            for each in curves.silhouettes
        },
    }


def _classes(by_class: pl.DataFrame, layers: Sequence[int]) -> list[Row]:
    found = []
    if len(by_class):
        for (label,), part in by_class.sort("label", "layer").group_by(["label"], maintain_order=True):
            mean = dict(part.select("layer", "mean").iter_rows())
            values = [round(mean[layer], 3) if layer in mean else None for layer in layers]
            found.append({"label": str(label), "n": int(part["n"].to_list()[0]), "y": values})
    return found


def matrices(
    confusion: Mapping[str, npt.NDArray[np.integer]] | None, classes: Sequence[str]
) -> dict[str, list[list[int]]] | None:
    if not confusion:
        return None
    for name, matrix in confusion.items():
        if np.shape(matrix) != (len(classes), len(classes)):
            raise ValueError(
                f"confusion {name} is {np.shape(matrix)}; the data set has {len(classes)} classes"
            )
    return {name: np.asarray(confusion[name]).tolist() for name in ("chosen", "last")}


def recalls(matrices: Mapping[str, list[list[int]]], classes: Sequence[str]) -> list[Row]:
    """Recall of each class at both layers, the largest change first."""
    found = []
    for number, label in enumerate(classes):
        count = sum(matrices["chosen"][number])
        if count:
            chosen, last = (matrices[name][number][number] / count for name in ("chosen", "last"))
            found.append(
                {"label": label, "n": count, "chosen": chosen, "last": last, "change": chosen - last}
            )
    return sorted(found, key=lambda row: (-abs(row["change"]), row["label"]))


def scatter(projection: pl.DataFrame, curves: LayerCurves) -> Row:
    """One square a layer; classes in the order of their size, those beyond the palette in grey."""
    sizes = projection.group_by("label").len().sort(["len", "label"], descending=[True, False])
    labels = [str(label) for label in sizes["label"]]
    coloured = len(labels) if len(labels) <= _COLOURS else _COLOURS - 1
    panels = []
    for layer in projection["layer"].unique().sort():
        part = projection.filter(pl.col("layer") == layer)
        x, y = (_unit(part[axis].to_numpy()) for axis in ("x", "y"))
        own = part["label"].cast(pl.String).to_list()
        # The largest class is drawn first, so that it hides no other.
        dots: dict[str, list[tuple[float, float]]] = {label: [] for label in labels}
        for label, across, up in zip(own, x, y, strict=True):
            dots[label].append((across, 1 - up))
        named = {"chosen": curves.chosen, curves.deepest_name: curves.deepest}
        marks = [name for name, marked in named.items() if marked == layer]
        kept = float(part["kept"].to_list()[0])
        panels.append({"layer": layer, "mark": " and ".join(marks), "kept": kept, "dots": dots})
    return {
        "panels": panels,
        "labels": labels,
        "colour": {label: number if number < coloured else "rest" for number, label in enumerate(labels)},
    }


def _unit(values: npt.NDArray) -> list[float]:
    """Scaled to 0–1 by all but the outermost hundredths, which stand at the edge and would squeeze the rest."""
    low, high = np.percentile(values, (1, 99))
    air = 0.06 * (high - low)
    span = high - low + 2 * air
    return np.clip((values - low + air) / (span or 1.0), 0, 1).tolist()


def named(name: str) -> str:
    """The name of a score or rule for people: `knn_loo` → `k-NN leave-one-out`."""
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def silhouette_value(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]
