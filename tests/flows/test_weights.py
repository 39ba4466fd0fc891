"""Rows with weights, from a column to the answer and the exported model."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import layerscout
from flows.parameters import SweepParameters
from flows.terminal.preview import show_inspection
from flows.unrecorded_sweep import unrecorded_sweep
from storage.errors import UserError
from storage.results import query
from tests.conftest import labelled_text
from tests.flows.conftest import sweep_here, tables


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighted")
    rng = np.random.default_rng(0)
    for split, rows in (("train", 240), ("test", 120)):
        table = labelled_text(rows, seed=len(split))
        noise = np.where(rng.random(rows) < 0.3, rng.permutation(table["label"].to_numpy()), table["label"])
        table.with_columns(label=pl.Series(noise), w=pl.Series(rng.uniform(0.1, 9.0, rows))).write_csv(
            folder / f"{split}.csv"
        )
    return folder


def asked(model: Path, data: Path, storage: Path, **more: Any) -> SweepParameters:
    few: dict[str, Any] = {"dtype": "float32", "pooling": ("mean",), "weight_column": "w", "together": 2}
    sources = {"model": f"path:{model}", "dataset": f"path:{data}", "storage": str(storage)}
    return SweepParameters(**{**few, **sources, **more})


def test_accuracies_are_weighted_from_scores_to_export(
    tiny_model: Path, weighted: Path, tmp_path: Path, prefect_server: str
) -> None:
    parameters = asked(tiny_model, weighted, tmp_path / "out")
    found = unrecorded_sweep(parameters)
    weights = pl.read_csv(weighted / "test.csv")["w"].to_numpy()
    database = f"{tmp_path}/out/results.duckdb"
    probe = found.tables["probe"].sort("layer")
    staged = sorted((tmp_path / "out" / "staged").rglob("*prediction*/*.parquet"))
    assert query(database, "SELECT count(*) FROM impossible_row").item() == 0
    audit = found.tables["audit"].filter("is_answer").row(0, named=True)
    layer = found.tables["layer_choice"].filter("is_answer")["layer"].item()
    assert audit["chosen_accuracy"] == pytest.approx(probe["accuracy"][layer])
    assert audit["last_accuracy"] == pytest.approx(probe["accuracy"][-1])
    (part,) = [each for each in staged if each.stem.endswith(f"{layer:03d}") and "text" not in str(each)]
    rows = pl.read_parquet(part).sort("row_id")
    right = (rows["label"] == rows["predicted"]).to_numpy()
    assert np.average(right, weights=weights) == pytest.approx(probe["accuracy"][layer])
    assert right.mean() != pytest.approx(probe["accuracy"][layer])
    of_train = pl.read_csv(weighted / "train.csv")["w"].to_numpy()
    (part,) = (tmp_path / "out" / "staged").rglob(f"ridge_row/*-{layer:03d}.parquet")
    left_out = pl.read_parquet(part).sort("row_id")["correct"].to_numpy()
    loo = found.tables["criterion"].filter(name="ridge_loo", layer=layer)["value"].item()
    assert np.average(left_out, weights=of_train) == pytest.approx(loo)
    assert "Rows count as much as w says" in Path(found.files.html).read_text(encoding="utf-8")
    answer = layerscout.open(tmp_path / "out", found.run_id)
    exported = answer.export(tmp_path / "model")
    assert exported.accuracy == pytest.approx(probe["accuracy"][layer], abs=1e-3)
    assert exported.accuracy_low == pytest.approx(probe["accuracy_low"][layer], abs=1e-2)
    plain = unrecorded_sweep(asked(tiny_model, weighted, tmp_path / "plain", weight_column=None))
    for table in ("silhouette", "attention"):
        ours, theirs = (each.tables[table].drop("run_id", "seconds", strict=False) for each in (found, plain))
        assert ours.equals(theirs)
    assert not found.tables["probe"]["accuracy"].equals(plain.tables["probe"]["accuracy"])
    same = {"exclude": {"storage"}, "exclude_unset": True}
    sweep_here(prefect_server, tmp_path / "recorded", **parameters.model_dump(**same))
    recorded, ours = tables(tmp_path / "recorded"), tables(tmp_path / "out")
    assert [table for table in ours if not recorded[table].equals(ours[table])] == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"until_confident": 0.8}, r"--until-confident .*have weights \(--weight-column w\)"),
        ({"task": "regression", "label_column": ("w",)}, "--weight-column w is for one class a text"),
        ({"weight_column": "label"}, "holds what is no number .*weights are numbers above 0"),
        ({"weight_column": "v"}, r"no column 'v' in every split \(--weight-column\)"),
    ],
)
def test_what_cannot_be_weighted_is_refused(
    tiny_model: Path, weighted: Path, tmp_path: Path, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        unrecorded_sweep(asked(tiny_model, weighted, tmp_path, **more))


@pytest.mark.parametrize("bad", ["0", "-1", "nan", "", "inf"])
def test_rows_without_a_weight_are_named(tiny_model: Path, weighted: Path, tmp_path: Path, bad: str) -> None:
    table = pl.read_csv(weighted / "train.csv", infer_schema=False)
    table[4, "w"] = bad or None
    table.write_csv(tmp_path / "rows.csv")
    with pytest.raises(UserError, match=r"Row 5 in train of .* has the weight .*1 of 240 rows"):
        unrecorded_sweep(asked(tiny_model, tmp_path / "rows.csv", tmp_path / "out"))


def test_inspect_reads_the_weights(
    weighted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pl.read_csv(weighted / "train.csv")
    heavy = table.with_columns(w=pl.when(pl.int_range(pl.len()) < 3).then(5_000).otherwise(pl.col("w")))
    heavy.write_csv(tmp_path / "heavy.csv")
    table.with_columns(w=pl.when(pl.int_range(pl.len()) == 7).then(0).otherwise(pl.col("w"))).write_csv(
        tmp_path / "none.csv"
    )
    asked = {"text_column": (), "joined_by": " ", "label_column": (), "weight_column": "w"}
    nothing = {"encoding": None, "model": None, "max_length": None}
    show_inspection(f"path:{tmp_path / 'heavy.csv'}", **asked, **nothing)
    shown = " ".join(capsys.readouterr().out.split())
    # Which of the three heavy rows are drawn for test, the seed decides.
    assert re.search(r"\d+ train rows tell no more than [1-3] of equal weight would", shown)
    with pytest.raises(UserError, match=r"Row 8 in .* has the weight '0.0'"):
        show_inspection(f"path:{tmp_path / 'none.csv'}", **asked, **nothing)
