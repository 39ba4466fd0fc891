from pathlib import Path

import polars as pl
import pytest

from storage.layout import Layout
from storage.staged import DamagedPartError, is_staged, keyed, read_part, read_staged, rows_of, stage


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


def test_rows_of_a_table_have_its_types_also_where_there_are_none() -> None:
    key = pl.DataFrame({"run_id": ["a"]})
    found = rows_of("inflection_point", key, [{"layer": 3, "kind": "peak", "strength": 2}])
    assert found.rows() == [("a", 3, "peak", 2.0)]
    assert found.schema["layer"].is_integer()
    assert found.schema["strength"] == pl.Float64
    none = rows_of("inflection_point", key, [])
    assert none.is_empty()
    assert none.columns[0] == "run_id"
    assert {"layer", "kind", "relative_change", "strength"} <= set(none.columns)


def test_nothing_staged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="probe"):
        read_staged(Layout(str(tmp_path)), "run", "probe")


def test_a_column_that_an_older_version_did_not_stage_is_null(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    stage(layout, "run", "silhouette", "mean-000", pl.DataFrame({"layer": [0]}))
    stage(layout, "run", "silhouette", "mean-001", pl.DataFrame({"layer": [1], "seconds": [0.5]}))
    assert read_staged(layout, "run", "silhouette").rows() == [(0, None), (1, 0.5)]


def test_a_byte_that_is_not_as_it_was_written_is_found_wherever_it_lies(tmp_path: Path) -> None:
    """Unsealed, some of these ended the whole process in a Parquet decoder, and some gave other rows."""
    layout = Layout(str(tmp_path))
    rows = pl.DataFrame(
        {"layer": [1, 2, 3], "value": [0.1, 0.2, 0.3], "label": ["x", None, "layerscout.sha256"]}
    )
    stage(layout, "run", "probe", "mean-000", rows)
    place = Path(layout.staged("run", "probe", "mean-000"))
    whole = place.read_bytes()
    assert pl.read_parquet(place).equals(rows)  # any reader's Parquet
    stage(layout, "run", "probe", "mean-000", rows)
    assert place.read_bytes() == whole
    damaged = [whole[:size] for size in (0, 1, 40, len(whole) // 2, len(whole) - 1)] + [whole + b"\0"]
    for at in range(0, len(whole), 3):
        # The seal's own name is no rows: without it a part is one of an older version.
        if b"layerscout.sha256" not in whole[max(at - 20, 0) : at + 20]:
            damaged.append(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    for content in damaged:
        place.write_bytes(content)
        assert not is_staged(layout, "run", "probe", "mean-000")
        assert read_part(layout, "run", "probe", "mean-000") is None
        with pytest.raises(DamagedPartError, match=r"mean-000\.parquet is damaged\. Delete it"):
            read_staged(layout, "run", "probe")


def test_parts_of_an_older_version_bear_no_seal_and_are_read(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    place = Path(layout.staged("run", "probe", "mean-000"))
    place.parent.mkdir(parents=True)
    pl.DataFrame({"layer": [1]}).write_parquet(place)
    assert is_staged(layout, "run", "probe", "mean-000")
    assert read_staged(layout, "run", "probe").rows() == [(1,)]
    place.write_bytes(place.read_bytes()[:-10])
    assert not is_staged(layout, "run", "probe", "mean-000")


def test_parts_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    stage(layout, "run", "probe", "mean-000", pl.DataFrame({"layer": [1]}))
    stage(layout, "run", "probe", "mean-001", pl.DataFrame({"layer": ["one"]}))
    with pytest.raises(
        DamagedPartError,
        match=r"rows of probe in .*cannot be read together \(.*(type|schema).*\)\. Delete that folder",
    ):
        read_staged(layout, "run", "probe")
