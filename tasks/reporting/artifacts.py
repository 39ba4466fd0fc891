"""What a finished run shows: the report and figure as files, the answer and the layer curve as Prefect artifacts."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.settings import get_current_settings

from storage.files import write_file
from storage.layout import Layout
from storage.sources.grammar import parse_source
from storage.sources.source import Kind
from storage.staged import is_staged, read_staged
from tasks.reporting.answer import answer_markdown, answer_sentence, layer_table
from tasks.reporting.layer_curves import Tables, answer_curves
from tasks.reporting.report import render_report
from tasks.retries import RETRIED, SHORT_S

_SOURCES: tuple[tuple[str, str, Kind], ...] = (
    ("Model", "model_id", "model"),
    ("Data set", "dataset_id", "dataset"),
)


@dataclass(frozen=True)
class ReportFiles:
    """Where the report and its figures lie."""

    html: str
    png: str
    svg: str


def write_report(layout: Layout, run_id: str, tables: Tables) -> ReportFiles:
    """Draw the figure and write the report of one run."""
    from tasks.reporting.figure import save_figure  # slow to import

    folder = layout.report(run_id)
    png, svg = save_figure(tables, folder)
    page = render_report(
        tables,
        confusion=confusions(layout, run_id, tables),
        projection=projection(layout, run_id, tables),
    )
    html = layout.page(folder)
    write_file(html, page.encode())
    return ReportFiles(html, png, svg)


def confusions(layout: Layout, run_id: str, tables: Tables) -> dict[str, npt.NDArray[np.int64]]:
    """Test rows by true and predicted class, int [K, K], of the answer's layer (`chosen`) and of the `last` one.

    Empty where a row is told something else than one class.
    """
    if not answer_curves(tables).task.is_one_class:
        return {}
    answer = tables["layer_choice"].filter("is_answer").row(0, named=True)
    last = int(tables["probe"].select(pl.col("layer").max()).item())
    classes = len(tables["dataset"]["classes"][0])
    found = {}
    for name, layer in (("chosen", answer["layer"]), ("last", last)):
        part = Layout.part(answer["pooling"], answer["norm_state"], layer)
        rows = read_staged(layout, run_id, "prediction", part)
        found[name] = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(found[name], (rows["label"].to_numpy(), rows["predicted"].to_numpy()), 1)
    return found


def projection(layout: Layout, run_id: str, tables: Tables) -> pl.DataFrame | None:
    """The answer's sample of texts in two dimensions; None for a run of an older version, which staged none."""
    answer = tables["layer_choice"].filter("is_answer").row(0, named=True)
    part = Layout.part(answer["pooling"], answer["norm_state"])
    if not is_staged(layout, run_id, "projection", part):
        return None
    return read_staged(layout, run_id, "projection", part)


def artifact_key(kind: str, run: Mapping[str, Any]) -> str:
    """`answer-smollm2-135m-election-tweets`: one key a model and data set, so that the UI keeps its history.

    Keys may hold lower-case letters, digits and dashes.
    """
    names = (
        run[column].rstrip("/").rsplit("/", 1)[-1].split(":")[-1] for column in ("model_id", "dataset_id")
    )
    return re.sub("[^a-z0-9]+", "-", f"{kind}-{'-'.join(names)}".lower()).strip("-")


def answer_page(tables: Tables, layout: Layout, files: ReportFiles, api_url: str | None) -> str:
    """The answer in Markdown with its figure and links, which Prefect's UI shows without asking any other host.

    The figure is an SVG inside the page: both UIs let `data:` images through, and an image artifact would need an
    address that every reader's browser can reach. The report is linked where the storage's own server serves it.
    """
    from tasks.reporting.figure import answer_svg  # slow to import

    run = tables["run"].row(0, named=True)
    figure = base64.b64encode(answer_svg(tables)).decode()
    report = f"`{files.html}`"
    if api_url and api_url == own_server(layout):
        report = f"[report](/reports/{run['run_id']}/report.html), {report}"
    places = [
        ("Layer curve", f"[every layer as a table](../key/{artifact_key('layer-curve', run)})"),
        ("Report", report),
        ("Database", f"`{layout.results}`"),
        *(
            (name, f"[{run[column]}]({address})")
            for name, column, kind in _SOURCES
            if (address := parse_source(run[column]).page(kind))
        ),
    ]
    return "\n\n".join(
        [
            answer_markdown(tables).rstrip(),
            f"![Probe accuracy and silhouettes of every layer](data:image/svg+xml;base64,{figure})",
            "\n".join(f"- {name}: {place}" for name, place in places),
        ]
    )


def own_server(layout: Layout) -> str | None:
    """The API of the Prefect server that lives in this storage folder; None where none does."""
    if layout.is_remote:
        return None
    try:
        record = layout.server.record.read_text()
    except FileNotFoundError:
        # Also where a server ends at this moment: it takes its record with it.
        return None
    return f"{json.loads(record)['url']}/api"


# Hashing the tables for a cache of results, which nobody reads, would cost more than passing them.
@task(name="report", timeout_seconds=SHORT_S, cache_policy=NO_CACHE, **RETRIED)
def report_task(layout: Layout, tables: Tables) -> ReportFiles:
    """Write the report; show the answer and the layer curve in the Prefect UI."""
    run = tables["run"].row(0, named=True)
    files = write_report(layout, run["run_id"], tables)
    create_table_artifact(
        pl.DataFrame(layer_table(tables)).with_columns(cs.float().round(4)).to_dicts(),
        key=artifact_key("layer-curve", run),
        description=f"The layer curve of the answer: {run['model_id']} × {run['dataset_id']}.",
    )
    create_markdown_artifact(
        answer_page(tables, layout, files, get_current_settings().api.url),
        key=artifact_key("answer", run),
        description=answer_sentence(tables),
    )
    get_run_logger().info("%s Report: %s", answer_sentence(tables), files.html)
    return files
