"""The pairs of a grid beside each other: the tables of the paper, its claims, the rules, and Figure 1."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import polars as pl
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from storage.files import read_bytes, write_atomically, write_file
from storage.layout import Layout
from storage.results import merge, query
from tasks.reporting.atlas import short_names
from tasks.reporting.grid_report import SHOWN, claims_counted, render_grid
from tasks.reporting.layer_curves import Tables
from tasks.reporting.run_record import collect
from tasks.retries import LONG_S, RETRIED

# The views that a comparison writes down as CSV.
COMPARED = ("leaderboard", "table_1", "table_2", "claims", "criterion_quality", "rule_left_out")
_DIGITS = 6


@dataclass(frozen=True)
class ComparisonFiles:
    """Where a comparison lies: a folder of one CSV a view, of the figure and of the page that shows them."""

    folder: str
    html: str
    png: str
    svg: str


def compare_runs(runs: Mapping[str, Tables]) -> dict[str, pl.DataFrame]:
    """The views of `COMPARED`, and those that the page shows, over these runs (run id → tables) and no others."""
    with tempfile.TemporaryDirectory(prefix="layerscout-") as scratch:
        database = f"{scratch}/results.duckdb"
        for run_id, tables in runs.items():
            merge(database, run_id, tables)
        return {view: query(database, f"SELECT * FROM {view}") for view in (*COMPARED, *SHOWN)}


def answer_tables(runs: Mapping[str, Tables]) -> Tables:
    """What Figure 1 draws: of each run the curves of its answer, under the short names of model and data set."""
    found: dict[str, list[pl.DataFrame]] = {}
    for tables in runs.values():
        answer = tables["layer_choice"].filter("is_answer").row(0, named=True)
        for name, frame in tables.items():
            if "norm_state" in frame.columns:
                frame = frame.filter(pooling=answer["pooling"], norm_state=answer["norm_state"])
            found.setdefault(name, []).append(frame)
    joined = {name: pl.concat(frames, how="diagonal_relaxed") for name, frames in found.items()}
    run = joined["run"]
    short = [pl.col(each).replace_strict(short_names(run[each])) for each in ("model_id", "dataset_id")]
    return joined | {"run": run.with_columns(short)}


def write_comparison(
    layout: Layout, run_ids: Sequence[str]
) -> tuple[ComparisonFiles, dict[str, pl.DataFrame]]:
    """Write the comparison of these runs, from their staged rows, in the place of the last one.

    Raises:
        FileNotFoundError: one of the runs has not come to its end.
    """
    from tasks.reporting.figure import save_figure  # slow to import

    runs = {run_id: collect(layout, run_id) for run_id in run_ids}
    compared = compare_runs(runs)
    for view in COMPARED:
        write_atomically(layout.comparison_table(view), partial(_write_csv, compared[view]))
    png, svg = save_figure(answer_tables(runs), layout.comparison)
    html = layout.page(layout.comparison)
    write_file(html, render_grid(compared, read_bytes(svg)).encode())
    return ComparisonFiles(layout.comparison, html, png, svg), compared


def _write_csv(frame: pl.DataFrame, sink: BinaryIO) -> None:
    frame.write_csv(sink, float_precision=_DIGITS)


@task(name="compare-grid", timeout_seconds=LONG_S, **RETRIED)
def compare_runs_task(layout: Layout, run_ids: Sequence[str]) -> ComparisonFiles:
    """Lay the pairs beside each other; show the claims and the rules in the Prefect UI."""
    files, compared = write_comparison(layout, run_ids)
    create_table_artifact(
        claims_counted(compared["claims"]), key="claims", description="The paper's claims over all curves."
    )
    create_table_artifact(
        compared["criterion_quality"].to_dicts(),
        key="criterion-quality",
        description="The rules over all curves.",
    )
    create_markdown_artifact(f"Page, figure and tables: `{files.folder}`", key="comparison")
    return files
