"""Long texts in windows against a loop by hand over Hugging Face's states, and against cut texts."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from tasks.embedding import prompts
from tasks.embedding.backbone import find_backbone
from tasks.embedding.embed import embed_texts
from tasks.embedding.pooling import POOLINGS
from tasks.embedding.stored_blocks import open_backbone
from tasks.embedding.tokens import tokenise, tokens_in_windows, window_starts
from tasks.embedding.windows import windows_of
from tasks.vocabulary import LongTexts, NormState, Pooling
from tests.tasks.embedding.test_embed import WORDS, small_model, word_tokenizer
from tests.tasks.embedding.test_pooling import by_hand

LENGTH = 8
JOINED = [each for each in Pooling if POOLINGS[each].joined is not None]
DRAWN = np.random.default_rng(0)


def text_of(words: int) -> str:
    return " ".join(DRAWN.choice(WORDS, words))


# Of 1 word, just as many tokens as a window has with and without those around it, one more, and many windows.
TEXTS = [text_of(words) for words in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 27, 61, 6)]
TEXTS += [TEXTS[-3], TEXTS[0]]


def taken_by_hand(own: int, room: int, causal: bool) -> list[tuple[int, int, list[int]]]:
    """(start, stop, places taken) of each window of the text's own tokens, by its definition."""
    fewest = next(n for n in range(2, own + 2) if (own - room) / (n - 1) <= room - room // 4)
    starts = [k * (own - room) // (fewest - 1) for k in range(fewest)]
    taken: list[list[int]] = [[] for _ in starts]
    for place in range(own):
        inside = [k for k, start in enumerate(starts) if start <= place < start + room]

        def context(k: int, place: int = place) -> tuple[float, int]:
            left, right = place - starts[k], starts[k] + room - 1 - place
            if causal:
                return left, -k
            return min(np.inf if k == 0 else left, np.inf if k == fewest - 1 else right), k

        taken[max(inside, key=context)].append(place)
    return [(start, start + room, places) for start, places in zip(starts, taken, strict=True)]


def states_by_hand(model, tokenizer, text, around, causal, norm=None):
    """[layers, T, D]: of every token of the text once, from Hugging Face's own states of a window at a time."""
    body = model.encoder if model.config.model_type == "t5" else model

    def run(ids):
        with torch.inference_mode():
            layers = body(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
            if norm is not None:
                layers = [*(norm(states) for states in layers[:-1]), layers[-1]]
        return np.stack([states[0].double().numpy() for states in layers])

    ids, (before, after) = tokenizer(text)["input_ids"], around
    if len(ids) <= LENGTH:
        return run(ids)
    stop = len(ids) - after
    own = ids[before:stop]
    windows = taken_by_hand(len(own), LENGTH - before - after, causal)
    parts = []
    for k, (start, end, places) in enumerate(windows):
        states = run([*ids[:before], *own[start:end], *ids[stop:]])
        parts += [states[:, place] for place in range(before)] if k == 0 else []
        parts += [states[:, before + place - start] for place in places]
        parts += (
            [states[:, LENGTH - after + place] for place in range(after)] if k == len(windows) - 1 else []
        )
    found = np.stack(parts, axis=1)
    assert found.shape[1] == len(ids)
    return found


def embed(model, tokenizer, texts=TEXTS, **options):
    asked = {"poolings": JOINED, "norm_states": [NormState.AS_RETURNED]}
    asked |= {"max_length": LENGTH, "token_budget": 64, "long_texts": LongTexts.SPLIT}
    backbone = find_backbone(copy.deepcopy(model)) if hasattr(model, "config") else model
    return embed_texts(backbone, tokenizer, texts, **{**asked, **options})


@pytest.mark.parametrize("ends", [{}, {"bos": True}, {"bos": True, "eos": True}])
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_equals_a_loop_over_hugging_face(name, ends):
    model, tokenizer = small_model(name), word_tokenizer(**ends)
    around = (int("bos" in ends), int("eos" in ends))
    got = embed(model, tokenizer)
    for row, text in enumerate(TEXTS):
        states = states_by_hand(model, tokenizer, text, around, causal=name == "llama")
        for pooling in JOINED:
            want = np.stack([by_hand(layer, pooling, around) for layer in states])
            found = got.states[NormState.AS_RETURNED, pooling][:, row]
            np.testing.assert_allclose(found, want, rtol=0, atol=2e-5, err_msg=f"{pooling} {row}")


@pytest.mark.parametrize("after", ["", " on"])
def test_with_a_prompt_of_which_each_window_has_all(after):
    model = small_model("llama")
    norm = model.norm
    prompted = prompts.with_prompt(word_tokenizer(), "the cat sat on {text}" + after)
    backbone = find_backbone(copy.deepcopy(model))
    assert backbone.shares_prefix
    got = embed(backbone, prompted, norm_states=list(NormState), token_budget=40)
    around = (4, len(after.split()))
    for row, text in enumerate(TEXTS):
        for norm_state, module in ((NormState.AS_RETURNED, None), (NormState.FINAL_NORM, norm)):
            states = states_by_hand(model, prompted, text, around, causal=True, norm=module)
            for pooling in JOINED:
                want = np.stack([by_hand(layer, pooling, around) for layer in states])
                found = got.states[norm_state, pooling][:, row]
                np.testing.assert_allclose(found, want, rtol=0, atol=2e-5, err_msg=f"{pooling} {row}")


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_a_text_of_one_window_is_to_the_bit_what_it_is_beside_cut_ones(name):
    model, tokenizer = small_model(name), word_tokenizer(bos=True, eos=True)
    split = embed(model, tokenizer, token_budget=30)
    cut = embed(model, tokenizer, token_budget=30, long_texts=LongTexts.CUT)
    short = ~split.truncated
    assert 0 < short.sum() < len(TEXTS)
    for key, states in split.states.items():
        assert np.array_equal(states[:, short], cut.states[key][:, short])
        if key[1] is not Pooling.FIRST:
            assert not np.isclose(states[-1, ~short], cut.states[key][-1, ~short]).all(axis=1).any()
    assert split.token_count[short].tolist() == cut.token_count[short].tolist()
    assert (split.token_count[~short] > cut.token_count[~short]).all()
    assert np.array_equal(cut.truncated, split.truncated)


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_batches_do_not_matter(name):
    model, tokenizer = small_model(name), word_tokenizer(bos=True)
    many, alone = embed(model, tokenizer, token_budget=1_000), embed(model, tokenizer, token_budget=1)
    turned = embed(model, tokenizer, TEXTS[::-1])
    for key, states in many.states.items():
        np.testing.assert_allclose(states, alone.states[key], rtol=0, atol=1e-5)
        np.testing.assert_allclose(states, turned.states[key][:, ::-1], rtol=0, atol=1e-5)


def test_blocks_that_are_read_one_after_the_other(tmp_path):
    small_model("llama").save_pretrained(tmp_path)
    tokenizer = prompts.with_prompt(word_tokenizer(bos=True), "the cat sat on {text} and")
    whole = embed(find_backbone(small_model("llama")), tokenizer, max_length=12)
    streamed = embed(open_backbone(str(tmp_path), "float32", "cpu"), tokenizer, max_length=12)
    for key, states in whole.states.items():
        np.testing.assert_array_equal(states, streamed.states[key])


@settings(max_examples=200, deadline=None)
@given(
    own=st.integers(1, 400),
    room=st.integers(1, 60),
    before=st.integers(0, 4),
    after=st.integers(0, 3),
    causal=st.booleans(),
)
def test_windows_take_every_token_once_and_are_no_more_than_needed(own, room, before, after, causal):
    length, most = own + before + after, room + before + after
    if own <= room:
        assert tokens_in_windows(length, most, before + after) == length
        return
    windows = windows_of(length, (before, after), most, causal=causal)
    want = taken_by_hand(own, room, causal)
    assert [each.shift for each in windows] == [start for start, _, _ in want]
    places = [[before + place for place in taken] for _, _, taken in want]
    places[0] = [*range(before), *places[0]]
    places[-1] += range(before + own, length)
    assert [list(range(each.start, each.stop)) for each in windows] == places
    assert tokens_in_windows(length, most, before + after) == most * len(windows)
    starts = window_starts(own, room)
    assert all(0 < b - a <= room - room // 4 for a, b in pairwise(starts))


def test_a_text_of_a_million_characters_is_computed_in_batches_of_the_budget(monkeypatch):
    from tasks.embedding import embed as module

    seen = []
    plain = module.PooledBatch

    def noted(backbone, ids, *more):
        seen.append(sum(map(len, ids)))
        return plain(backbone, ids, *more)

    monkeypatch.setattr(module, "PooledBatch", noted)
    text = " ".join(np.random.default_rng(1).choice(WORDS, 260_000))
    assert len(text) > 1_000_000
    backbone = find_backbone(small_model("llama"))
    found = embed(backbone, word_tokenizer(), [text, "a dog"], max_length=32, token_budget=4_096)
    assert max(seen) <= 4_096
    assert sum(seen) == int(found.token_count.sum()) < 1.4 * 260_000
    mean = found.states[NormState.AS_RETURNED, Pooling.MEAN][0, 0]
    table = backbone.model.get_input_embeddings().weight.numpy().astype(np.float64)
    want = table[word_tokenizer()(text)["input_ids"]].mean(axis=0)
    np.testing.assert_allclose(mean, want, rtol=0, atol=1e-5)


def test_half_precision_windows_are_summed_in_float32():
    model = small_model("llama")
    exact = embed(model, word_tokenizer(), poolings=[Pooling.MEAN])
    half = embed(model.bfloat16(), word_tokenizer(), poolings=[Pooling.MEAN])
    key = (NormState.AS_RETURNED, Pooling.MEAN)
    np.testing.assert_allclose(half.states[key][0], exact.states[key][0], rtol=0, atol=5e-3)


def test_without_a_truncating_end_of_its_own():
    """A tokenizer that cuts from the left keeps the end of a text; split, nothing of it is left out."""
    model, tokenizer = small_model("llama"), word_tokenizer(bos=True)
    turned = word_tokenizer(bos=True)
    turned.truncation_side = "left"
    one, other = embed(model, tokenizer), embed(model, turned)
    for key, states in one.states.items():
        np.testing.assert_array_equal(states, other.states[key])


def test_what_cannot_be_split_is_refused():
    model = small_model("llama")
    with pytest.raises(UserError, match="none is left for the text in a window: 2 stand around it"):
        embed(model, word_tokenizer(bos=True, eos=True), max_length=2)

    class InPlainPython:
        unk_token_id = None

        def __call__(self, texts, **_):
            return word_tokenizer()(texts)

    with pytest.raises(UserError, match=r"InPlainPython is in plain Python. Take --long-texts cut"):
        tokenise(InPlainPython(), TEXTS, LENGTH, LongTexts.SPLIT)
    with pytest.raises(UserError, match="in plain Python"):  # a shard without a long text, too
        tokenise(InPlainPython(), TEXTS[:3], LENGTH, LongTexts.SPLIT)

    for pooling in set(Pooling) - set(JOINED):  # attention is that of a window's own tokens
        with pytest.raises(
            UserError, match=f"Pooling {pooling.value} cannot be put together from the windows"
        ):
            embed(model, word_tokenizer(), poolings=[pooling])


def test_a_value_that_is_not_finite_is_told_with_the_text_s_row():
    model = small_model("llama")
    with torch.no_grad():
        model.embed_tokens.weight[4] = float("inf")
    bad = " ".join([WORDS[1]] * 20 + [WORDS[0]])
    with pytest.raises(UserError, match="not finite at row 2"):
        embed(model, word_tokenizer(), ["a dog", "dog", bad])


def test_a_token_without_an_embedding_is_refused_wherever_it_stands():
    model, tokenizer = small_model("llama"), word_tokenizer()
    tokenizer.add_tokens(["cow", "pig", "hen", "owl", "fox"])
    last = tokenizer.convert_tokens_to_ids("fox")
    assert last >= model.config.vocab_size
    with pytest.raises(
        UserError, match=f"Row 1 has token {last}, but the model has embeddings for 24 tokens"
    ):
        embed(model, tokenizer, ["a dog", " ".join([*["a cat"] * 9, "fox"])])
