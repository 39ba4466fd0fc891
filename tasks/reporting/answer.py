"""What the tables of a run say: its layer curves, and its answer in words, for every place that shows it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

Tables = Mapping[str, pl.DataFrame]
Row = dict[str, Any]

_GROUP = ("run_id", "pooling", "norm_state")
SHIFT_LEVEL = 0.01
"""Test rows are said not to be like train rows below this p-value: one sweep in a hundred says it by chance."""


@dataclass(frozen=True)
class AccuracyCurve:
    """Probe accuracy on test rows, one value a layer; fractions 0–1."""

    layers: list[int]
    accuracy: list[float]
    low: list[float]
    """Lower end of the 95 % interval."""
    high: list[float]

    @property
    def by_layer(self) -> dict[int, float]:
        """layer → accuracy."""
        return dict(zip(self.layers, self.accuracy, strict=True))


@dataclass(frozen=True)
class SilhouetteCurve:
    """Mean silhouette on train rows, one value a layer; −1 … 1."""

    name: str
    """The metric, and the space where it is not `raw`."""
    metric: str
    space: str
    layers: list[int]
    mean: list[float]
    error: list[float]
    """Standard error of the mean."""
    points: list[Row]
    """Rows of `inflection_point`, by layer."""
    ends: int
    """The last layer of its trend. A layer after it is not comparable: it alone has passed the final norm."""


@dataclass(frozen=True)
class LayerCurves:
    """All curves of one run, pooling and norm state, and the layers that stand out."""

    run: Row
    pooling: str
    norm_state: str
    accuracy: AccuracyCurve | None
    silhouettes: list[SilhouetteCurve]
    choice: Row | None
    """The row of `layer_choice` made by the default rule."""
    audit: Row | None
    """The row of `audit` that belongs to `choice`."""
    baselines: Mapping[str, Row]
    """Rows of `baseline` by name; empty for runs of versions that had none."""

    @property
    def name(self) -> str:
        return f"{self.pooling} · {self.norm_state}"

    @property
    def is_answer(self) -> bool:
        return self.choice is not None and bool(self.choice["is_answer"])

    @property
    def last(self) -> int:
        return int(self.run["layers"])

    @property
    def chosen(self) -> int | None:
        return None if self.choice is None else int(self.choice["layer"])

    @property
    def best(self) -> int | None:
        """The layer of the highest test accuracy, the shallowest of equals."""
        if self.audit is not None:
            return int(self.audit["best_layer"])
        if self.accuracy is None:
            return None
        return self.accuracy.layers[self.accuracy.accuracy.index(max(self.accuracy.accuracy))]


def rows_where(tables: Tables, table: str, **where: Any) -> pl.DataFrame:
    """The rows of a table whose columns equal `where`; an empty frame without columns if there are none."""
    frame = tables.get(table)
    if frame is None or frame.is_empty():
        return pl.DataFrame()
    for column, value in where.items():
        frame = frame.filter(pl.col(column) == value)
    return frame if not frame.is_empty() else pl.DataFrame()


def layer_curves(tables: Tables) -> list[LayerCurves]:
    """One entry per run × pooling × norm state that was scored; the answer of a run comes first.

    Args:
        tables: frames named and shaped as the tables of `storage/schema`; those that are absent are empty.
    """
    found = []
    runs = rows_where(tables, "run").to_dicts()
    for run in sorted(runs, key=lambda run: (run["model_id"], run["dataset_id"], run["run_id"])):
        scored = [
            frame.select(_GROUP[1:])
            for name in ("silhouette", "probe")
            if not (frame := rows_where(tables, name, run_id=run["run_id"])).is_empty()
        ]
        groups = pl.concat(scored).unique().sort(_GROUP[1:]).rows() if scored else []
        curves = [_curves(tables, run, pooling, norm_state) for pooling, norm_state in groups]
        found += sorted(curves, key=lambda each: not each.is_answer)
    return found


def answer_curves(tables: Tables) -> LayerCurves:
    """The curves of a run's answer; without a choice, those of its first pooling and norm state.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    found = layer_curves(tables)
    runs = {each.run["run_id"] for each in found}
    if len(runs) != 1:
        raise ValueError(f"the tables hold {len(runs)} scored runs {sorted(runs)}; one is needed")
    return found[0]


def answer_sentence(tables: Tables) -> str:
    """The answer of one run in one sentence, with what it was worth on test rows. Plain text.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    curves = answer_curves(tables)
    if curves.choice is None:
        return f"No layer of {curves.run['model_id']} has been chosen for {curves.run['dataset_id']} yet."
    return " ".join([*_beaten(curves), _choice_sentence(curves), *_sure(curves.choice), *_shifted(curves)])


def _beaten(curves: LayerCurves) -> list[str]:
    """What does as well without the model, which comes before any layer."""
    audit = curves.audit
    if audit is None or not curves.baselines:
        return []
    own, floor = audit["chosen_accuracy"], curves.baselines["majority"]["accuracy"]
    if own <= floor:
        return [
            f"Nothing was read from this model: always naming the largest class is right on {percent(floor)}."
        ]
    words = curves.baselines["text"]["accuracy"]
    if own <= words:
        how = "do better" if audit["gain_over_text_high"] < 0 else "do as well"
        return [f"The words alone {how} without the model: TF-IDF is right on {percent(words)}."]
    return []


def _sure(choice: Row) -> list[str]:
    """How near the best layer the chosen one is; older versions did not know."""
    if choice.get("expected_regret") is None:
        return []
    return [
        f"It is within half a point of the best layer with {100 * choice['confidence']:.0f} % confidence."
    ]


def _shifted(curves: LayerCurves) -> list[str]:
    """Whether test rows are other than train rows, so that what was chosen on these may not suit those."""
    audit = curves.audit
    if audit is None or audit.get("shift_p_value") is None or audit["shift_p_value"] >= SHIFT_LEVEL:
        return []
    return [
        "Test rows are not like train rows: on train rows that it was not fitted on, the same layer is right on "
        f"{percent(audit['held_out_accuracy'])} ({p_value(audit['shift_p_value'])})."
    ]


def _choice_sentence(curves: LayerCurves) -> str:
    layer, last = curves.chosen, curves.last
    states = "" if curves.norm_state == "as_returned" else f", {curves.norm_state}"
    what = "the embedding output, " if layer == 0 else ""
    where = f"layer {layer} of {last} ({what}{curves.pooling} pooling{states})"
    audit = curves.audit
    if audit is None:
        return f"Take {where}: chosen from train rows, and not yet audited on test rows."
    right = f"{percent(audit['chosen_accuracy'])} of test texts classified correctly"
    if layer == last:
        return f"Keep the last layer, {where}: {right}, and no earlier layer promised more."
    interval = (
        f"95 % interval {points(audit['gain_low'])} to {points(audit['gain_high'])}, "
        f"{p_value(audit['p_value'])}"
    )
    gain = audit["gain_over_last"]
    if audit["gain_low"] > 0:
        return f"Take {where}: {right}, {100 * gain:.1f} points better than the last layer ({interval})."
    if audit["gain_high"] < 0:
        return (
            f"Keep the last layer: the rule chose {where}, {right}, and the test rows speak against it, "
            f"{-100 * gain:.1f} points worse than the last layer ({interval})."
        )
    return (
        f"Take {where}: {right}, level with the last layer within noise "
        f"({points(gain)} points, {interval}), at {layer} of {last} blocks."
    )


def answer_markdown(tables: Tables) -> str:
    """The answer as a short Markdown page: the sentence, its reason, a table of key figures.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    curves = answer_curves(tables)
    lines = [
        f"## {_plain(curves.run['model_id'])} × {_plain(curves.run['dataset_id'])}",
        f"**{_plain(answer_sentence(tables))}**",
    ]
    if curves.choice is not None:
        lines.append(_plain(curves.choice["reason"]))
    figures = key_figures(curves)
    if figures:
        table = ["| figure | value | |", "|---|---|---|"]
        table += [f"| {name} | {_plain(value)} | {_plain(note)} |" for name, value, note in figures]
        lines.append("\n".join(table))
    lines.append(f"Run `{curves.run['run_id']}`.")
    return "\n\n".join(lines) + "\n"


def key_figures(curves: LayerCurves) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the figures that a reader asks for first."""
    if curves.choice is None or curves.chosen is None:
        return []
    figures = [
        ("chosen layer", f"{curves.chosen} of {curves.last}", f"depth {curves.chosen / curves.last:.2f}"),
        ("confidence", f"{100 * curves.choice['confidence']:.0f} %", _meant(curves.choice)),
    ]
    audit = curves.audit
    if audit is not None:
        figures += [
            (
                "gain over last",
                f"{points(audit['gain_over_last'])} points",
                f"{points(audit['gain_low'])} to {points(audit['gain_high'])}, {p_value(audit['p_value'])}",
            ),
            (
                "regret",
                f"{100 * audit['regret']:.1f} points",
                f"best is layer {audit['best_layer']}, {percent(audit['best_accuracy'])}",
            ),
            (
                "test accuracy",
                percent(audit["chosen_accuracy"]),
                f"last layer {percent(audit['last_accuracy'])}",
            ),
        ]
    if audit is not None and curves.baselines:
        words, majority = (percent(curves.baselines[name]["accuracy"]) for name in ("text", "majority"))
        gain = f"{points(audit['gain_over_text'])} points by the layer, {p_value(audit['gain_over_text_p_value'])}"
        figures += [("words alone", words, gain), ("largest class", majority, "always named")]
    return figures


def _meant(choice: Row) -> str:
    """What the confidence says; older versions meant something else by it."""
    if choice.get("expected_regret") is None:
        return "of redrawn rows agree"
    short = f"{100 * choice['expected_regret']:.1f} points short of it"
    return f"to be within half a point of the best, expected {short}"


def layer_table(tables: Tables) -> list[Row]:
    """One row a layer of the answer's pooling and norm state: what the CLI and Prefect show.

    Columns: layer; depth, 0–1; `silhouette_<metric>`, −1 … 1; accuracy, accuracy_low and accuracy_high, 0–1;
    marks, words joined by commas. Plain Python values, rounded to four places; None where nothing was scored.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    return table_of(answer_curves(tables))


def table_of(curves: LayerCurves) -> list[Row]:
    """The layer table of any pooling and norm state."""
    table: dict[int, Row] = {}
    for silhouette in curves.silhouettes:
        for layer, mean in zip(silhouette.layers, silhouette.mean, strict=True):
            table.setdefault(layer, {})[f"silhouette_{silhouette.name}"] = round(mean, 4)
    columns = [f"silhouette_{silhouette.name}" for silhouette in curves.silhouettes]
    if (accuracy := curves.accuracy) is not None:
        columns += ["accuracy", "accuracy_low", "accuracy_high"]
        values = zip(accuracy.accuracy, accuracy.low, accuracy.high, strict=True)
        for layer, (middle, low, high) in zip(accuracy.layers, values, strict=True):
            table.setdefault(layer, {}).update(
                accuracy=round(middle, 4), accuracy_low=round(low, 4), accuracy_high=round(high, 4)
            )
    return [
        {"layer": layer, "depth": round(layer / curves.last, 4)}
        | {column: table[layer].get(column) for column in columns}
        | {"marks": ", ".join(marks(curves, layer))}
        for layer in sorted(table)
    ]


def marks(curves: LayerCurves, layer: int) -> list[str]:
    """Why a layer stands out: chosen, best, last, and inflection points by metric."""
    named = {"chosen": curves.chosen, "best": curves.best, "last": curves.last}
    found = [name for name, marked in named.items() if marked == layer]
    kinds: dict[str, list[str]] = {}
    for silhouette in curves.silhouettes:
        for point in silhouette.points:
            if point["layer"] == layer:
                kinds.setdefault(point["kind"], []).append(silhouette.name)
    return found + [f"{kind} ({' + '.join(names)})" for kind, names in kinds.items()]


def percent(fraction: float) -> str:
    """0.6823 → `68.2 %`."""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign: 0.064 → `+6.4`."""
    rounded = round(100 * fraction, 1)
    if rounded == 0:
        return "0.0"
    return f"+{rounded:.1f}" if rounded > 0 else f"−{-rounded:.1f}"


def p_value(p: float) -> str:
    """`p = 0.012` to two significant digits, `p < 0.001` below that."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def _curves(tables: Tables, run: Row, pooling: str, norm_state: str) -> LayerCurves:
    where = {"run_id": run["run_id"], "pooling": pooling, "norm_state": norm_state}
    choices = rows_where(tables, "layer_choice", **where, is_default=True).to_dicts()
    choice = choices[0] if choices else None
    audits = rows_where(tables, "audit", **where, rule=choice["rule"]).to_dicts() if choice else []
    return LayerCurves(
        run=run,
        pooling=pooling,
        norm_state=norm_state,
        accuracy=_accuracy(rows_where(tables, "probe", **where)),
        silhouettes=_silhouettes(
            rows_where(tables, "silhouette", **where),
            rows_where(tables, "inflection_point", **where),
            rows_where(tables, "trend", **where),
        ),
        choice=choice,
        audit=audits[0] if audits else None,
        baselines={
            row["name"]: row for row in rows_where(tables, "baseline", run_id=run["run_id"]).to_dicts()
        },
    )


def _accuracy(probe: pl.DataFrame) -> AccuracyCurve | None:
    if probe.is_empty():
        return None
    # A probe of a second protocol is another question; the first by name is the one that is drawn.
    one = probe.filter(pl.col("protocol") == probe["protocol"].min()).sort("layer")
    return AccuracyCurve(
        layers=one["layer"].to_list(),
        accuracy=one["accuracy"].to_list(),
        low=one["accuracy_low"].to_list(),
        high=one["accuracy_high"].to_list(),
    )


def _silhouettes(
    silhouette: pl.DataFrame, points: pl.DataFrame, trend: pl.DataFrame
) -> list[SilhouetteCurve]:
    if silhouette.is_empty():
        return []
    ends = [] if trend.is_empty() else trend.filter(pl.col("curve") != "accuracy")["to_layer"].to_list()
    curves = []
    spaces = dict(silhouette.group_by("metric").agg(pl.col("space").unique()).iter_rows())
    for (metric, space), part in silhouette.sort("metric", "space", "layer").group_by(
        ["metric", "space"], maintain_order=True
    ):
        layers = part["layer"].to_list()
        # Inflection points carry no space: they were found on the raw curve, or on the only one.
        found = len(points) > 0 and (space == "raw" or len(spaces[metric]) == 1)
        curves.append(
            SilhouetteCurve(
                name=str(metric) if space == "raw" else f"{metric}_{space}",
                metric=str(metric),
                space=str(space),
                layers=layers,
                mean=part["mean"].to_list(),
                error=part["standard_error"].to_list(),
                points=points.filter(pl.col("metric") == metric).sort("layer").to_dicts() if found else [],
                ends=max(ends, default=layers[-1]),
            )
        )
    return curves


def _plain(text: str) -> str:
    """Data as literal text in Markdown and in a table cell of it."""
    for special in "\\`*_{}[]#|~":
        text = text.replace(special, "\\" + special)
    # A backslash before < is shown as it is by some renderers; an entity is not.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
