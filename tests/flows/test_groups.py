"""Rows of groups: left out, judged and exported together, recorded or not."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import t as student

import layerscout
from flows.parameters import SweepParameters
from flows.unrecorded_sweep import unrecorded_sweep
from storage.errors import UserError
from tasks.choosing.comparison import compare
from tasks.numerics.clusters import shares_of_clusters
from tests.conftest import FILLER, WORDS
from tests.flows.conftest import sweep_here, tables

AUTHORS, OF_EACH = 60, 6
PROMPTS = ("none", "{text} and it was")
_ALL = [*FILLER, *(word for each in WORDS.values() for word in each)]


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each author has words of his own and one label, which the words of others tell nothing of."""
    folder = tmp_path_factory.mktemp("authors")
    rng = np.random.default_rng(2)
    rows = []
    for author in range(AUTHORS):
        own, label = list(rng.choice(_ALL, 4, replace=False)), str(rng.choice(["good", "bad"]))
        for _ in range(OF_EACH):
            words = rng.permutation([*own, *rng.choice(FILLER, 2)])
            rows.append(
                {"author": f"a{author}", "text": " ".join(words), "label": label, "stars": author % 7}
            )
    table = pl.DataFrame(rows)
    few = AUTHORS * OF_EACH * 2 // 3
    table[:few].write_csv(folder / "train.csv")
    table[few:].write_csv(folder / "test.csv")
    return folder


def asked(model: Path, data: Path, storage: Path, **more: Any) -> SweepParameters:
    few = {"dtype": "float32", "pooling": ("mean",), "together": 1, "label_column": ("label",)}
    sources = {"model": f"path:{model}", "dataset": f"path:{data}", "storage": str(storage)}
    return SweepParameters(**{**few, **sources, **more})


def test_a_group_is_left_out_and_drawn_as_a_whole(
    tiny_model: Path, authors: Path, tmp_path: Path, prefect_server: str
) -> None:
    alone = unrecorded_sweep(asked(tiny_model, authors, tmp_path / "alone"))
    parameters = asked(tiny_model, authors, tmp_path / "out", group_column="author")
    found = unrecorded_sweep(parameters)
    assert found.run_id != alone.run_id
    scores = [
        each.tables["criterion"].filter(name="ridge_loo").sort("layer")["value"][0] for each in (alone, found)
    ]
    # Of his other texts an author is known again; of others he is not.
    assert scores[0] > 0.8 > 0.65 > scores[1]
    probe = found.tables["probe"].sort("layer")
    assert probe["held_out_accuracy"].max() < 0.65
    width = probe.select(pl.col("accuracy_high") - pl.col("accuracy_low")).to_series()
    plain = alone.tables["probe"].sort("layer")
    assert (width > 1.4 * plain.select(pl.col("accuracy_high") - pl.col("accuracy_low")).to_series()).all()
    # What the audit says is of the authors.
    audit = found.tables["audit"].filter("is_answer").row(0, named=True)
    chosen = found.tables["layer_choice"].filter("is_answer")["layer"].item()
    assert audit["chosen_accuracy"] == pytest.approx(probe["accuracy"][chosen])
    page = Path(found.files.html).read_text(encoding="utf-8")
    assert "Rows of one author depend on each other." in page
    sweep_here(
        prefect_server,
        tmp_path / "recorded",
        **parameters.model_dump(exclude={"storage"}, exclude_unset=True),
    )
    recorded, ours = tables(tmp_path / "recorded"), tables(tmp_path / "out")
    assert [table for table in ours if not recorded[table].equals(ours[table])] == []


def test_a_head_of_all_rows_is_fitted_where_a_part_of_the_groups_was_read(
    tiny_model: Path, authors: Path, tmp_path: Path
) -> None:
    """Groups are counted among the rows that are read, and are the same groups."""
    few = asked(
        tiny_model, authors, tmp_path / "out", group_column="author", max_train_rows=60, pooling=("mean",)
    )
    run = unrecorded_sweep(few).run_id
    found = layerscout.open(tmp_path / "out", run).export(tmp_path / "model", all_rows=True)
    assert found.train_rows == pl.read_csv(authors / "train.csv").height > 60


@pytest.mark.parametrize("task", ["single-label", "regression"])
def test_an_export_has_the_intervals_of_groups(
    tiny_model: Path, authors: Path, tmp_path: Path, task: str
) -> None:
    labels = {"single-label": ("label",), "regression": ("stars",)}[task]
    more = {"group_column": "author", "task": task, "label_column": labels, "together": 2}
    run = unrecorded_sweep(asked(tiny_model, authors, tmp_path / "out", **more)).run_id
    answer = layerscout.open(tmp_path / "out", run)
    found = answer.export(tmp_path / "model")
    row = answer.tables["probe"].filter(layer=answer.layer).row(0, named=True)
    assert found.accuracy == pytest.approx(row["accuracy"], abs=1e-3)
    assert found.accuracy_low == pytest.approx(row["accuracy_low"], abs=1e-2)
    assert found.accuracy_high == pytest.approx(row["accuracy_high"], abs=1e-2)
    baseline = answer.tables["baseline"]
    truth = pl.read_csv(authors / "test.csv")
    if task == "single-label":
        most = pl.read_csv(authors / "train.csv")["label"].mode()[0]
        right = shares_of_clusters(
            (truth["label"] == most).to_numpy(), truth["author"].rank("dense").to_numpy()
        )
        of_most = baseline.filter(name="majority").row(0, named=True)
        assert of_most["accuracy"] == pytest.approx(right.mean())
        half = student.ppf(0.975, len(right) - 1) * right.std(ddof=1) / len(right) ** 0.5
        assert of_most["accuracy_high"] - of_most["accuracy"] == pytest.approx(half)


@pytest.mark.parametrize("more", [{"until_confident": 0.8}, {"criterion": ("knn_loo",)}])
def test_what_takes_rows_for_independent_is_refused(
    tiny_model: Path, authors: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    parameters = asked(tiny_model, authors, tmp_path, group_column="author", **more)
    (flag,) = more
    told = rf"--{flag.replace('_', '-')} .*are in groups \(--group-column author\)"
    with pytest.raises(UserError, match=told):
        unrecorded_sweep(parameters)


def test_words_of_texts_of_one_group_go_together(tiny_model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"tokens": list(rng.choice(_ALL, 5)), "tags": list(rng.choice(["X", "O"], 5)), "who": f"w{i // 4}"}
        for i in range(80)
    ]
    pl.DataFrame(rows).write_ndjson(tmp_path / "rows.jsonl")
    parameters = asked(
        tiny_model,
        tmp_path / "rows.jsonl",
        tmp_path / "out",
        group_column="who",
        label_column=(),
        pooling=("first",),
    )
    found = unrecorded_sweep(parameters)
    table = pl.read_parquet(next((tmp_path / "out" / "datasets").glob("[0-9a-f]*.parquet")))
    assert table["group_id"].n_unique() == 20
    groups = {split: set(table.filter(split=split)["group_id"]) for split in ("train", "test")}
    assert not groups["train"] & groups["test"]
    assert table.group_by("text_id").agg(pl.col("group_id").n_unique())["group_id"].to_list() == [1] * 80
    assert found.tables["probe"]["held_out_rows"].min() > 0


def test_prompts_are_compared_by_group(tiny_model: Path, authors: Path, tmp_path: Path) -> None:
    """As layers are: a row of an author is not drawn anew without his others."""
    told = {"storage": str(tmp_path), "dtype": "float32", "pooling": "mean", "label_column": ("label",)}
    answer = layerscout.search(
        f"path:{tiny_model}", f"path:{authors}", prompt=PROMPTS, group_column="author", together=1, **told
    )
    parts = sorted(Path(tmp_path, "staged").glob("*/prediction/*.parquet"))
    group = np.arange(AUTHORS * OF_EACH // 3) // OF_EACH
    right = {}
    for row in answer.prompts.iter_rows(named=True):
        (part,) = [
            each
            for each in parts
            if row["run_id"] in str(each) and each.stem.endswith(f"-{row['layer']:03d}")
        ]
        rows = pl.read_parquet(part).sort("row_id")
        right[row["prompt"]] = shares_of_clusters((rows["label"] == rows["predicted"]).to_numpy(), group)
    expected = compare(right[PROMPTS[1]], right[PROMPTS[0]])
    (found,) = answer.prompts.filter(prompt=PROMPTS[1]).iter_rows(named=True)
    assert found["accuracy"] == pytest.approx(right[PROMPTS[1]].mean())
    assert (found["over_no_prompt_low"], found["over_no_prompt_high"], found["over_no_prompt_p_value"]) == (
        pytest.approx((expected.low, expected.high, expected.p_value))
    )
