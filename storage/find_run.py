"""Which run a command means."""

import polars as pl

from storage.errors import UserError
from storage.results import query


def find_run(database: str, given: str | None) -> str:
    """The id of the run whose id begins with `given`, or of the newest run when None.

    Raises:
        UserError: there is no database, no such run, or more than one; the runs that there are are named.
    """
    runs = query(database, "SELECT run_id, model_id, dataset_id FROM latest_run")
    if given is None and runs.is_empty():
        raise _no_run(database)
    matching = runs.head(1) if given is None else runs.filter(pl.col("run_id").str.starts_with(given))
    if matching.height == 1:
        return str(matching["run_id"].item())
    known = "; ".join(f"{run_id} ({model} × {data})" for run_id, model, data in runs.head(10).iter_rows())
    how_many = "No run" if matching.is_empty() else "More than one run"
    raise UserError(
        f"{how_many} in {database} has an id that begins with {given!r}. The newest are: {known or 'none'}."
    )


def every_run(database: str) -> list[str]:
    """The ids of all runs, in the order of model and data set.

    Raises:
        UserError: there is no database, or no run in it.
    """
    runs = query(database, "SELECT run_id FROM run ORDER BY model_id, dataset_id, run_id")["run_id"].to_list()
    if not runs:
        raise _no_run(database)
    return runs


def _no_run(database: str) -> UserError:
    return UserError(f"There is no run in {database}. Run `layerscout sweep` first, or name --storage.")
