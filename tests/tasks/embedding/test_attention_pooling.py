"""Poolings by attention, against loops over Hugging Face's own eager attention and hidden states, text by text."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from storage.errors import UserError
from tasks.embedding import attention_weights, embed, packed_attention
from tasks.embedding.attention_weights import of_summary_token, received
from tasks.embedding.backbone import find_backbone
from tasks.embedding.embed import embed_texts
from tasks.embedding.forward import Backbone
from tasks.embedding.model import load_model
from tasks.embedding.packed_attention import Sight
from tasks.embedding.pooling import POOLINGS
from tasks.embedding.prompts import with_prompt
from tasks.embedding.stored_blocks import open_backbone
from tasks.embedding.tokens import around_texts, tokenise
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_attention import PACKED
from tests.tasks.embedding.test_backbone import small_model
from tests.tasks.embedding.test_embed import TEXTS, word_tokenizer
from tests.tasks.embedding.test_pooling import by_hand
from tests.tasks.embedding.test_shared_prefix import DECODERS, TEMPLATE

BY_ATTENTION = [Pooling.ATTENTION_SUMMARY, Pooling.ATTENTION_RECEIVED]
# With a text that has no token of its own behind a prompt or a special token.
SOME = [*TEXTS, " "]
TOKENIZERS = {
    "own tokens alone": (lambda: word_tokenizer(), TEXTS),
    "special ones around": (lambda: word_tokenizer(bos=True, eos=True), SOME),
    "a prompt": (lambda: with_prompt(word_tokenizer(bos=True), TEMPLATE), SOME),
}


def weights_by_hand(heads: np.ndarray, pooling: Pooling, *, causal: bool) -> list[float]:
    """heads: [H, L, L], the attention of one text in one block."""
    length = heads.shape[1]
    if pooling is Pooling.ATTENTION_SUMMARY:
        at = length - 1 if causal else 0
        return [sum(float(head[at, token]) for head in heads) / len(heads) for token in range(length)]
    found = []
    for token in range(length):
        seeing = [other for other in range(length) if heads[:, other, token].max() > 0]
        given = [float(head[other, token]) for head in heads for other in seeing]
        found.append(sum(given) / len(given))
    return found


def by_hugging_face(
    model: nn.Module, ids: np.ndarray, around: tuple[int, int], norm_state: NormState, *, causal: bool
) -> dict[Pooling, np.ndarray]:
    """One text alone: each pooling's [layers + 1, D]."""
    body = model.base_model
    body.set_attn_implementation("eager")
    with torch.inference_mode():
        output = body(
            input_ids=torch.from_numpy(ids.astype(np.int64))[None],
            output_attentions=True,
            output_hidden_states=True,
        )
        layers = list(output.hidden_states)
        if norm_state is NormState.FINAL_NORM:
            norm = next(
                each
                for name in ("norm", "final_layer_norm", "ln_f", "final_norm")
                if (each := getattr(getattr(body, "decoder", body), name, None)) is not None
            )
            layers = [norm(each) for each in layers[:-1]] + layers[-1:]
    heads = [each[0].double().numpy() for each in output.attentions]
    return {
        pooling: np.stack(
            [
                by_hand(
                    states[0].double().numpy(),
                    pooling,
                    around,
                    weights_by_hand(heads[min(layer, len(heads) - 1)], pooling, causal=causal),
                )
                for layer, states in enumerate(layers)
            ]
        )
        for pooling in BY_ATTENTION
    }


def embedded(backbone: Backbone, tokenizer: object, texts: list[str], **options: object) -> dict:
    settings = {"poolings": BY_ATTENTION, "norm_states": norm_states(backbone), "token_budget": 40}
    return embed_texts(backbone, tokenizer, texts, **{"max_length": 30, **settings, **options}).states


def norm_states(backbone: Backbone) -> list[NormState]:
    return list(NormState) if backbone.final_norm is not None else [NormState.AS_RETURNED]


def assert_near(found: np.ndarray, expected: np.ndarray, what: object) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), what


@pytest.mark.parametrize("tokens", TOKENIZERS)
@pytest.mark.parametrize("name", PACKED)
def test_equals_a_loop_over_hugging_faces_attention(
    name: str, tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, texts = TOKENIZERS[tokens]
    tokenizer = make()
    model = small_model(name)
    around = around_texts(tokenizer)
    ids = tokenise(tokenizer, texts, 30).ids
    backbone = find_backbone(copy.deepcopy(model))
    shared = []
    computed = embed.compute_prefix
    monkeypatch.setattr(embed, "compute_prefix", lambda *given: shared.append(1) or computed(*given))
    found = embedded(backbone, tokenizer, texts)
    # A decoder computes a prompt once for all texts, and attention is seen through it.
    assert bool(shared) == (name in DECODERS and tokens == "a prompt")
    for norm_state in norm_states(backbone):
        each = [by_hugging_face(model, row, around, norm_state, causal=name in DECODERS) for row in ids]
        for pooling in BY_ATTENTION:
            expected = np.stack([one[pooling] for one in each], axis=1)
            for layer in range(4):
                assert_near(found[norm_state, pooling][layer], expected[layer], (norm_state, pooling, layer))


@pytest.mark.parametrize("tokens", TOKENIZERS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "modernbert"])
def test_a_layer_is_the_same_whatever_comes_after_it_and_beside_it(
    name: str, tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, texts = TOKENIZERS[tokens]
    tokenizer, backbone = make(), find_backbone(small_model(name))
    whole = embedded(backbone, tokenizer, texts)
    plain = embedded(backbone, tokenizer, texts, poolings=[Pooling.MEAN])
    mixed = embedded(backbone, tokenizer, texts, poolings=[Pooling.MEAN, *BY_ATTENTION])
    for key, values in (plain | whole).items():
        assert (mixed[key] == values).all(), key
    ran: list[int] = []
    for number, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    for last in range(4):
        ran.clear()
        cut = embedded(backbone, tokenizer, texts, max_layer=last)
        for key, values in whole.items():
            assert (cut[key] == values[: last + 1]).all(), (key, last)
        # Of the next block, a text's attention alone; what all texts begin with goes through the whole of it.
        shared = [last] if backbone.shares_prefix and tokens == "a prompt" and last < 3 else []
        assert sorted(set(ran)) == [*range(last), *shared]
    # A part at a time, as of long texts; and by torch's own kernel.
    monkeypatch.setattr(attention_weights, "MOST_HELD", 72)
    monkeypatch.setattr(packed_attention, "_SHORT", 4)
    for key, values in embedded(backbone, tokenizer, texts, token_budget=9).items():
        assert_near(values, whole[key], key)


@pytest.mark.parametrize("max_layer", [None, 0, 2])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_streamed_blocks_give_the_same_to_the_bit(name: str, max_layer: int | None, tmp_path) -> None:
    small_model(name).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    tokenizer = with_prompt(word_tokenizer(bos=True), TEMPLATE)
    whole = embedded(
        load_model(str(tmp_path), "float32", "cpu").backbone, tokenizer, SOME, max_layer=max_layer
    )
    streamed = embedded(open_backbone(str(tmp_path), "float32", "cpu"), tokenizer, SOME, max_layer=max_layer)
    for key, values in whole.items():
        assert (streamed[key] == values).all(), key


def test_attention_that_is_alike_everywhere_gives_the_mean_of_all_but_the_first() -> None:
    """What the numbers mean, of an encoder; in a decoder an early token is read by those that see little else."""
    q, k = torch.zeros(1, 4, 5, 2), torch.ones(1, 2, 5, 2)
    both_ways = Sight(1.0, causal=False, window=None, softcap=None)
    for weigh in (of_summary_token, received):
        torch.testing.assert_close(weigh(q, k, both_ways), torch.full((1, 5), 0.2))
    causal = Sight(1.0, causal=True, window=None, softcap=None)
    torch.testing.assert_close(of_summary_token(q, k, causal), torch.full((1, 5), 0.2))
    of_each = [[1 / (token + 1) for token in range(first, 5)] for first in range(5)]
    expected = torch.tensor([[sum(each) / len(each) for each in of_each]])
    torch.testing.assert_close(received(q, k, causal), expected)


def test_of_a_family_whose_attention_is_not_ours_they_are_refused() -> None:
    backbone = find_backbone(small_model("t5"))
    for pooling in BY_ATTENTION:
        with pytest.raises(UserError, match=f"Pooling {pooling.value} weighs .* 't5' model .* Take mean"):
            embedded(backbone, word_tokenizer(), TEXTS, poolings=[Pooling.MEAN, pooling])


def test_they_are_those_that_the_record_says() -> None:
    assert [each for each in Pooling if POOLINGS[each].weights is not None] == BY_ATTENTION
