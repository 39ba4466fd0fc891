"""One run as a self-contained page: the answer, the curves behind it, and all that is needed to repeat it.

The page holds its own style and script and reaches for nothing else. Tables, sparklines and the scatter are written
here; only what a reader moves (the curve, the heat maps) is drawn by `report_script.js`, as plain SVG and tables that
follow the reader's colours, text size and keyboard. A chart library would be larger than page and data together.
"""

import json
import shlex
from collections.abc import Mapping
from importlib import resources

import jinja2
import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.embedding.text_pairs import FORMULA
from tasks.reporting.answer import (
    answer_sentence,
    key_figures,
    one_line,
    p_value,
    percent,
    points,
    shortened,
)
from tasks.reporting.layer_curves import Row, Tables, layer_curves, rows_where
from tasks.reporting.report_parts import (
    attention_rows,
    drawn,
    group,
    matrices,
    named,
    notes,
    race_steps,
    recalls,
    scatter,
    silhouette_value,
    strip,
)
from tasks.vocabulary import Task


def render_report(
    tables: Tables,
    *,
    confusion: Mapping[str, npt.NDArray[np.integer]] | None = None,
    projection: pl.DataFrame | None = None,
) -> str:
    """The page as HTML that reaches for no network. Parts without data are left out.

    Args:
        tables: frames of one run, named and shaped as in `storage/schema`; labels are class names.
        confusion: test rows by true class (row) and predicted class (column) in the data set's order of classes,
            int [K, K], for the layers `chosen` and `last`.
        projection: a sample of rows in two dimensions, columns layer, x, y, label, kept (share of variance).

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    sentence = answer_sentence(tables)
    curves = layer_curves(tables)
    answer = curves[0]
    described = _described(tables, answer.run)
    classes = list(described["dataset"].get("classes") or [])
    groups = [group(tables, each) for each in curves]
    counts = matrices(confusion, classes) if answer.chosen is not None else None
    return (
        page_environment()
        .get_template("report.html")
        .render(
            answer=answer,
            groups=groups,
            **{
                name: list(dict.fromkeys(each[name] for each in groups)) for name in ("pooling", "norm_state")
            },
            metrics=list(dict.fromkeys(curve.name for each in curves for curve in each.silhouettes)),
            sentence=sentence,
            figures=key_figures(answer),
            strip=strip(answer),
            notes=notes(tables, answer, described),
            race=race_steps(answer),
            attention=attention_rows(tables, answer),
            has_classes=not rows_where(tables, "silhouette_by_class").is_empty(),
            recalls=recalls(counts, classes) if counts else [],
            scatter=scatter(projection, answer) if projection is not None and len(projection) else None,
            cost=_cost(tables, answer.run, described),
            provenance=_provenance(tables, answer.run, described),
            command=_command(answer.run),
            data={
                "groups": [drawn(tables, each) for each in curves],
                "classes": classes,
                "confusion": counts,
                "rows": answer.measure.rows,
            },
        )
    )


def page_environment() -> jinja2.Environment:
    """The templates of pages, with their filters and, as `source`, the style and script beside them."""
    files = resources.files("tasks.reporting")

    def source(name: str) -> str:
        return files.joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["source"] = source
    environment.filters |= {
        "percent": percent,
        "points": points,
        "p_value": p_value,
        "named": named,
        "shortened": shortened,
        "unbroken": _unbroken,
        "silhouette": silhouette_value,
        "seconds": _seconds,
        "commas": lambda number: f"{number:,}",
    }
    return environment


def _described(tables: Tables, run: Row) -> dict[str, Row]:
    """The rows of model, data set, embedding set and newest execution that belong to a run; {} where unknown."""
    found = {
        "model": rows_where(tables, "model", id=run["model_id"], revision=run["model_revision"]),
        "dataset": rows_where(
            tables, "dataset", id=run["dataset_id"], fingerprint=run["dataset_fingerprint"]
        ),
        "embedding_set": rows_where(tables, "embedding_set", embedding_set_id=run["embedding_set_id"]),
        "execution": _newest_first(rows_where(tables, "execution", run_id=run["run_id"])),
    }
    return {name: frame.row(0, named=True) if len(frame) else {} for name, frame in found.items()}


def _newest_first(executions: pl.DataFrame) -> pl.DataFrame:
    return executions.sort("finished_at", descending=True) if len(executions) else executions


def _cost(tables: Tables, run: Row, described: Mapping[str, Row]) -> Row | None:
    """Seconds of each stage, as far as they were measured; stages ran side by side, so they do not add up."""
    stages: list[tuple[str, float]] = []
    embedded = described["embedding_set"]
    if embedded:
        stages.append(("embedding every layer, once for all runs", embedded["seconds"]))
    silhouette = rows_where(tables, "silhouette", run_id=run["run_id"])
    # Rows of an older version do not say what they cost.
    if "seconds" in silhouette.columns and silhouette["seconds"].null_count() < len(silhouette):
        by_metric = silhouette.group_by("metric").agg(pl.col("seconds").sum()).sort("metric")
        stages += [(f"{metric} silhouettes", spent) for metric, spent in by_metric.iter_rows()]
    criterion = rows_where(tables, "criterion", run_id=run["run_id"])
    if len(criterion):
        for name, spent in criterion.group_by("name").agg(pl.col("seconds").sum()).sort("name").iter_rows():
            stages.append((named(name), spent))
    probe = rows_where(tables, "probe", run_id=run["run_id"])
    if len(probe):
        stages.append(("probing every layer, to audit the choice", float(probe["seconds"].sum())))
    if not stages:
        return None
    executions = _newest_first(rows_where(tables, "execution", run_id=run["run_id"])).to_dicts()
    return {
        "stages": stages,
        "longest": max(spent for _, spent in stages) or 1.0,
        "embedded": embedded,
        "first": executions[-1] if executions else None,
        "repeat": executions[0] if len(executions) > 1 else None,
    }


def _provenance(tables: Tables, run: Row, described: Mapping[str, Row]) -> list[tuple[str, str]]:
    """Every id and version that a repeat needs, as (name, value)."""
    model, dataset, embedded, execution = (
        described[name] for name in ("model", "dataset", "embedding_set", "execution")
    )
    found = [
        ("run", run["run_id"]),
        ("flow run", execution.get("flow_run_id")),
        ("finished", execution and f"{execution['finished_at']:%Y-%m-%d %H:%M:%S %Z}"),
        ("device", execution.get("device") or run["device_kind"]),
        ("compute dtype", run["dtype"]),
        ("prompt", run.get("prompt") and one_line(run["prompt"])),
        ("model", run["model_id"]),
        ("model revision", run["model_revision"]),
        (
            "architecture",
            model and f"{model['family']}, {model['layers']} layers, hidden size {model['hidden_size']:,}",
        ),
        ("data set", run["dataset_id"]),
        ("data set revision", dataset.get("revision")),
        ("data set fingerprint", run["dataset_fingerprint"]),
        ("columns", dataset and _columns(dataset)),
        (
            "rows",
            dataset and f"{dataset['train_rows']:,} train, {dataset['test_rows']:,} test{_classes(dataset)}",
        ),
        ("embedding set", run["embedding_set_id"]),
        (
            "token budget of a batch",
            embedded and embedded["tokens"] and f"{embedded['token_budget']:,} tokens",
        ),
        (
            "result rows",
            ", ".join(f"{name} {len(tables[name]):,}" for name in sorted(tables) if len(tables[name])),
        ),
        ("scoring code", run["code_version"]),
        *sorted(json.loads(run["versions"]).items()),
    ]
    return [(name, str(value)) for name, value in found if value]


def _columns(dataset: Row) -> str:
    text = f"text in {dataset['text_column']}, " if dataset["text_column"] else "no text, "
    if dataset.get("text_pairs") == "features":
        text = f"texts in {dataset['text_column']}, each embedded by itself ({FORMULA}), "
    return f"{text}label in {dataset['label_column']}"


def _command(run: Row) -> str:
    """The command that repeats the run: every parameter spelt out, so that later defaults change nothing."""
    words = ["layerscout", "sweep"]
    for name, value in json.loads(run["parameters"]).items():
        flag = "--" + name.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                # What begins with a dash would be read as a flag of its own.
                words += [f"{flag}={each}"] if str(each).startswith("-") else [flag, str(each)]
    return shlex.join(words)


def _classes(dataset: Row) -> str:
    """How many there are; of numbers and sets of labels they are made for silhouettes alone."""
    made = dataset.get("task") in (Task.REGRESSION, Task.MULTI_LABEL)
    return "" if made else f", {len(dataset['classes'])} classes"


def _unbroken(text: str) -> str:
    """Keep a number and its unit, or a p and its value, on one line."""
    return text.replace(" %", "\u00a0%").replace("p < ", "p\u00a0<\u00a0").replace("p = ", "p\u00a0=\u00a0")


def _seconds(spent: float) -> str:
    """Seconds, with as many digits as a reader can use."""
    if spent < 60:
        return f"{spent:.1f} s"
    minutes, rest = divmod(round(spent), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
