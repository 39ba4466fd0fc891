"""What tables and views promise: comments, rows that cannot be, answers to questions, upgrades in place."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from storage import migrations as schema
from storage.migrations import migrate, migrations, result_tables
from storage.results import ImpossibleRowError, merge, query

KEY = {"pooling": "mean", "norm_state": "as_returned"}
NIGHT = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)


def sweep_rows(
    run_id: str = "monday",
    *,
    layers: int = 4,
    accuracy: tuple[float, ...] = (0.5, 0.6, 0.8, 0.7, 0.6),
    nights: int = 0,
) -> dict[str, pl.DataFrame]:
    """The tables of a run that fits together: layer 2 is chosen and best. Made `nights` days after the first."""
    at = [KEY | {"run_id": run_id, "layer": layer} for layer in range(layers + 1)]
    probe = {
        "protocol": "logistic",
        "macro_f1": 0.5,
        "balanced_accuracy": 0.5,
        "majority_accuracy": 0.3,
        "log_loss": 1.0,
        "penalty": 0.1,
        "iterations": 10,
        "converged": True,
        "n_train": 100,
        "n_test": 50,
        "seconds": 0.25,
    }
    last = accuracy[layers]
    audit = {
        "rule": "turns_by_ridge_loo",
        "is_default": True,
        "is_answer": True,
        "chosen_layer": 2,
        "chosen_accuracy": accuracy[2],
        "last_accuracy": last,
        "best_layer": 2,
        "best_accuracy": accuracy[2],
        "regret": 0.0,
        "gain_over_last": accuracy[2] - last,
        "gain_low": 0.1,
        "gain_high": 0.3,
        "p_value": 0.001,
        "split_regret": 0.0,
        "first_accuracy": accuracy[0],
        "gain_over_first": accuracy[2] - accuracy[0],
        "gain_over_first_low": 0.2,
        "gain_over_first_high": 0.4,
        "gain_over_first_p_value": 0.001,
    }
    silhouette = {"metric": "cosine", "space": "raw", "mean": 0.1}
    run = {
        "run_id": run_id,
        "model_id": "path:model",
        "dataset_id": "path:tickets.csv",
        "embedding_set_id": f"set of {run_id}",
        "parameters": json.dumps({"seed": 0}),
        "code_version": "1",
        "layers": layers,
        "model_revision": "m1",
        "dataset_fingerprint": f"rows of {run_id}",
        "dtype": "float32",
        "device_kind": "cpu",
        "versions": json.dumps({"numpy": "2.4", "torch": f"2.{nights}"}),
    }
    started = NIGHT + timedelta(days=nights)
    rows: dict[str, list[dict[str, object]]] = {
        "run": [run],
        "execution": [
            {
                "flow_run_id": f"{run_id} {k}",
                "run_id": run_id,
                "status": "completed",
                "started_at": started + timedelta(minutes=k),
                "finished_at": started + timedelta(minutes=k, seconds=s),
                "seconds": s,
                "device": "cpu",
                "shards_computed": 1 - k,
                "shards_reused": k,
            }
            for k, s in ((0, 40.0), (1, 2.0))
        ],
        "model": [
            {
                "id": "path:model",
                "source": "path",
                "revision": "m1",
                "family": "llama",
                "layers": layers,
                "hidden_size": 8,
            }
        ],
        "dataset": [
            {
                "id": "path:tickets.csv",
                "source": "path",
                "fingerprint": f"rows of {run_id}",
                "revision": "",
                "classes": ["a", "b"],
                "text_column": "text",
                "label_column": "label",
                "train_rows": 100,
                "test_rows": 50,
                "test_is_made": True,
            }
        ],
        "embedding_set": [
            {
                "embedding_set_id": f"set of {run_id}",
                "dataset_fingerprint": f"rows of {run_id}",
                "max_length": 128,
                "token_budget": 512,
                "rows": 150,
                "tokens": 3000,
                "truncated_share": 0.02,
                "shards": 1,
                "seconds": 30.0,
            }
        ],
        "silhouette": [
            each | silhouette | {"precision": "exact", "standard_error": 0.01, "n": 100, "seconds": 0.5}
            for each in at
        ],
        "silhouette_by_class": [each | silhouette | {"label": c, "n": 50} for each in at for c in "ab"],
        "probe": [
            each | probe | {"accuracy": a, "accuracy_low": a - 0.1, "accuracy_high": a + 0.1}
            for each, a in zip(at, accuracy, strict=False)
        ],
        "criterion": [each | {"name": "ridge_loo", "value": 0.4, "seconds": 0.125} for each in at],
        "inflection_point": [
            at[2] | {"metric": "cosine", "kind": "peak", "relative_change": 0.5, "strength": 4.0}
        ],
        "trend": [
            KEY
            | {
                "run_id": run_id,
                "curve": "accuracy",
                "segment": 0,
                "from_layer": 0,
                "to_layer": layers,
                "direction": "up",
                "relative_change": 0.5,
            }
        ],
        "layer_choice": [
            at[2]
            | {
                "rule": "turns_by_ridge_loo",
                "score": 0.7,
                "confidence": 0.9,
                "reason": "It is the highest.",
                "is_default": True,
                "is_answer": True,
            }
        ],
        "audit": [KEY | {"run_id": run_id} | audit],
        "baseline": [
            {"run_id": run_id, "name": name, "n_train": 100, "n_test": 50, "seconds": 0.5}
            | {"accuracy": 0.4, "accuracy_low": 0.3, "accuracy_high": 0.5}
            for name in ("text", "majority")
        ],
        "representation": [
            {"run_id": run_id, "size": size, "is_answer": size == 2, "n_test": 50, "seconds": 0.5}
            | {"layers": [2, 1][:size], "poolings": ["mean"] * size, "norm_states": ["as_returned"] * size}
            | {
                "log_loss": 1.0 / size,
                "log_loss_gain": 0.5 * (size - 1),
                "log_loss_gain_error": 0.1 * (size - 1),
            }
            | {"accuracy": accuracy[2] + gain}
            | {f"gain_over_single{end}": gain for end in ("", "_low", "_high")}
            | {f"gain_over_last{end}": 0.1 for end in ("", "_low", "_high")}
            | {"gain_over_single_p_value": 0.5, "gain_over_last_p_value": 0.5}
            for size, gain in ((1, 0.0), (2, 0.02))
        ],
        "attention": [
            {"run_id": run_id, "layer": layer, "measure": "entropy", "value": 0.5}
            | {"standard_error": 0.1, "texts": 200}
            for layer in range(layers)
        ],
        "race_step": [
            {"run_id": run_id, "step": step, "train_rows": 50 * step, "train_rows_in_all": 400}
            | {"prompt": prompt, "pooling": "mean", "norm_state": "as_returned", "layer": 2, "chance": 0.9}
            | {"expected_accuracy": 0.8, "stays": True, "is_leader": prompt == "none"}
            | {"ended_by": "confidence" if step == 2 else None}
            for step in (1, 2)
            for prompt in ("none", "one-word")
        ],
        "curve_audit": [
            KEY
            | {"run_id": run_id, "metric": "cosine", "silhouette_direction": "up", "accuracy_direction": "up"}
            | {"rank_correlation": 0.5, "rank_correlation_low": 0.2, "rank_correlation_high": 0.7}
        ],
        "zone_audit": [
            KEY
            | {"run_id": run_id, "zone": "early", "layer_share": 0.4, "best_inside": 1, "best_outside": 3}
            | {"advantage": accuracy[1] - accuracy[3], "advantage_low": -0.3, "advantage_high": 0.1}
            | {"p_value": 0.2}
        ],
        "score_audit": [
            at[3]
            | {"score": "criterion:ridge_loo", "regret": max(accuracy) - accuracy[3], "split_regret": 0.1}
            | {"gain_over_last": accuracy[3] - last, "p_value": 0.2, "rank_correlation": 0.3}
        ],
    }
    return {name: pl.DataFrame(found) for name, found in rows.items()}


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
