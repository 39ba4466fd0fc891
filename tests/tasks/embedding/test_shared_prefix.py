"""What all texts begin with is computed once, and every embedding is what it is without that."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.embedding import embed, packed_attention, shared_prefix
from tasks.embedding.backbone import find_backbone
from tasks.embedding.embed import embed_texts
from tasks.embedding.forward import Backbone
from tasks.embedding.model import load_model
from tasks.embedding.prompts import with_prompt
from tasks.embedding.stored_blocks import open_backbone
from tasks.embedding.tokens import Tokens, tokenise
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, small_model
from tests.tasks.embedding.test_embed import PLAIN, TEXTS, word_tokenizer

TEMPLATE = "the cat sat on a log and {text} then it"
ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta", "modernbert", "t5")
DECODERS = [name for name in MODELS if not name.startswith(ENCODERS)]


def embedded(backbone: Backbone, **options: object) -> dict[object, np.ndarray]:
    norm_states = list(NormState) if backbone.final_norm is not None else [NormState.AS_RETURNED]
    poolings = list(Pooling) if backbone.packed else PLAIN
    settings = {"poolings": poolings, "norm_states": norm_states, "max_length": 30, "token_budget": 40}
    prompted = with_prompt(word_tokenizer(bos=True), TEMPLATE)
    return embed_texts(backbone, prompted, TEXTS, **settings | options).states


def plainly(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, **options: object
) -> dict[object, np.ndarray]:
    with monkeypatch.context() as patch:
        patch.setattr(embed, "prefix_of", lambda tokens: None)
        return embedded(backbone, **options)


def assert_near(found: dict[object, np.ndarray], expected: dict[object, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert np.abs(found[key] - values).max() <= 1e-5 * np.abs(values).max(), key


@pytest.mark.parametrize("longest_by_products", [256, 4])
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_gives_the_embeddings_of_whole_texts(
    name: str, longest_by_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two products, and by torch's kernel; both ways of pooling, and whatever the batch."""
    monkeypatch.setattr(packed_attention, "_SHORT", longest_by_products)
    backbone = find_backbone(small_model(name))
    assert backbone.shares_prefix
    expected = plainly(backbone, monkeypatch)
    computed = []
    counted = embed.compute_prefix
    monkeypatch.setattr(embed, "compute_prefix", lambda *given: computed.append(1) or counted(*given))
    assert_near(embedded(backbone), expected)
    assert_near(embedded(backbone, token_budget=9), expected)
    assert_near(embedded(backbone, max_layer=1), {key: values[:2] for key, values in expected.items()})
    assert len(computed) == 3


@pytest.mark.parametrize("name", [name for name in MODELS if name not in DECODERS])
def test_an_encoder_reads_every_text_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = find_backbone(small_model(name))
    assert not backbone.shares_prefix
    monkeypatch.setattr(embed, "compute_prefix", None)
    embedded(backbone)


def test_a_token_of_an_encoder_is_never_taken_for_the_same_in_every_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backbone, "shares_prefix", True)
    with pytest.raises(ValueError, match="see what follows them"):
        embedded(find_backbone(small_model("bert")))


def test_a_decoder_that_was_made_to_look_both_ways_is_none() -> None:
    model = small_model("gemma3_text")
    model.config.use_bidirectional_attention = True
    assert not find_backbone(model).shares_prefix


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_streamed_blocks_share_it_too_and_give_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    small_model(name).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    whole = embedded(load_model(str(tmp_path), "float32", "cpu").backbone)
    streamed = embedded(open_backbone(str(tmp_path), "float32", "cpu"))
    for key, values in whole.items():
        assert (streamed[key] == values).all(), key


def test_what_is_too_short_or_not_the_same_in_all_texts_is_not_shared() -> None:
    def tokens(*rows: list[int], before: int) -> Tokens:
        ids = [np.array(row, dtype=np.int32) for row in rows]
        counts = np.array([len(row) for row in rows], dtype=np.int32)
        return Tokens(ids, counts, counts < 0, (before, 0))

    first, second = [1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 7]
    found = shared_prefix.prefix_of(tokens(first, second, before=4))
    assert found is not None
    assert found.ids.tolist() == [1, 2, 3, 4]
    assert shared_prefix.prefix_of(tokens(first, second, before=3)) is None
    assert shared_prefix.prefix_of(tokens(first, second, before=5)) is None
    assert shared_prefix.prefix_of(tokens(first, [1, 2, 9, 4, 6], before=4)) is None
    assert shared_prefix.prefix_of(tokens(before=4)) is None
    # Special tokens alone are too few.
    assert shared_prefix.prefix_of(tokenise(word_tokenizer(bos=True, eos=True), TEXTS, 30)) is None


def test_tokens_on_a_device_that_keeps_no_number_never_come_back() -> None:
    """Of a model on torch's meta device, where a number that is copied to the host raises."""
    backbone = find_backbone(small_model("llama").to("meta"))
    prefix = shared_prefix.SharedPrefix(np.arange(4, dtype=np.int32))
    with embed.capturing(backbone):
        embed.compute_prefix(backbone, prefix, backbone.layers)
        ids = [np.arange(6, dtype=np.int32), np.arange(3, dtype=np.int32)]
        batch = embed.PooledBatch(backbone, ids, [(NormState.FINAL_NORM, Pooling.MEAN)], 4, (4, 0), prefix)
        embed.forward_layers(backbone, batch.tokens, batch.groups, batch.take, prefix=prefix)
    assert all(each.device == torch.device("meta") for each in prefix.states.values())
