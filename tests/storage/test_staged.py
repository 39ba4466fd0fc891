from pathlib import Path

import polars as pl
import pytest

from storage.layout import Layout
from storage.staged import is_staged, keyed, read_staged, stage


def test_parts_are_read_in_order_and_replaced_whole(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    for part in ("mean-010", "mean-002", "last-001"):
        stage(layout, "run", "probe", part, pl.DataFrame({"part": [part], "value": [1]}))
    stage(layout, "run", "probe", "mean-002", pl.DataFrame({"part": ["mean-002"], "value": [2]}))
    assert read_staged(layout, "run", "probe").rows() == [("last-001", 1), ("mean-002", 2), ("mean-010", 1)]
    assert read_staged(layout, "run", "probe", "mean-")["part"].to_list() == ["mean-002", "mean-010"]
    assert is_staged(layout, "run", "probe", "mean-002")
    assert not is_staged(layout, "run", "probe", "mean-003")


def test_the_key_comes_before_every_row_and_no_rows_stay_none() -> None:
    key = pl.DataFrame({"run_id": ["a"], "layer": pl.Series([3], dtype=pl.Int32)})
    rows = keyed(key, pl.DataFrame({"value": [0.5, 1.5]}))
    assert rows.rows() == [("a", 3, 0.5), ("a", 3, 1.5)]
    assert keyed(key, rows.select("value").clear()).schema == rows.schema


def test_nothing_staged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="probe"):
        read_staged(Layout(str(tmp_path)), "run", "probe")


def test_a_column_that_an_older_version_did_not_stage_is_null(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    stage(layout, "run", "silhouette", "mean-000", pl.DataFrame({"layer": [0]}))
    stage(layout, "run", "silhouette", "mean-001", pl.DataFrame({"layer": [1], "seconds": [0.5]}))
    assert read_staged(layout, "run", "silhouette").rows() == [(0, None), (1, 0.5)]
