"""A finished sweep out of a storage that may only be read."""

import json
import os
from pathlib import Path

from flows.layer_sweep import SweepOutcome
from flows.parameters import SweepParameters
from flows.run_id import asked_of
from storage.layout import Layout
from storage.places import why_not_writable
from storage.results import query
from tasks.reporting.artifacts import ReportFiles
from tasks.reporting.run_record import collect


def recorded_sweep(parameters: SweepParameters) -> SweepOutcome | None:
    """What the newest run of these parameters has left; None where a sweep can run, or none of them has.

    Whether the data set is still what it was then cannot be told without writing.
    """
    layout = Layout(
        parameters.storage if "://" in parameters.storage else os.path.abspath(parameters.storage)
    )
    if layout.is_remote or why_not_writable(Path(parameters.storage)) is None:
        return None
    if not Path(layout.results).is_file():
        return None
    asked = asked_of(parameters)
    newest_first = (
        "SELECT run_id, parameters FROM run JOIN latest_run USING (run_id) ORDER BY finished_at DESC"
    )
    runs = query(layout.results, newest_first).iter_rows()
    run_id = next((run_id for run_id, known in runs if json.loads(known) == asked), None)
    if run_id is None:
        return None
    return outcome_of(layout, run_id)


def outcome_of(layout: Layout, run_id: str) -> SweepOutcome:
    """What a finished run has left."""
    tables = collect(layout, run_id)
    folder = layout.report(run_id)
    figures = (layout.figure(folder, kind) for kind in ("png", "svg"))
    return SweepOutcome(
        run_id=run_id,
        flow_run_id=tables["execution"].sort("finished_at")["flow_run_id"][-1],
        tables=tables,
        layout=layout,
        files=ReportFiles(layout.page(folder), *figures),
        task_run_ids=(),
    )
