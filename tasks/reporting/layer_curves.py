"""The layer curves of a run, read from its tables: what answer, report and figure draw and tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from tasks.measures import MEASURES, Measure
from tasks.vocabulary import Task

Tables = Mapping[str, pl.DataFrame]
Row = dict[str, Any]

_GROUP = ("run_id", "pooling", "norm_state")


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
    task: Task
    pooling: str
    norm_state: str
    accuracy: AccuracyCurve | None
    silhouettes: list[SilhouetteCurve]
    choice: Row | None
    """The row of `layer_choice` made by the default rule."""
    audit: Row | None
    """The row of `audit` that belongs to `choice`."""
    probe: Row | None
    """The row of `probe` of the chosen layer, of the protocol that is drawn."""
    last_probe: Row | None
    """The same of the deepest layer."""
    baselines: Mapping[str, Row]
    """Rows of `baseline` by name: `text`, where there are texts, and `majority`; empty for runs of older versions."""
    together: Row | None
    """The row of `representation` that is the answer; None where it is one layer, and for runs of older versions."""

    race: list[Row]
    """Rows of `race_step`, in order; empty where no race said how many rows to read."""
    of_pairs: bool
    """Both texts of a row are embedded by themselves, and features of both are what is scored."""

    @property
    def measure(self) -> Measure:
        """What accuracy is here."""
        return MEASURES[self.task]

    @property
    def name(self) -> str:
        return f"{self.pooling} · {self.norm_state}"

    @property
    def prompt(self) -> str | None:
        """The template around every text; None: nothing was, or nobody knew of any then."""
        return self.run.get("prompt")

    @property
    def is_answer(self) -> bool:
        return self.choice is not None and bool(self.choice["is_answer"])

    @property
    def last(self) -> int:
        return int(self.run["layers"])

    @property
    def deepest(self) -> int:
        """The deepest layer that was scored, which the choice is compared with: the last one unless `--max-layer`."""
        return self.last if self.accuracy is None else self.accuracy.layers[-1]

    @property
    def deepest_name(self) -> str:
        """What that layer is of the model's."""
        return "last" if self.deepest == self.last else "deepest"

    @property
    def compared_with(self) -> str:
        """That layer, in words."""
        return "the last layer" if self.deepest == self.last else f"layer {self.deepest}, the deepest run"

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


def _curves(tables: Tables, run: Row, pooling: str, norm_state: str) -> LayerCurves:
    where = {"run_id": run["run_id"], "pooling": pooling, "norm_state": norm_state}
    choices = rows_where(tables, "layer_choice", **where, is_default=True).to_dicts()
    choice = choices[0] if choices else None
    audits = rows_where(tables, "audit", **where, rule=choice["rule"]).to_dicts() if choice else []
    probes = rows_where(tables, "probe", **where, layer=choice["layer"]).to_dicts() if choice else []
    described = rows_where(tables, "dataset", id=run["dataset_id"]).to_dicts()
    own = [row for row in described if row["fingerprint"] == run["dataset_fingerprint"]]
    return LayerCurves(
        run=run,
        # Of a row of an older version there is no such column.
        of_pairs=any(row.get("text_pairs") == "features" for row in own),
        # A run of an older version knew of no other task.
        task=Task(next((row["task"] for row in described if row.get("task")), Task.SINGLE_LABEL)),
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
        probe=min(probes, key=lambda row: str(row["protocol"]), default=None),
        last_probe=min(
            rows_where(tables, "probe", **where).to_dicts(),
            key=lambda row: (-row["layer"], str(row["protocol"])),
            default=None,
        ),
        baselines={
            row["name"]: row for row in rows_where(tables, "baseline", run_id=run["run_id"]).to_dicts()
        },
        together=_together(rows_where(tables, "representation", run_id=run["run_id"], is_answer=True)),
        race=_race(rows_where(tables, "race_step", run_id=run["run_id"])),
    )


def _race(rows: pl.DataFrame) -> list[Row]:
    if rows.is_empty():
        return []
    return rows.sort("step", "expected_accuracy", descending=[False, True], maintain_order=True).to_dicts()


def _together(rows: pl.DataFrame) -> Row | None:
    found = [row for row in rows.to_dicts() if row["size"] > 1]
    return found[0] if found else None


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
