"""A database that is damaged, wherever, is said to be so, and a rebuild sets it aside and writes a new one."""

from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from storage.errors import UserError
from storage.results import check_database, merge, query, rebuild


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An empty database of ours, with a table of somebody's that takes most of its bytes."""
    place = tmp_path / "results.duckdb"
    rebuild(str(place), list)
    with closing(duckdb.connect(str(place))) as connection:
        connection.execute("CREATE TABLE mine AS SELECT random() AS x FROM range(300_000)")
        connection.execute("CHECKPOINT")
    return place


def flip(place: Path) -> None:
    """A bit in every block of the middle, where the rows lie."""
    damaged = bytearray(place.read_bytes())
    for at in range(len(damaged) // 3, len(damaged) // 2, 100_000):
        damaged[at] ^= 16
    place.write_bytes(damaged)


def test_a_block_that_is_not_what_was_written_is_found_by_whoever_reads_it(database: Path) -> None:
    flip(database)
    check_database(str(database))  # it opens
    with pytest.raises(UserError, match=r"results\.duckdb is damaged \(.*Corrupt.*layerscout rebuild"):
        query(str(database), "SELECT sum(x) FROM mine")
    damaged = database.read_bytes()
    done = rebuild(str(database), list)
    assert done.aside == f"{database}.damaged-1"
    assert Path(done.aside).read_bytes() == damaged
    assert query(str(database), "SELECT count(*) FROM run").item() == 0
    merge(str(database), "run", {})


def test_a_merge_that_meets_one_says_so(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meets_one(*_: object) -> None:
        raise duckdb.Error("Corrupt database file: computed checksum 1 does not match stored checksum 2")

    monkeypatch.setattr("storage.results._replace_run", meets_one)
    with pytest.raises(UserError, match=r"is damaged .*`layerscout rebuild` sets it aside"):
        merge(str(database), "run", {})


def test_a_sound_one_is_not_set_aside_and_keeps_what_others_made(database: Path) -> None:
    assert rebuild(str(database), list).aside is None
    assert query(str(database), "SELECT count(*) FROM mine").item() == 300_000


def test_a_folder_in_its_place_is_refused_before_the_work_and_set_aside(tmp_path: Path) -> None:
    place = tmp_path / "results.duckdb"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is damaged.*layerscout rebuild"):
        check_database(str(place))
    done = rebuild(str(place), list)
    assert done.aside is not None
    assert (Path(done.aside) / "notes.txt").read_text() == "mine"
    check_database(str(place))
