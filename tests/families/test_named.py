"""What went wrong once, each with its smallest model: equal to plain transformers text by text, or refused in words."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import UserError
from tasks.embedding.backbone import find_backbone
from tasks.embedding.comparison import NarrowDtypeError, PlainRun, compare
from tasks.embedding.embed import workers_of
from tasks.embedding.forward import Backbone
from tests.families.small_models import PAD, small_config, small_model
from tests.families.trial import POOLINGS, by_transformers, ours, some_texts, text_model

ROPE = {"rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_parameters": ROPE | {"rope_type": "dynamic"}, "max_position_embeddings": 64}
LONGROPE = {
    "rope_parameters": ROPE
    | {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 1.5]},
    "original_max_position_embeddings": 64,
    "max_position_embeddings": 256,
}


def compared(model_type: str, **changed: Any) -> Backbone:
    """The backbone of a small model, after its layers were found to be plain transformers'."""
    model = small_model(small_config(model_type, **changed))
    texts = some_texts(positions=None)
    exact = by_transformers(model, texts)
    backbone = find_backbone(copy.deepcopy(model))
    found = ours(backbone, texts)
    assert exact is not None
    for pooling in POOLINGS:
        np.testing.assert_allclose(found[pooling], exact[pooling], rtol=0, atol=2e-4)
    return backbone


@pytest.mark.parametrize(
    ("model_type", "changed"),
    [("phi3", LONGROPE), ("llama", DYNAMIC), ("qwen2", DYNAMIC), ("phi", DYNAMIC)],
)
def test_short_texts_keep_their_positions_beside_long_ones(model_type: str, changed: dict[str, Any]) -> None:
    backbone = compared(model_type, **changed)
    assert not backbone.packed
    assert workers_of(backbone) == 1


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert"])
def test_a_text_that_names_the_padding_token_keeps_hugging_faces_positions(model_type: str) -> None:
    assert any(PAD in text for text in some_texts(positions=None))
    compared(model_type)


def test_a_model_that_keeps_state_runs_one_batch_at_a_time_and_each_from_the_start() -> None:
    backbone = compared("recurrent_gemma")
    assert backbone.restore is not None
    assert workers_of(backbone) == 1


def test_block_sparse_attention_comes_back_after_a_short_text() -> None:
    """BigBird turns itself to full attention for a short text, and stays there."""
    compared("big_bird", block_size=8, num_random_blocks=1, attention_type="block_sparse")


def test_a_window_shorter_than_a_text_is_seen() -> None:
    compared("longformer", attention_window=4)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mistral", "qwen3", "phi", "gemma"])
def test_a_last_layer_without_the_final_norm_is_what_the_configuration_asks_for(model_type: str) -> None:
    config = small_config(model_type)
    config.tie_last_hidden_states = False
    model = small_model(config)
    texts = some_texts(positions=None)
    exact = by_transformers(model, texts)
    backbone = find_backbone(copy.deepcopy(model))
    found = ours(backbone, texts)
    assert exact is not None
    for pooling in POOLINGS:
        np.testing.assert_allclose(found[pooling], exact[pooling], rtol=0, atol=2e-4)
    assert backbone.final_norm is not None
    last = exact[POOLINGS[1]][-1, :2]
    tokens = [torch.from_numpy(text.astype(np.int64))[None] for text in texts[:2]]
    with torch.inference_mode():
        normed = [text_model(model)(input_ids=each).last_hidden_state[0, -1].numpy() for each in tokens]
    assert backbone.last_is_normed == np.allclose(last, normed, atol=1e-4)


def test_layers_with_tokens_first_are_refused() -> None:
    with pytest.raises(UserError, match="not the hidden states that Hugging Face returns"):
        find_backbone(small_model(small_config("xlnet")))


@pytest.mark.parametrize("model_type", ["fnet", "mra"])
def test_what_bfloat16_breaks_is_told_with_the_way_out(model_type: str) -> None:
    model = small_model(small_config(model_type))
    with pytest.raises(NarrowDtypeError, match=r"cannot be trusted in bfloat16\. .*--dtype float32"):
        find_backbone(copy.deepcopy(model).bfloat16())
    assert find_backbone(model).layers == 3


def test_what_forgets_in_bfloat16_what_it_knows_in_float32_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a fused MLP without Falcon-H1's multipliers once did: compared is what will run."""

    def forgetting(backbone: Backbone, plain: PlainRun) -> None:
        for block in backbone.blocks:
            block.feed_forward.down_multiplier = 1.0
        compare(backbone, plain)

    monkeypatch.setattr("tasks.embedding.backbone.compare", forgetting)
    with pytest.raises(NarrowDtypeError, match="further from float32"):
        find_backbone(small_model(small_config("falcon_h1")).bfloat16())


@pytest.mark.parametrize("model_type", ["gemma3", "mistral3", "qwen2_vl", "llava", "paligemma", "internvl"])
def test_a_model_that_sees_too_is_its_text_model(model_type: str) -> None:
    config = small_config(model_type)
    backbone = find_backbone(small_model(config))
    assert backbone.family == config.get_text_config().model_type
    assert backbone.layers == config.get_text_config().num_hidden_layers


@pytest.mark.parametrize(
    ("model_type", "norm"),
    [
        ("phi", "final_layernorm"),
        ("mpt", "norm_f"),
        ("lfm2", "embedding_norm"),
        ("falcon_h1", "final_layernorm"),
    ],
)
def test_a_final_norm_is_found_by_what_it_does(model_type: str, norm: str) -> None:
    backbone = find_backbone(small_model(small_config(model_type)))
    assert backbone.final_norm is getattr(backbone.model, norm)


@pytest.mark.parametrize("model_type", ["layoutlm", "openai-gpt", "big_bird"])
def test_a_pooler_that_is_called_anyway_and_a_block_that_returns_a_list_do_no_harm(model_type: str) -> None:
    assert find_backbone(small_model(small_config(model_type))).layers == 3


@pytest.mark.parametrize("model_type", ["electra", "bart", "gptj"])
def test_more_tokens_than_an_untested_family_has_positions_are_refused_in_words(model_type: str) -> None:
    backbone = find_backbone(small_model(small_config(model_type, max_position_embeddings=128)))
    with pytest.raises(UserError, match=r"128.* Set max_length to 128 or less"):
        ours(backbone, [np.full(129, 9, dtype=np.int32)])


def test_a_token_without_an_embedding_is_named() -> None:
    backbone = find_backbone(small_model(small_config("llama")))
    with pytest.raises(UserError, match=r"Row 1 has token 100, but the model has embeddings for 100 tokens"):
        ours(backbone, [np.array([9, 10], dtype=np.int32), np.array([9, 100], dtype=np.int32)])
