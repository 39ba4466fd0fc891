"""Poolings by attention from the command to the answer: judged as the others are, and never exported wrongly."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import transformers as hf

import layerscout
from flows.parameters import SweepParameters
from storage.embeddings import read_layer
from tasks.embedding.pooling import POOLINGS
from tests.conftest import labelled_text
from tests.flows.conftest import sweep_here, tables

TRAIN, TEST = labelled_text(120, seed=1), labelled_text(60, seed=2)
TEMPLATE = "wave tide gull goat {text} star"


def swept(model: Path, storage: Path, **options: object) -> layerscout.Answer:
    rows = [(each["text"].to_list(), each["label"].to_list()) for each in (TRAIN, TEST)]
    options = {"dtype": "float32", "storage": storage, **options}
    return layerscout.sweep(f"path:{model}", *rows[0], test=rows[1], **options)


def stored(answer: layerscout.Answer, layer: int, pooling: str) -> np.ndarray:
    """In the order of the rows."""
    folder = Path(
        answer.layout.root, "embeddings", answer.tables["run"].row(0, named=True)["embedding_set_id"]
    )
    shards = tuple(str(each) for each in sorted(folder.glob("*.parquet")))
    found = read_layer(shards, layer=layer, norm_state="as_returned", pooling=pooling)
    return found.embeddings[np.argsort(found.row_id)]


def test_they_are_not_asked_for_unless_they_are_named() -> None:
    default = SweepParameters(model="path:a", dataset="path:b").pooling
    assert [POOLINGS[each].weights for each in default] == [None, None]


def test_a_sweep_with_them_ends_in_tables_a_choice_and_a_report(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str
) -> None:
    poolings = ("mean", "attention_summary", "attention_received")
    outcome = sweep_here(
        prefect_server,
        tmp_path / "out",
        model=f"path:{tiny_model}",
        dataset=f"path:{tiny_dataset}",
        pooling=poolings,
        dtype="float32",
    )
    found = tables(tmp_path / "out")
    for pooling in poolings:
        assert found["probe"].filter(pooling=pooling)["layer"].sort().to_list() == [0, 1, 2, 3]
        assert found["layer_choice"].filter(pl.col("is_default"), pooling=pooling).height == 1
    assert found["layer_choice"]["is_answer"].sum() == 1
    report = Path(outcome.files.html).read_text()
    assert all(pooling in report for pooling in poolings)


@pytest.mark.parametrize("prompt", ["none", TEMPLATE])
@pytest.mark.parametrize("pooling", ["attention_summary", "attention_received"])
def test_new_texts_get_the_embeddings_of_the_sweep_and_no_folder_gets_others(
    tiny_model: Path, tmp_path: Path, pooling: str, prompt: str
) -> None:
    """The layer of the answer is read by a block that a pass up to it would not run."""
    answer = swept(tiny_model, tmp_path / "out", pooling=pooling, prompt=prompt, together=1)
    texts = pl.concat([TRAIN, TEST])["text"].to_list()
    expected = stored(answer, answer.layer, pooling)
    assert answer.pooling == pooling
    np.testing.assert_allclose(answer.encode(texts), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(layerscout.UserError, match=f"{pooling} pooling.* cannot be exported.*encode"):
        answer.export(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_whose_attention_is_not_ours_is_refused_before_anything_is_embedded(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gemma"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_model)
    config = hf.GemmaConfig(vocab_size=len(tokenizer), head_dim=8, num_key_value_heads=1, **sizes)
    hf.GemmaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(layerscout.UserError, match=r"attention_received weighs tokens .*'gemma' model"):
        swept(folder, tmp_path / "out", pooling=("mean", "attention_received"))
    assert not (tmp_path / "out" / "embeddings").exists()
    assert swept(folder, tmp_path / "out", pooling="mean").pooling == "mean"
