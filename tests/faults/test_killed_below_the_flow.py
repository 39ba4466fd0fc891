"""`kill -9` while Parquet or DuckDB is being written, at seeded moments: the same sweep again finishes all of it."""

from pathlib import Path

import pytest

from storage.layout import Layout
from storage.migrations import result_tables
from storage.results import query
from tasks.reporting.run_record import rebuild_database
from tests.faults.conftest import (
    MOMENTS,
    TIMED,
    Small,
    assert_clean,
    assert_equal_tables,
    in_a_process,
    moments,
)
from tests.faults.victim import KILLED, sweep
from tests.flows.conftest import finished_shards


@pytest.mark.parametrize("number", range(MOMENTS))
def test_a_killed_sweep_goes_on_where_it_was(small: Small, tmp_path: Path, number: int) -> None:
    storage = tmp_path / "storage"
    point, call = moments(small, MOMENTS)[number]
    code = in_a_process(sweep, small.at(storage), str(small.cache), point, call)
    if point == TIMED:
        # A time may come after the end on a fast machine.
        assert code in (KILLED, 0)
    else:
        assert code == KILLED
    shards = finished_shards(storage)
    assert in_a_process(sweep, small.at(storage), str(small.cache), None, 0) == 0
    kept = finished_shards(storage)
    assert len(kept) == small.calls["a row group of a shard is written"] // 4
    assert {shard: kept[shard] for shard in shards} == shards
    assert_equal_tables(small.expected, storage)
    assert_clean(storage, small.cache)


def test_a_flipped_byte_in_a_finished_shard_is_found_and_that_shard_alone_computed_again(
    small: Small, tmp_path: Path
) -> None:
    point = "rows are inserted into the database"
    assert in_a_process(sweep, small.at(tmp_path), str(small.cache), point, 1) == KILLED
    before = finished_shards(tmp_path)
    damaged = sorted(before)[2]
    whole = Path(damaged).read_bytes()
    middle = len(whole) // 2
    Path(damaged).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert in_a_process(sweep, small.at(tmp_path), str(small.cache), None, 0) == 0
    after = finished_shards(tmp_path)
    assert Path(damaged).read_bytes() == whole
    assert {shard for shard in before if before[shard] != after[shard]} == {damaged}
    assert_equal_tables(small.expected, tmp_path)


def test_a_database_is_rebuilt_from_staged_rows_alone_and_runs_that_never_ended_are_named(
    small: Small, tmp_path: Path
) -> None:
    assert in_a_process(sweep, small.at(tmp_path), str(small.cache), None, 0) == 0
    killed = small.at(tmp_path) | {"seed": 1}
    point = "rows are inserted into the database"
    every = result_tables()
    database = Layout(str(tmp_path)).results
    before = {table: query(database, f"SELECT * FROM {table} ORDER BY ALL") for table in every}
    # This one is killed while it scores, so that no row says that it ended.
    assert in_a_process(sweep, killed, str(small.cache), "the rows of a score are staged", 20) == KILLED
    Path(database).write_bytes(b"no database any more")
    rebuilt = rebuild_database(Layout(str(tmp_path)))
    assert [before["run"]["run_id"].item()] == list(rebuilt.runs)
    (left_out,) = rebuilt.left_out.values()
    assert "No staged rows" in left_out
    after = {table: query(database, f"SELECT * FROM {table} ORDER BY ALL") for table in every}
    assert [table for table in every if not before[table].equals(after[table])] == []
    assert in_a_process(sweep, killed, str(small.cache), point, 1) == KILLED
    # Its rows are all there: it came to its end, and only its merge was lost.
    assert len(rebuild_database(Layout(str(tmp_path))).runs) == 2
