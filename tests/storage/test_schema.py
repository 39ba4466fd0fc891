"""What tables and views promise: comments, rows that cannot be, answers to questions, upgrades in place."""

from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from storage import migrations as schema
from storage.migrations import migrate, migrations, result_tables
from storage.results import ImpossibleRowError, merge, query
from tests.storage.sweep_rows import sweep_rows


def test_every_table_view_and_column_has_a_comment() -> None:
    with duckdb.connect() as connection:
        migrate(connection)
        silent = connection.sql(
            "SELECT table_name FROM duckdb_tables() WHERE comment IS NULL UNION ALL "
            "SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NULL UNION ALL "
            "SELECT table_name || '.' || column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
        ).fetchall()
        assert silent == []
        columns = connection.sql("SELECT column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
        assert len(columns) > 150


@pytest.mark.parametrize(
    ("table", "changed", "why"),
    [
        ("probe", {"layer": 5}, "probe at layer 5: the model has 4 layers"),
        ("silhouette", {"layer": 5}, "silhouette at layer 5: the model has 4 layers"),
        ("criterion", {"layer": 7}, "criterion at layer 7: the model has 4 layers"),
        ("trend", {"to_layer": 5}, "trend at layer 5: the model has 4 layers"),
        ("inflection_point", {"layer": 9}, "inflection_point at layer 9: the model has 4 layers"),
        ("silhouette", {"seconds": -1.0}, "seconds are below 0"),
        ("probe", {"accuracy_low": 0.9, "layer": 2}, "accuracy lies outside its interval"),
        ("audit", {"regret": 0.2}, "regret is not best minus chosen accuracy"),
        ("audit", {"gain_over_last": 0.3}, "gain over last is not chosen minus last accuracy"),
        ("audit", {"chosen_layer": 1}, "audits another layer than rule turns_by_ridge_loo chose"),
        ("layer_choice", {"is_answer": False}, "has 0 answers, not one"),
        (
            "score_audit",
            {"regret": 0.3},
            "regret of criterion:ridge_loo is not best minus its layer's accuracy",
        ),
        ("score_audit", {"gain_over_last": -0.1}, "gain over last of criterion:ridge_loo is not its layer's"),
        ("zone_audit", {"advantage": 0.1}, "advantage of early is not inside minus outside accuracy"),
        ("zone_audit", {"advantage": None}, "advantage of early is not inside minus outside accuracy"),
        ("zone_audit", {"best_outside": None}, "an advantage of early over no layer"),
        ("curve_audit", {"rank_correlation_low": 0.8}, "rank correlation of cosine is turned round"),
        ("representation", {"is_answer": False}, "has 0 answers, not one"),
        ("representation", {"layers": [9]}, "representation at layer 9: the model has 4 layers"),
        ("representation", {"layers": [1]}, "its one layer is not the answer that is audited"),
        ("representation", {"accuracy": 0.1}, "its one layer is not the answer that is audited"),
        ("representation", {"gain_over_single": 0.1}, "gain of 1 layers is not over the one"),
        ("race_step", {"layer": 5}, "race_step at layer 5: the model has 4 layers"),
        ("attention", {"layer": 4}, "attention at layer 5: the model has 4 layers"),
        ("race_step", {"is_leader": False}, "step 1 has 0 leaders, not one"),
    ],
)
def test_a_row_that_another_contradicts_is_refused_with_the_reason(
    tmp_path: Path, table: str, changed: dict[str, object], why: str
) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "monday", sweep_rows())
    rows = sweep_rows()
    rows[table] = rows[table].head(1).with_columns(**{name: pl.lit(value) for name, value in changed.items()})
    with pytest.raises(ImpossibleRowError, match=why):
        merge(database, "monday", rows)
    assert query(database, f"SELECT count(*) FROM {table}").item() == len(sweep_rows()[table])
    assert query(database, "SELECT * FROM impossible_row").is_empty()


def layer_columns() -> list[tuple[str, str]]:
    """Every column of a run's rows that holds a layer, whichever migration brings it."""
    return [
        (table.name, column)
        for table in result_tables().values()
        for column, kind in table.columns.items()
        if table.belongs_to_run and kind.is_integer() and ("layer" in column or column.startswith("best_"))
    ]


@pytest.mark.parametrize(("table", "column"), layer_columns())
def test_no_table_may_name_a_layer_that_the_model_does_not_have(
    tmp_path: Path, table: str, column: str
) -> None:
    rows = sweep_rows()
    beyond = {column: 99, "to_layer": 100} if column == "from_layer" else {column: 99}
    rows[table] = rows[table].head(1).with_columns(**{name: pl.lit(layer) for name, layer in beyond.items()})
    with pytest.raises(ImpossibleRowError, match=f"{table} at layer (99|100): the model has 4 layers"):
        merge(str(tmp_path / "results.duckdb"), "monday", rows)


def test_a_result_table_is_described_by_its_migration_alone() -> None:
    found = result_tables()
    assert set(sweep_rows()) == set(found)
    assert {name for name, table in found.items() if not table.belongs_to_run} == {
        *("run", "execution", "model", "dataset", "embedding_set")
    }
    assert {found[name].since for name in ("run", "audit")} == {1}
    assert found["score_audit"].since == 4
    assert found["silhouette"].columns["seconds"] == pl.Float64  # which a later migration added
    assert found["trend"].key == ("run_id", "pooling", "norm_state", "curve", "segment")


def test_the_views_answer(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    for nights, run_id, accuracy in ((0, "monday", 0.8), (1, "tuesday", 0.75)):
        merge(database, run_id, sweep_rows(run_id, accuracy=(0.5, 0.6, accuracy, 0.7, 0.6), nights=nights))
    one = "WHERE run_id = 'monday'"

    sure = query(database, f"FROM certainty {one}").row(0, named=True)
    assert (sure["verdict"], sure["confidence"], sure["test_is_made"]) == (
        "better than the last layer",
        0.9,
        True,
    )
    assert query(database, "FROM certainty").height == 2

    pooled = query(database, f"FROM pooling_comparison {one}").row(0, named=True)
    assert (pooled["chosen_layer"], pooled["accuracy_against_answer"], pooled["is_answer"]) == (2, 0.0, True)

    depths = query(database, f"SELECT depth, layer, accuracy FROM equal_depth {one} ORDER BY depth")
    assert depths["depth"].to_list() == [tenth / 10 for tenth in range(11)]
    assert depths["layer"].to_list() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert depths["accuracy"].to_list() == [0.5, 0.5, 0.6, 0.6, 0.8, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6]

    cost = query(database, f"FROM cost {one}").row(0, named=True)
    assert (cost["silhouette_seconds"], cost["criterion_seconds"], cost["probe_seconds"]) == (
        2.5,
        0.625,
        1.25,
    )
    assert (cost["first_seconds"], cost["latest_seconds"], cost["executions"]) == (40.0, 2.0, 2)
    assert cost["tokens_per_second"] == 100

    (change,) = query(database, "FROM changes").to_dicts()
    assert (change["previous_run_id"], change["run_id"]) == ("monday", "tuesday")
    assert change["changed"] == ["data set", "torch 2.0 to 2.1"]
    assert (change["previous_layer"], change["layer"]) == (2, 2)
    assert change["difference"] == pytest.approx(-0.05)


def test_a_choice_that_is_not_better_is_not_called_so(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    for low, high, verdict in (
        (-0.1, 0.3, "level with the last layer, within noise"),
        (-0.3, -0.1, "worse than the last layer"),
    ):
        rows = sweep_rows()
        rows["audit"] = rows["audit"].with_columns(gain_low=pl.lit(low), gain_high=pl.lit(high))
        merge(database, "monday", rows)
        assert query(database, "SELECT verdict FROM certainty").item() == verdict
        # Of the first layers of a deeper model.
        rows["run"] = rows["run"].with_columns(layers=pl.lit(24, dtype=pl.Int32))
        merge(database, "monday", rows)
        found = query(database, "SELECT verdict FROM certainty").item()
        assert found == verdict.replace("last layer", "deepest layer run")
        assert query(database, "SELECT last_layer FROM table_2").item() == 4


def test_of_prompts_that_raced_the_winner_is_the_answer_whatever_its_score(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")

    def answered(run_id: str, prompt: str | None, score: float, prompts: tuple[str, ...]) -> None:
        rows = sweep_rows(run_id)
        same = pl.lit("the same rows").alias("dataset_fingerprint")
        rows["run"] = rows["run"].with_columns(same, prompt=pl.lit(prompt, dtype=pl.String))
        rows["dataset"] = rows["dataset"].with_columns(pl.lit("the same rows").alias("fingerprint"))
        rows["layer_choice"] = rows["layer_choice"].with_columns(score=pl.lit(score))
        step = rows["race_step"].head(1)
        steps = [
            step.with_columns(prompt=pl.lit(each), is_leader=pl.lit(each == (prompt or "none")))
            for each in prompts
        ]
        rows["race_step"] = pl.concat(steps) if steps else step.clear()
        merge(database, run_id, rows)

    def answers() -> dict[str, bool]:
        found = query(database, "SELECT run_id, is_answer FROM prompt_comparison")
        return dict(found.iter_rows())

    answered("plain", None, 0.6, ())
    answered("prompted", "{text}!", 0.6, ())
    assert answers() == {"plain": True, "prompted": False}  # of equals one, and that without a prompt
    answered("prompted", "{text}!", 0.5, ())
    assert answers() == {"plain": True, "prompted": False}
    answered("prompted", "{text}!", 0.5, ("none", "{text}!"))
    assert answers() == {"plain": False, "prompted": True}


def test_a_database_of_the_first_version_is_upgraded_in_place_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = str(tmp_path / "results.duckdb")
    old = {
        name: frame.drop("seconds") if name == "silhouette" else frame
        for name, frame in sweep_rows("old").items()
        if result_tables()[name].since <= 2
    }
    with duckdb.connect(database) as connection:
        every = migrations()
        monkeypatch.setattr(schema, "migrations", lambda: every[:2])
        migrate(connection)
        monkeypatch.undo()
        for name, frame in old.items():
            connection.register("incoming", frame.to_arrow())
            connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM incoming")
            connection.unregister("incoming")
    merge(database, "new", sweep_rows("new", nights=1))
    assert query(database, "SELECT max(number) FROM schema_migration").item() == every[-1][0]
    for name, frame in old.items():
        mine = (
            ""
            if name == "model"
            else "WHERE "
            + {"dataset": "fingerprint LIKE '%old'"}.get(
                name, "embedding_set_id LIKE '%old'" if name == "embedding_set" else "run_id = 'old'"
            )
        )
        found = query(database, f"FROM {name} {mine}").select(frame.columns)
        zoned = [column for column in found.columns if found[column].dtype.is_temporal()]
        found = found.with_columns(pl.col(zoned).dt.convert_time_zone("UTC"))
        assert_frame_equal(found, frame, check_dtypes=False, check_row_order=False)
    assert query(database, "SELECT count(*) FROM silhouette WHERE seconds IS NULL").item() == 5
    assert query(database, "SELECT run_id FROM leaderboard ORDER BY run_id")["run_id"].to_list() == [
        "new",
        "old",
    ]
    assert query(database, "FROM impossible_row").is_empty()
    assert set(old) <= set(result_tables())


def test_the_same_file_opens_in_duckdb_polars_and_pandas(tmp_path: Path) -> None:
    database = str(tmp_path / "results.duckdb")
    merge(database, "monday", sweep_rows())
    asked = "SELECT layer, accuracy FROM layer_curve ORDER BY layer"
    expected = [(0, 0.5), (1, 0.6), (2, 0.8), (3, 0.7), (4, 0.6)]
    with duckdb.connect(database, read_only=True) as connection:
        assert connection.sql(asked).fetchall() == expected
        assert pl.read_database(asked, connection).rows() == expected
        assert list(connection.sql(asked).df().itertuples(index=False, name=None)) == expected
