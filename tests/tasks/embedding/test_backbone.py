"""Every family's layers against Hugging Face's own hidden states, with small random weights in float32."""

import copy
import gc
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from storage.errors import UserError
from tasks.embedding.backbone import find_backbone
from tasks.embedding.families import FAMILIES
from tasks.embedding.forward import capturing, forward_layers
from tasks.embedding.packed_attention import LengthGroup

WINDOW = 4
VOCABULARY = 40
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 2, "head_dim": 4}
GPT2: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64}
DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 3,
    "n_heads": 4,
}
OPT: dict[str, Any] = {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 3,
    "num_heads": 4,
}

MODELS = {
    "llama": lambda: hf.LlamaModel(hf.LlamaConfig(**GROUPED)),
    "llama_with_head": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "qwen2": lambda: hf.Qwen2Model(hf.Qwen2Config(**GROUPED)),
    "qwen3": lambda: hf.Qwen3Model(hf.Qwen3Config(**GROUPED)),
    "mistral": lambda: hf.MistralModel(hf.MistralConfig(**GROUPED, sliding_window=WINDOW)),
    "gemma2": lambda: hf.Gemma2Model(
        hf.Gemma2Config(**GROUPED, sliding_window=WINDOW, attn_logit_softcapping=2.0, query_pre_attn_scalar=7)
    ),
    "gemma3_text": lambda: hf.Gemma3TextModel(hf.Gemma3TextConfig(**GROUPED, sliding_window=WINDOW)),
    "gpt2": lambda: hf.GPT2Model(hf.GPT2Config(**GPT2)),
    "gpt2_scaled_by_layer": lambda: hf.GPT2Model(hf.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True)),
    "gpt_neox": lambda: hf.GPTNeoXModel(hf.GPTNeoXConfig(**SMALL)),
    "opt": lambda: hf.OPTModel(hf.OPTConfig(**OPT)),
    "phi3": lambda: hf.Phi3Model(hf.Phi3Config(**{**GROUPED, "sliding_window": WINDOW})),
    "bert": lambda: hf.BertModel(hf.BertConfig(**SMALL)),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**{**SMALL, "pad_token_id": 1})),
    "xlm-roberta": lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(**{**SMALL, "pad_token_id": 1})),
    "modernbert": lambda: hf.ModernBertModel(
        hf.ModernBertConfig(**SMALL, local_attention=2 * WINDOW, global_attn_every_n_layers=3, cls_token_id=1)
    ),
    "distilbert": lambda: hf.DistilBertModel(hf.DistilBertConfig(**DISTILBERT)),
    "distilbert_classifier": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(**DISTILBERT)
    ),
    "t5": lambda: hf.T5EncoderModel(hf.T5Config(**T5)),
    "t5_with_decoder": lambda: hf.T5Model(hf.T5Config(**T5)),
}
WITHOUT_FINAL_NORM = {"bert", "roberta", "xlm-roberta", "distilbert"}
LENGTHS = [9, 9, 7, 3, 3, 3, 1]


def small_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        # Freshly made weights are so small that a wrong position or mask would hide below the tolerance.
        nn.init.normal_(parameter, std=0.3)
    return model


def some_ids(lengths: list[int] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator) for length in lengths]


def hugging_face_layers(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """One text alone, through the plain eager path: [layers + 1, length, D]."""
    body = model.get_encoder() if model.config.model_type == "t5" else model.base_model
    body.set_attn_implementation("eager")
    with torch.inference_mode():
        return torch.stack(body(input_ids=ids[None], output_hidden_states=True).hidden_states)[:, 0]


def our_layers(backbone, texts: list[torch.Tensor], max_layer: int | None = None) -> list[torch.Tensor]:
    """Each text's [layers + 1, length, D], from texts laid end to end (those of one length for T5)."""
    batches: list[list[torch.Tensor]] = [[texts[0]]]
    for text in texts[1:]:
        if backbone.packed or len(text) == len(batches[-1][0]):
            batches[-1].append(text)
        else:
            batches.append([text])
    found = []
    for batch in batches:
        groups: list[LengthGroup] = []
        for text in batch:
            if groups and groups[-1].length == len(text):
                groups[-1] = LengthGroup(groups[-1].start, groups[-1].texts + 1, len(text))
            else:
                groups.append(LengthGroup(groups[-1].stop if groups else 0, 1, len(text)))
        layers: list[torch.Tensor] = []
        with capturing(backbone):
            forward_layers(
                backbone,
                torch.cat(batch),
                groups,
                lambda layer, states, into=layers: into.append(states.clone()),
                max_layer,
            )
        found += torch.stack(layers).split([len(text) for text in batch], dim=1)
    return found


def test_every_tested_family_is_tested():
    assert {small_model(name).config.model_type for name in MODELS} == set(FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_hugging_faces_hidden_states(name):
    model, texts = small_model(name), some_ids()
    want = [hugging_face_layers(model, ids) for ids in texts]
    backbone = find_backbone(copy.deepcopy(model))
    together = our_layers(backbone, texts)
    for ids, theirs, ours in zip(texts, want, together, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        (alone,) = our_layers(backbone, [ids])
        np.testing.assert_allclose(alone, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_as_close_to_float32_as_hugging_faces_own(name):
    model, texts = small_model(name), some_ids([40, 40, 33, 7, 7, 1])
    exact = [hugging_face_layers(model, ids) for ids in texts]
    model.bfloat16()
    theirs = [hugging_face_layers(model, ids).float() for ids in texts]
    backbone = find_backbone(model)
    ours = [layers.float() for layers in our_layers(backbone, texts)]
    for layer in range(4):
        want, their, our = (torch.cat([each[layer] for each in of]) for of in (exact, theirs, ours))
        assert (our - want).norm() <= 1.5 * (their - want).norm() + 1e-6 * want.norm()
    # Found a second time, a model stays as it is.
    again = our_layers(find_backbone(model), texts)
    assert all(torch.equal(first, second.float()) for first, second in zip(ours, again, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_what_was_found(name):
    model = small_model(name)
    backbone = find_backbone(model)
    assert backbone.layers == len(backbone.blocks) == 3
    assert backbone.hidden_size == 16
    assert (backbone.family, backbone.device.type, backbone.dtype) == (
        model.config.model_type,
        "cpu",
        torch.float32,
    )
    assert (backbone.final_norm is None) == (backbone.family in WITHOUT_FINAL_NORM)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(
        isinstance(part, nn.Linear) and part.out_features == VOCABULARY for part in backbone.model.modules()
    )


@pytest.mark.parametrize("name", sorted(set(MODELS) - WITHOUT_FINAL_NORM - {"distilbert_classifier"}))
def test_the_final_norm_turns_the_last_block_into_the_last_layer(name):
    backbone = find_backbone(small_model(name))
    raw: list[torch.Tensor] = []
    hook = backbone.blocks[-1].register_forward_hook(
        lambda module, args, output: raw.append(output[0] if isinstance(output, tuple) else output)
    )
    (layers,) = our_layers(backbone, some_ids([6]))
    hook.remove()
    with torch.inference_mode():
        np.testing.assert_allclose(backbone.final_norm(raw[0]).reshape(6, 16), layers[-1], atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
@pytest.mark.parametrize("max_layer", [0, 2, 3])
def test_later_blocks_do_not_run(name, max_layer):
    backbone = find_backbone(small_model(name))
    ran = []
    for number, block in enumerate(backbone.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    (whole,) = our_layers(backbone, some_ids([5]))
    ran.clear()
    (cut,) = our_layers(backbone, some_ids([5]), max_layer)
    assert ran == list(range(1, max_layer + 1))
    assert torch.equal(cut, whole[: max_layer + 1])


def test_never_more_than_a_block_and_its_input_are_alive():
    backbone = find_backbone(small_model("llama"))
    alive: list[int] = []

    def take(layer, states):
        tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
        alive.append(len({each.data_ptr() for each in tensors if each.shape == (1, 9, 16)}))

    gc.collect()  # what earlier tests have left is not this one's
    with capturing(backbone):
        forward_layers(backbone, some_ids([9])[0], [LengthGroup(0, 1, 9)], take)
    assert len(alive) == 4
    assert max(alive) <= 3


def test_opt_350m_keeps_its_width_to_the_last_layer():
    torch.manual_seed(0)
    model = hf.OPTModel(
        hf.OPTConfig(**{**OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False})
    ).eval()
    ids = some_ids([6])[0]
    with torch.inference_mode():
        theirs = model(input_ids=ids[None], output_hidden_states=True).hidden_states
    backbone = find_backbone(model)
    (ours,) = our_layers(backbone, [ids])
    assert backbone.final_norm is None
    assert ours.shape == (4, 6, 16)
    for layer in range(3):
        np.testing.assert_allclose(ours[layer], theirs[layer][0], atol=1e-5)


def test_an_untested_family_is_compared_with_hugging_face():
    torch.manual_seed(0)
    model = hf.GemmaModel(hf.GemmaConfig(**GROUPED)).eval()
    ids = some_ids([6])[0]
    want = hugging_face_layers(model, ids)
    backbone = find_backbone(model)
    assert not backbone.packed
    (ours,) = our_layers(backbone, [ids])
    np.testing.assert_allclose(ours, want, atol=1e-5)


def test_an_untested_family_with_other_layers_is_refused():
    model = hf.GemmaModel(hf.GemmaConfig(**GROUPED))
    # A list as long as the blocks, found first, that no text ever passes through.
    model._modules = {"decoys": nn.ModuleList(nn.Linear(2, 2) for _ in range(3)), **model._modules}
    with pytest.raises(UserError, match=r"'gemma' model are not the hidden states"):
        find_backbone(model)


def test_one_block_that_runs_for_every_layer():
    torch.manual_seed(0)
    model = hf.AlbertModel(hf.AlbertConfig(**{**SMALL, "embedding_size": 8})).eval()
    texts = some_ids()
    want = [hugging_face_layers(model, ids) for ids in texts]
    backbone = find_backbone(model)
    assert backbone.layers == 3
    for theirs, ours in zip(want, our_layers(backbone, texts), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    (cut,) = our_layers(backbone, texts[:1], 2)
    np.testing.assert_allclose(cut, want[0][:3], atol=1e-5)


def test_a_model_whose_blocks_cannot_be_found_is_refused():
    model = hf.AlbertModel(hf.AlbertConfig(**{**SMALL, "embedding_size": 8, "num_hidden_groups": 2}))
    with pytest.raises(UserError, match=r"AlbertModel .*'albert'.* tested family: bert, "):
        find_backbone(model)
