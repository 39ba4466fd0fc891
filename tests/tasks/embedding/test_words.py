"""Words of texts against Hugging Face's own hidden states, word by word."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from storage.errors import UserError
from tasks.embedding.backbone import find_backbone
from tasks.embedding.embed import embed_tokens
from tasks.embedding.words import tokenise_words
from tasks.vocabulary import NormState, Pooling
from tests.families.small_models import small_config
from tests.tasks.embedding.test_backbone import small_model

AS_RETURNED = NormState.AS_RETURNED
POOLINGS = (Pooling.FIRST, Pooling.MEAN, Pooling.LAST, Pooling.MAX)
TEXTS = [
    ["abc", "de", "f"],
    ["a"],
    ["abcd", "bc", "dea", "f", "ab"],
    ["de", "abc", "f"],
    ["abc", "de", "f"],  # the same again
    ["abcabc", "def", "abc"],
]


def letters(*, spaced: bool = False) -> Any:
    """A tokenizer of letters, with marks around each text; `spaced`: a space belongs to the word behind it."""
    tokens = ["<pad>", "<unk>", "[CLS]", "[SEP]", *"abcdef", *(f"Ġ{each}" for each in "abcdefTChst"), "Ġ,"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    if spaced:
        # Merges make one token of a space and the letter behind it, as in GPT-2's.
        for each in ["Ġ", *"TChetsmonr,"]:
            vocabulary.setdefault(each, len(vocabulary))
        merges = [("Ġ", each.removeprefix("Ġ")) for each in tokens if each.startswith("Ġ")]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def by_hand(
    model: Any, tokenizer: Any, words: list[str], max_length: int
) -> dict[Pooling, list[torch.Tensor]]:
    """Of each word that is read whole, [layers + 1, D] by each pooling, from one text alone."""
    whole = tokenizer(words, is_split_into_words=True)
    cut = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    with torch.inference_mode():
        states = torch.stack(
            model(input_ids=torch.tensor([cut["input_ids"]]), output_hidden_states=True).hidden_states
        )[:, 0]
    found: dict[Pooling, list[torch.Tensor]] = {each: [] for each in POOLINGS}
    for word in range(len(words)):
        own = [place for place, of in enumerate(cut.word_ids()) if of == word]
        if len(own) < whole.word_ids().count(word):
            continue
        found[Pooling.FIRST].append(states[:, own[0]])
        found[Pooling.LAST].append(states[:, own[-1]])
        found[Pooling.MEAN].append(sum(states[:, each] for each in own) / len(own))
        found[Pooling.MAX].append(torch.stack([states[:, each] for each in own]).amax(0))
    return found


def unpacked_model() -> Any:
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(small_config("electra")).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("family", ["llama", "bert", "unpacked"])
@pytest.mark.parametrize("max_length", [64, 8])
def test_word_is_pooled_from_its_own_tokens(family: str, max_length: int) -> None:
    model, tokenizer = unpacked_model() if family == "unpacked" else small_model(family), letters()
    # Before our attention is in the model's place.
    wanted = [by_hand(model, tokenizer, words, max_length) for words in TEXTS]
    backbone = find_backbone(model)
    assert backbone.packed == (family != "unpacked")
    tokens, spans = tokenise_words(tokenizer, TEXTS, max_length)
    cut = sum(int((each < 0).any(axis=1).sum()) for each in spans)
    assert cut == (0 if max_length == 64 else 5)
    read = [each[(each >= 0).all(axis=1)] for each in spans]
    got = embed_tokens(
        backbone,
        replace(tokens, words=read),
        poolings=POOLINGS,
        norm_states=[AS_RETURNED],
        token_budget=20,
    )
    for pooling in POOLINGS:
        expected = torch.stack([word for text in wanted for word in text[pooling]], dim=1)
        np.testing.assert_allclose(got.states[AS_RETURNED, pooling], expected, rtol=1e-4, atol=2e-5)


def test_words_have_the_tokens_of_the_whole_text() -> None:
    """Of a tokenizer to which a space belongs to the word behind it, words for themselves would be others."""
    tokenizer = letters(spaced=True)
    for words in TEXTS:
        tokens, spans = tokenise_words(tokenizer, [words], 64)
        assert tokens.ids[0].tolist() == tokenizer(" ".join(words))["input_ids"]
        assert spans[0][:, 0].tolist() == [1, *spans[0][:-1, 1]]
        assert np.diff(spans[0], axis=1)[:, 0].tolist() == [len(each) for each in words]
    plain, _ = tokenise_words(letters(), TEXTS[:1], 64)
    assert plain.ids[0].tolist() == letters()(" ".join(TEXTS[0]))["input_ids"]


def test_tokenizer_in_plain_python_is_refused() -> None:
    slow = hf.CanineTokenizer()
    with pytest.raises(UserError, match=r"CanineTokenizer.*plain Python.*tokenizers library"):
        tokenise_words(slow, TEXTS, 64)
