from pathlib import Path

import polars as pl
import pytest

from storage.layout import Layout
from storage.migrations import newest_migration, result_tables
from storage.staged import stage
from tasks.reporting.run_record import collect, rebuild_database


def test_the_answer_is_the_default_choice_with_the_best_train_only_score(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    choices = [
        # pooling, rule, layer, score, is_default
        ("mean", "default", 4, 0.70, True),
        ("last", "default", 9, 0.80, True),
        ("max", "default", 3, 0.80, True),
        ("last", "other", 7, 0.95, False),
    ]
    for table in result_tables():
        rows = pl.DataFrame({"run_id": ["run"], "schema_number": [newest_migration()]})
        if table in ("layer_choice", "audit"):
            rows = pl.DataFrame(
                [
                    {"pooling": pooling, "norm_state": "as_returned", "rule": rule, "layer": layer}
                    | {"score": score, "is_default": default}
                    for pooling, rule, layer, score, default in choices
                ]
            )
        stage(layout, "run", table, "part", rows)
    tables = collect(layout, "run")
    for table in ("layer_choice", "audit"):
        answers = tables[table].filter("is_answer").select("pooling", "rule").rows()
        assert answers == [("max", "default")]  # the shallowest of the two that share the best score


def test_a_run_that_has_not_come_to_its_end_is_not_collected(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    stage(layout, "run", "silhouette", "part", pl.DataFrame({"run_id": ["run"]}))
    with pytest.raises(FileNotFoundError):
        collect(layout, "run")


def test_without_staged_rows_no_database_is_made(tmp_path: Path) -> None:
    assert rebuild_database(Layout(str(tmp_path))).runs == ()
    assert not (tmp_path / "results.duckdb").exists()
