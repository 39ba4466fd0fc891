"""The stored table of a data set is what its name stands for, or it is written anew."""

import logging
from pathlib import Path

import polars as pl
import pytest

from storage.layout import Layout
from tasks.data.dataset import prepare_dataset, read_places
from tasks.data.stored_table import read_table, stored_table
from tests.conftest import labelled_text


def shuffle_labels(table: Path) -> None:
    rows = read_table(str(table))
    rows.with_columns(label=rows["label"].shuffle(seed=1)).write_parquet(table)


def drop_a_row(table: Path) -> None:
    read_table(str(table)).head(-1).write_parquet(table)


def truncate(table: Path) -> None:
    table.write_bytes(table.read_bytes()[:-40])


def empty(table: Path) -> None:
    table.write_bytes(b"")


@pytest.mark.parametrize("damage", [shuffle_labels, drop_a_row, truncate, empty])
def test_a_damaged_table_is_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    assert callable(damage)
    rows = tmp_path / "rows.csv"
    labelled_text(60).write_csv(rows)
    layout = Layout(str(tmp_path / "out"))
    with caplog.at_level(logging.WARNING):
        found = prepare_dataset(f"path:{rows}", layout)
        prepare_dataset(f"path:{rows}", layout)
    assert caplog.text == ""
    whole = read_table(found.uri)
    damage(Path(found.uri))
    with caplog.at_level(logging.WARNING):
        assert prepare_dataset(f"path:{rows}", layout) == found
    assert read_table(found.uri).equals(whole)
    assert f"{found.uri} is damaged, and is written anew" in caplog.text


def test_a_table_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert stored_table(str(tmp_path / "nothing.parquet")) is None
    for content in (b"", b"PAR1", b"no Parquet at all"):
        (tmp_path / "junk.parquet").write_bytes(content)
        assert stored_table(str(tmp_path / "junk.parquet")) is None
    pl.DataFrame({"row_id": [1]}).write_parquet(tmp_path / "junk.parquet")
    assert stored_table(str(tmp_path / "junk.parquet")) is not None


def test_damaged_places_are_written_anew(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    labelled_text(30).write_csv(rows)
    layout = Layout(str(tmp_path / "out"))
    found = prepare_dataset(f"path:{rows}", layout, of_saved_states=True)
    assert found.places is not None
    kept = read_places(found).tolist()
    Path(found.places).write_bytes(b"damaged")
    assert prepare_dataset(f"path:{rows}", layout, of_saved_states=True) == found
    assert read_places(found).tolist() == kept
