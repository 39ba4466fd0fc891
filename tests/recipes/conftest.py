"""What every recipe of CONTRIBUTING.md is tried with: a whole sweep of the small model, in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.layer_sweep import SweepOutcome, layer_sweep
from flows.parameters import SweepParameters
from storage.results import query

Sweep = Callable[..., SweepOutcome]


@pytest.fixture
def sweep(tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str) -> Iterator[Sweep]:
    """Sweep with these parameters over the usual ones."""

    def run(**changed: Any) -> SweepOutcome:
        usual = {
            "model": f"path:{tiny_model}",
            "dataset": f"path:{tiny_dataset}",
            "pooling": ("mean",),
            "metric": ("cosine",),
            "storage": str(tmp_path / "storage"),
        }
        return layer_sweep(SweepParameters(**usual | changed))

    # The log of this process would still be on its way when the server has gone.
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield run


def rows(outcome: SweepOutcome, sql: str) -> pl.DataFrame:
    """What the results database answers."""
    return query(outcome.layout.results, sql)


def page(outcome: SweepOutcome) -> str:
    """The report."""
    return Path(outcome.files.html).read_text(encoding="utf-8")
