"""Tags of words, from columns of lists to the answer: the layer that carries them is found, recorded or not."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import layerscout
from flows.parameters import SweepParameters
from flows.terminal.preview import show_inspection, show_plan
from flows.unrecorded_sweep import unrecorded_sweep
from storage.errors import UserError
from storage.layout import Layout
from storage.results import query
from tasks.data.stored_table import read_table
from tasks.exporting.predict import embed, load_classifier
from tests.conftest import FILLER, WORDS
from tests.flows.conftest import sweep_here, tables

PLANTED = 2
LAYERS = 3
_ALL = [*FILLER, *(word for each in WORDS.values() for word in each)]


def planted_layer(model: Path, folder: Path) -> None:
    """A copy of the tiny model with large weights, and texts whose tags one of its layers alone tells.

    The tag of a word is the sign of that direction of the layer's states which the other layers tell least of.
    """
    shutil.copytree(model, folder / "model")
    torch.manual_seed(0)
    loaded = AutoModel.from_pretrained(model)
    for parameter in loaded.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    loaded.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    rng = np.random.default_rng(1)
    texts = [list(rng.choice(_ALL, rng.integers(4, 12))) for _ in range(300)]
    found = []
    with torch.inference_mode():
        for words in texts:
            ids = torch.tensor([tokenizer(words, is_split_into_words=True)["input_ids"]])
            states = loaded(input_ids=ids, output_hidden_states=True).hidden_states
            found.append(torch.stack(states)[:, 0].double().numpy())  # a token a word
    layers = np.concatenate(found, axis=1)
    layers = (layers - layers.mean(1, keepdims=True)) / layers.std(1, keepdims=True)
    others = np.concatenate([layers[each] for each in range(LAYERS + 1) if each != PLANTED], axis=1)
    own = layers[PLANTED]
    rest = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
    # Of the variance along a direction, the largest share that is left.
    whiten = np.linalg.inv(np.linalg.cholesky(own.T @ own + 1e-6 * np.eye(own.shape[1])))
    direction = whiten.T @ np.linalg.eigh(whiten @ (rest.T @ rest) @ whiten.T)[1][:, -1]
    said = own @ direction
    tags = np.where(said > np.quantile(said, 0.7), "B-X", "O")
    ends = np.cumsum([len(words) for words in texts])[:-1]
    rows = {"tokens": texts, "ner_tags": [each.tolist() for each in np.split(tags, ends)]}
    frame = pl.DataFrame(rows)
    (folder / "data").mkdir()
    frame[:220].write_parquet(folder / "data" / "train.parquet")
    frame[220:].write_parquet(folder / "data" / "test.parquet")


@pytest.fixture(scope="module")
def planted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    planted_layer(tiny_model, folder)
    return folder


def asked(planted: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": f"path:{planted / 'model'}",
        "dataset": f"path:{planted / 'data'}",
        "dtype": "float32",
        "pooling": ("first", "mean"),
        **more,
    }


def test_planted_layer_is_found(planted: Path, tmp_path: Path, prefect_server: str) -> None:
    found = unrecorded_sweep(SweepParameters(storage=str(tmp_path / "out"), **asked(planted)))
    answer = layerscout.open(tmp_path / "out", found.run_id)
    assert answer.layer == PLANTED
    assert answer.gain_interval[0] > 0.1
    probe = found.tables["probe"].filter(pooling="first").sort("layer")
    assert probe["entity_f1"].arg_max() == PLANTED
    assert probe["entity_f1"][PLANTED] > 0.9
    assert "of the words of test texts given their tag" in str(answer)
    assert f"Its entity F1 is {100 * probe['entity_f1'][PLANTED]:.1f} %." in str(answer)
    dataset = found.tables["dataset"].row(0, named=True)
    assert (dataset["task"], dataset["texts"], dataset["cut_words"]) == ("token-classification", 300, 0)
    page = Path(answer.report).read_text(encoding="utf-8")
    assert "Rows are the words of 300 texts." in page
    assert "Test words of each true class" in page
    # The same with a record.
    sweep_here(prefect_server, tmp_path / "recorded", **asked(planted))
    recorded, ours = tables(tmp_path / "recorded"), tables(tmp_path / "out")
    assert [table for table in ours if not recorded[table].equals(ours[table])] == []


def test_tokens_are_told_a_text(planted: Path, tmp_path: Path) -> None:
    """And not a word: each has one here."""
    told = {"model": f"path:{planted / 'model'}", "dataset": f"path:{planted / 'data'}", "pooling": ("mean",)}
    found = unrecorded_sweep(SweepParameters(**told, together=1, storage=str(tmp_path)))
    texts = pl.concat([pl.read_parquet(planted / "data" / f"{split}.parquet") for split in ("train", "test")])
    (row,) = query(found.layout.results, "SELECT DISTINCT kind, text_tokens FROM atlas").iter_rows(named=True)
    assert row == {
        "kind": "tags of words",
        "text_tokens": pytest.approx(texts["tokens"].list.len().to_numpy().mean()),
    }


@pytest.fixture(scope="module")
def cut_short(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> layerscout.Answer:
    """Of texts longer than what is read, with layers side by side if that is worth it."""
    storage = tmp_path_factory.mktemp("short") / "out"
    found = unrecorded_sweep(SweepParameters(storage=str(storage), **asked(planted, max_length=8)))
    return layerscout.open(storage, found.run_id)


def test_exported_folder_tags_words_as_the_sweep_did(cut_short: layerscout.Answer, tmp_path: Path) -> None:
    # A storage may be moved.
    moved = Path(cut_short.layout.root).rename(tmp_path / "moved")
    answer = layerscout.open(moved, cut_short.run_id)
    folder = tmp_path / "model"
    found = answer.export(folder)
    texts = [[*FILLER[:5], *FILLER[:5]], FILLER[2:4]]
    states = answer.encode(texts)
    moved.rename(cut_short.layout.root)
    assert found.agreement == 1
    assert found.accuracy == pytest.approx(answer.accuracy, abs=0.01)
    assert found.accuracy_low < found.accuracy < found.accuracy_high
    assert not (folder / "modules.json").exists()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
    assert "a linear head for the 2 tags of words" in card
    assert np.isnan(states).any(axis=1).tolist() == [False] * 8 + [True] * 2 + [False] * 2
    embedded = embed(folder, texts)
    np.testing.assert_allclose(embedded, states, atol=1e-4 * np.nanmax(np.abs(states)))
    command = [sys.executable, str(folder / "predict.py"), *(" ".join(words) for words in texts)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [[line.split("\t") for line in text.splitlines()] for text in told.strip().split("\n\n")]
    assert [[line[0] for line in text] for text in lines] == texts
    of_words = [line[1] for text in lines for line in text]
    assert of_words[8:10] == ["-", "-"]
    kept = ~np.isnan(embedded).any(axis=1)
    wanted = load_classifier(folder).predict(embedded[kept])
    assert [tag for tag, is_kept in zip(of_words, kept, strict=True) if is_kept] == wanted.tolist()


def test_reduced_export_of_words(cut_short: layerscout.Answer, tmp_path: Path) -> None:
    found = cut_short.export(tmp_path / "model", width=4)
    assert found.reduction is not None
    assert embed(tmp_path / "model", [FILLER[:3]]).shape == (3, 4)


def test_what_is_no_list_of_words_is_said(cut_short: layerscout.Answer, tmp_path: Path) -> None:
    for given in (["the sea"], [["the", ""]], [[]], [3]):
        with pytest.raises(UserError, match="Text 0 is no list of words"):
            cut_short.encode(given)


def test_damaged_words_are_not_exported(cut_short: layerscout.Answer, tmp_path: Path) -> None:
    storage = shutil.copytree(cut_short.layout.root, tmp_path / "out")
    (words,) = (storage / "datasets").glob("words-*.parquet")
    pl.read_parquet(words).reverse().write_parquet(words)
    with pytest.raises(UserError, match=r"The words of the run's texts .* missing or damaged"):
        layerscout.open(storage, cut_short.run_id).export(tmp_path / "model")


def test_no_text_is_in_both_splits_and_the_cut_is_counted(planted: Path, tmp_path: Path) -> None:
    """A data set without a test split, of which texts are longer than what is read."""
    pl.read_parquet(planted / "data" / "train.parquet").write_ndjson(tmp_path / "rows.jsonl")
    rows = asked(planted, dataset=f"path:{tmp_path / 'rows.jsonl'}", max_length=8, together=1)
    found = unrecorded_sweep(SweepParameters(storage=str(tmp_path / "out"), **rows))
    dataset = found.tables["dataset"].row(0, named=True)
    assert dataset["test_is_made"]
    lengths = pl.read_ndjson(tmp_path / "rows.jsonl")["tokens"].list.len()
    assert dataset["cut_words"] == (lengths.cast(pl.Int64) - 8).clip(lower_bound=0).sum()
    assert dataset["train_rows"] + dataset["test_rows"] == lengths.clip(upper_bound=8).sum()
    table = read_table(Layout(str(tmp_path / "out")).dataset(dataset["fingerprint"]))
    texts = {split: set(table.filter(split=split)["text_id"]) for split in ("train", "test")}
    assert not texts["train"] & texts["test"]
    assert len(texts["test"]) == 44  # a fifth of 220
    page = Path(found.files.html).read_text(encoding="utf-8")
    assert f"{dataset['cut_words']:,} of {lengths.sum():,} words lie beyond the tokens that are read" in page


def test_lists_in_memory(planted: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(planted / "data" / "train.parquet")
    words, tags = frame["tokens"].to_list(), frame["ner_tags"].to_list()
    model = f"path:{planted / 'model'}"
    few = {"dtype": "float32", "together": 1, "storage": tmp_path, "probe_protocol": "sgd"}
    answer = layerscout.sweep(model, words, tags, **few, pooling="last")
    assert answer.layer == PLANTED
    with pytest.raises(UserError, match=r"Row 1 .* has 2 words .* and 1 tags .*; 1 of 3 rows"):
        layerscout.sweep(model, [["a", "b"], ["c"], ["d"]], [["O"], ["O"], ["X"]], **few)


@pytest.mark.parametrize(
    "more",
    [
        {"until_confident": 0.8},
        {"prompt": "one-word"},
        {"attention_rows": 10},
        {"pooling": ("text_mean",)},
        {"criterion": ("knn_loo",)},
        {"long_texts": "split"},
    ],
)
def test_what_is_of_whole_texts_is_refused(planted: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    parameters = SweepParameters(storage=str(tmp_path), **asked(planted, **more))
    (flag,) = more
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} .*labels of .* are a tag of each word"):
        unrecorded_sweep(parameters)


def test_words_have_no_weights_of_their_own(planted: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(planted / "data" / "train.parquet").with_columns(w=pl.lit(2.0))
    rows.write_parquet(tmp_path / "rows.parquet")
    weighted = {"dataset": f"path:{tmp_path / 'rows.parquet'}", "weight_column": "w"}
    with pytest.raises(UserError, match="a tag for each word, and --weight-column w weighs whole texts"):
        unrecorded_sweep(SweepParameters(storage=str(tmp_path / "out"), **asked(planted, **weighted)))


def test_inspect_and_plan_tell_words_and_texts(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = (pl.read_parquet(planted / "data" / f"{split}.parquet") for split in ("train", "test"))
    counts = [int(each["tokens"].list.len().sum()) for each in (train, test)]
    show_inspection(
        f"path:{planted / 'data'}",
        text_column=(),
        joined_by="\n",
        label_column=(),
        encoding=None,
        model=f"path:{planted / 'model'}",
        max_length=None,
    )
    said = " ".join(capsys.readouterr().out.split())
    assert f"rows {counts[0]:,} words of 220 texts train, {counts[1]:,} words of 80 texts test" in said
    assert "token-classification; the classes are tags of words" in said
    show_plan(SweepParameters(storage=str(tmp_path), **asked(planted)))
    said = " ".join(capsys.readouterr().out.split())
    assert f"{counts[0]:,} train and {counts[1]:,} test rows" in said
    assert f"{sum(counts):,} tokens" in said
