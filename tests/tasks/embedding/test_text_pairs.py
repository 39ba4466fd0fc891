"""Features of text pairs against a loop over Hugging Face's hidden states, and what else of a set counts two texts."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import transformers as hf
from numpy.typing import NDArray

from storage.embeddings import read_layer
from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import Dataset, prepare_dataset
from tasks.data.stored_table import read_table
from tasks.embedding.embedding_set import embed_shard
from tasks.embedding.lengths import resolve_length
from tasks.embedding.model import resolve_model
from tasks.embedding.set_plan import plan_embedding_set
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import Settings, embedding_set_id
from tasks.embedding.text_pairs import pair_features, texts_of
from tasks.vocabulary import NormState, Pooling
from tests.conftest import labelled_text

SETTINGS = Settings(
    (Pooling.MEAN, Pooling.LAST), (NormState.AS_RETURNED,), 128, "float32", "cpu", token_budget=64
)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT with the tokenizer of the tiny model."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    hf.BertModel(hf.BertConfig(vocab_size=80, pad_token_id=0, **sizes)).save_pretrained(folder)
    for file in tiny_model.glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts a row and a label, train and test."""
    folder = tmp_path_factory.mktemp("pairs")
    for seed, (name, rows) in enumerate((("train", 40), ("test", 12))):
        one, other = labelled_text(rows, seed=2 * seed), labelled_text(rows, seed=2 * seed + 1)
        pl.DataFrame({"premise": one["text"], "hypothesis": other["text"], "label": one["label"]}).write_csv(
            folder / f"{name}.csv"
        )
    return folder


def prepared(data: Path, out: Path, **asked: object) -> tuple[Layout, Dataset]:
    layout = Layout(str(out))
    columns = {"text_column": ("premise", "hypothesis"), "text_pairs": "features"}
    return layout, prepare_dataset(f"path:{data}", layout, **(columns | asked))


def embedded(
    data: Path, model: Path, out: Path, settings: Settings = SETTINGS
) -> tuple[EmbeddingSet, Dataset, dict[tuple[int, str], NDArray[np.float32]]]:
    """The planned set, and the stored features [N, 4·D] of each layer and pooling."""
    layout, dataset = prepared(data, out)
    resolved = resolve_model(f"path:{model}")
    planned = plan_embedding_set(layout, dataset, resolved, settings)
    uris = [embed_shard(layout, planned, each, dataset, resolved, settings).uri for each in planned.shards]
    found = {}
    for layer in range(resolved.layers + 1):
        for pooling in settings.poolings:
            read = read_layer(uris, layer=layer, norm_state="as_returned", pooling=pooling.value)
            assert read.row_id.tolist() == list(range(planned.rows))
            found[layer, pooling.value] = read.embeddings
    return planned, dataset, found


@pytest.mark.parametrize("kind", ["packed decoder", "encoder"])
def test_features_are_those_of_a_loop_over_hidden_states(
    kind: str, tiny_model: Path, encoder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    folder = tiny_model if kind == "packed decoder" else encoder
    planned, dataset, found = embedded(pairs, folder, tmp_path / "out")
    model, tokenizer = hf.AutoModel.from_pretrained(folder), hf.AutoTokenizer.from_pretrained(folder)
    rows = pl.concat([pl.read_csv(pairs / f"{name}.csv") for name in ("train", "test")])
    tokens = 0
    for row, (premise, hypothesis) in enumerate(rows.select("premise", "hypothesis").iter_rows()):
        states = []
        for text in (premise, hypothesis):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            tokens += ids.shape[1]
            with torch.inference_mode():
                states.append(model(input_ids=ids, output_hidden_states=True).hidden_states)
        for (layer, pooling), features in found.items():
            u, v = (
                (each[layer][0].mean(0) if pooling == "mean" else each[layer][0, -1]).numpy()
                for each in states
            )
            expected = [*u, *v]
            expected += [abs(float(a) - float(b)) for a, b in zip(u, v, strict=True)]
            expected += [float(a) * float(b) for a, b in zip(u, v, strict=True)]
            np.testing.assert_allclose(features[row], expected, rtol=2e-4, atol=2e-5)
    assert (planned.rows, planned.tokens) == (52, tokens)
    assert sum(shard.tokens for shard in planned.shards) == tokens
    assert dataset.text_column == "premise + hypothesis"


def test_swapping_the_texts_of_a_row_changes_u_and_v_and_nothing_else(
    tiny_model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    turned = tmp_path / "turned"
    turned.mkdir()
    for name in ("train", "test"):
        rows = pl.read_csv(pairs / f"{name}.csv")
        rows.rename({"premise": "hypothesis", "hypothesis": "premise"}).write_csv(turned / f"{name}.csv")
    _, dataset, found = embedded(pairs, tiny_model, tmp_path / "out")
    _, other, swapped = embedded(turned, tiny_model, tmp_path / "out")
    assert dataset.fingerprint != other.fingerprint
    for key, features in found.items():
        u, v, *rest = np.split(features, 4, axis=1)
        np.testing.assert_allclose(swapped[key], np.concatenate([v, u, *rest], axis=1), rtol=1e-5, atol=1e-6)


def test_pair_features_against_plain_loops() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        layers, rows, width = rng.integers(1, 5, 3)
        states = rng.normal(size=(layers, 2 * rows, width)).astype(np.float32)
        found = pair_features(states)
        assert (found.shape, found.dtype) == ((layers, rows, 4 * width), np.float32)
        for layer in range(layers):
            for row in range(rows):
                u, v = states[layer, 2 * row], states[layer, 2 * row + 1]
                expected = [*u, *v, *(abs(a - b) for a, b in zip(u, v, strict=True))]
                expected += [a * b for a, b in zip(u, v, strict=True)]
                assert found[layer, row].tolist() == np.array(expected, np.float32).tolist()


def test_a_set_of_joined_texts_keeps_its_id_and_pairs_have_one_of_their_own(
    tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    model = resolve_model(f"path:{tiny_model}")
    _, joined = prepared(pairs, tmp_path / "out", text_pairs="joined")
    layout, plain = Layout(str(tmp_path / "out")), {"text_column": ("premise", "hypothesis")}
    assert joined == prepare_dataset(f"path:{pairs}", layout, **plain)
    _, features = prepared(pairs, tmp_path / "out")
    assert read_table(joined.uri).columns == ["row_id", "text", "label", "split"]
    table = read_table(features.uri)
    assert table.drop("pair").equals(read_table(joined.uri))
    assert texts_of(table) == [text for pair in table["pair"] for text in pair]
    assert table["text"].to_list() == ["\n".join(pair) for pair in table["pair"]]
    ids = [embedding_set_id(each, model, SETTINGS) for each in (joined, features)]
    assert ids[0] != ids[1]


def test_the_length_of_each_text_counts_and_not_that_of_both(tiny_model: Path, tmp_path: Path) -> None:
    rows = {"premise": ["wave " * 100, "the tide"] * 6, "hypothesis": ["star " * 100, "the moon"] * 6}
    pl.DataFrame(rows | {"label": ["x", "y"] * 6}).write_csv(tmp_path / "rows.csv")
    model = resolve_model(f"path:{tiny_model}")
    _, both = prepared(tmp_path / "rows.csv", tmp_path / "out")
    _, joined = prepared(tmp_path / "rows.csv", tmp_path / "out", text_pairs="joined")
    assert resolve_length(None, both, model, None) == 128
    assert resolve_length(None, joined, model, None) == 256


def test_a_row_that_is_too_long_is_named_by_its_number_and_not_by_that_of_its_text(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    train = {"premise": ["the tide"] * 8, "hypothesis": ["a moon"] * 8, "label": ["x", "y"] * 4}
    train["hypothesis"][5] = "star " * 600
    data = tmp_path / "data"
    data.mkdir()
    pl.DataFrame(train).write_csv(data / "train.csv")
    test = pl.DataFrame({"premise": ["a", "c"], "hypothesis": ["b", "d"], "label": ["x", "y"]})
    test.write_csv(data / "test.csv")
    with pytest.raises(UserError, match="Row 5 has 600 tokens, but the model has positions for 512"):
        embedded(data, encoder, tmp_path / "out", replace(SETTINGS, max_length=1_000))
