"""Embeddings do not depend on the batch, and equal what a plain loop over Hugging Face's states gives."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from benchmarks import gpu
from storage.errors import UserError
from tasks.embedding.backbone import find_backbone
from tasks.embedding.embed import choose_dtype, embed_texts, plan_batches
from tasks.embedding.pooling import POOLINGS, pool
from tasks.embedding.tokens import tokenise
from tasks.vocabulary import NormState, Pooling

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "log",
    "and",
    "then",
    "it",
    "slept",
    "all",
    "day",
]
TEXTS = [
    "the cat sat on the mat and then it slept all day",
    "a dog",
    "the cat ran",
    "ran",
    "a dog",
    "the dog ran under the log",
    "a cat sat",
    "the cat sat on the mat and then it slept all day",
]
BOTH = list(NormState)
# Without those by attention (test_attention_pooling.py), which not every family has.
PLAIN = [each for each in Pooling if POOLINGS[each].weights is None]
SIZE = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
SIZE |= {"num_attention_heads": 4, "max_position_embeddings": 32, "pad_token_id": 0}


def word_tokenizer(*, side: str = "right", bos: bool = False, eos: bool = False, pad: bool = True):
    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos or eos:
        template = " ".join((["[BOS]"] if bos else []) + ["$A"] + (["[EOS]"] if eos else []))
        words.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words, padding_side=side, unk_token="[UNK]", pad_token="[PAD]" if pad else None
    )


def small_model(name: str = "llama"):
    torch.manual_seed(0)
    model = {
        "llama": lambda: hf.LlamaModel(hf.LlamaConfig(**SIZE, num_key_value_heads=2)),
        "bert": lambda: hf.BertModel(hf.BertConfig(**SIZE)),
        "t5": lambda: hf.T5EncoderModel(
            hf.T5Config(vocab_size=24, d_model=16, d_kv=4, d_ff=24, num_layers=3)
        ),
    }[name]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def embed(model, tokenizer, texts=TEXTS, **options):
    settings = {"poolings": PLAIN, "norm_states": [NormState.AS_RETURNED]}
    settings |= {"max_length": 16, "token_budget": 64}
    return embed_texts(find_backbone(model), tokenizer, texts, **{**settings, **options})


def by_hugging_face(model, tokenizer, texts, norm=None, around=(0, 0)):
    """Padded by the tokenizer on its own side, all states kept, pooled with the mask."""
    body = model.encoder if model.config.model_type == "t5" else model
    batch = tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        layers = body(**batch, output_hidden_states=True).hidden_states
        if norm is not None:
            layers = [norm(states) for states in layers[:-1]] + [layers[-1]]
        mask = batch["attention_mask"]
        return {p: torch.stack([pool(states, mask, p, around) for states in layers]).numpy() for p in PLAIN}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("ends", [{}, {"bos": True}, {"eos": True}])
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_equals_hugging_face_with_padding_on_either_side(name, ends, side):
    model, tokenizer = small_model(name), word_tokenizer(side=side, **ends)
    around = (int("bos" in ends), int("eos" in ends))
    if name == "bert" and side == "left":
        # Hugging Face gives BERT other positions behind left padding: each text alone is what is meant.
        each = [by_hugging_face(model, tokenizer, [text], around=around) for text in TEXTS]
        want = {p: np.concatenate([one[p] for one in each], axis=1) for p in PLAIN}
    else:
        want = by_hugging_face(model, tokenizer, TEXTS, around=around)
    got = embed(copy.deepcopy(model), tokenizer)
    for pooling in PLAIN:
        np.testing.assert_allclose(
            got.states[NormState.AS_RETURNED, pooling], want[pooling], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_final_norm_on_every_layer_once(name):
    model, tokenizer = small_model(name), word_tokenizer()
    norm = model.norm if name == "llama" else model.encoder.final_layer_norm
    raw, normed = (by_hugging_face(model, tokenizer, TEXTS, each) for each in (None, norm))
    got = embed(copy.deepcopy(model), tokenizer, norm_states=BOTH)
    assert set(got.states) == {(state, pooling) for state in BOTH for pooling in PLAIN}
    for pooling in PLAIN:
        np.testing.assert_allclose(got.states[NormState.AS_RETURNED, pooling], raw[pooling], atol=1e-5)
        np.testing.assert_allclose(got.states[NormState.FINAL_NORM, pooling], normed[pooling], atol=1e-5)
        np.testing.assert_array_equal(
            got.states[NormState.FINAL_NORM, pooling][-1], got.states[NormState.AS_RETURNED, pooling][-1]
        )


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_batches_and_neighbours_do_not_matter(name):
    model, tokenizer = small_model(name), word_tokenizer(pad=False)
    many = embed(copy.deepcopy(model), tokenizer)
    alone = embed(copy.deepcopy(model), tokenizer, token_budget=1)
    turned = embed(copy.deepcopy(model), tokenizer, TEXTS[::-1])
    for key, states in many.states.items():
        assert states.shape == (4, len(TEXTS), 16)
        assert states.dtype == np.float32
        np.testing.assert_allclose(states, alone.states[key], rtol=0, atol=1e-5)
        np.testing.assert_allclose(states, turned.states[key][:, ::-1], rtol=0, atol=1e-5)


def test_identical_texts_are_embedded_once():
    model, tokenizer = small_model(), word_tokenizer()
    seen, progress = [], []
    model.embed_tokens.register_forward_hook(lambda module, args, output: seen.append(args[0].numel()))
    got = embed(model, tokenizer, token_budget=20, on_progress=lambda *now: progress.append(now))
    distinct = sum(len(text.split()) for text in set(TEXTS))
    assert sum(seen) == distinct
    assert max(seen) <= 20
    assert progress[-1] == (distinct, distinct)
    # Batches run on several threads at once, so they begin in any order; their embeddings arrive in the planned one.
    assert sorted(np.diff([0, *(done for done, _ in progress)])) == sorted(seen)
    for states in got.states.values():
        np.testing.assert_array_equal(states[:, 0], states[:, 7])
        np.testing.assert_array_equal(states[:, 1], states[:, 4])


def test_the_same_call_gives_the_same_bytes():
    model, tokenizer = small_model(), word_tokenizer()
    first, second = embed(model, tokenizer), embed(model, tokenizer)
    for key, states in first.states.items():
        assert states.tobytes() == second.states[key].tobytes()


@pytest.fixture
def as_many_threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("as_many_threads_as_before")
def test_threads_change_no_byte_and_are_given_back():
    model, tokenizer = small_model().bfloat16(), word_tokenizer()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(embed(model, tokenizer, token_budget=8))
        assert torch.get_num_threads() == threads
    for key, states in found[0].states.items():
        assert states.tobytes() == found[1].states[key].tobytes()


@pytest.mark.usefixtures("as_many_threads_as_before")
def test_threads_are_given_back_after_an_error():
    torch.set_num_threads(3)
    model = small_model()
    model.layers[1].register_forward_hook(lambda module, args, output: output * torch.nan)
    with pytest.raises(UserError, match="Layer 2 has a value that is not finite"):
        embed(model, word_tokenizer(), token_budget=8)
    assert torch.get_num_threads() == 3
    assert not model.layers[0]._forward_hooks


def test_max_layer_leaves_out_later_layers():
    model, tokenizer = small_model(), word_tokenizer()
    whole, cut = embed(model, tokenizer), embed(model, tokenizer, max_layer=2)
    for key, states in cut.states.items():
        np.testing.assert_array_equal(states, whole.states[key][:3])
    with pytest.raises(UserError, match="layers 0 to 3"):
        embed(model, tokenizer, max_layer=4)


@pytest.mark.parametrize("eos", [False, True])
def test_long_texts_are_cut_and_told(eos):
    tokens = tokenise(word_tokenizer(eos=eos), TEXTS, 6)
    assert tokens.counts.dtype == np.int32
    assert tokens.truncated.tolist() == [True, False, False, False, False, eos, False, True]
    assert tokens.counts.max() == 6
    assert tokens.counts.tolist() == [len(each) for each in tokens.ids]
    if eos:
        assert {int(each[-1]) for each in tokens.ids} == {3}
    got = embed(small_model(), word_tokenizer(eos=eos), max_length=6)
    np.testing.assert_array_equal(got.token_count, tokens.counts)
    np.testing.assert_array_equal(got.truncated, tokens.truncated)


def test_a_text_without_tokens_is_named():
    with pytest.raises(UserError, match=r"Row 1 \('  '\) has no token left"):
        tokenise(word_tokenizer(), ["a cat", "  "], 8)
    assert tokenise(word_tokenizer(bos=True), ["a cat", "  "], 8).counts.tolist() == [3, 1]


def test_no_texts_make_no_rows():
    got = embed(small_model(), word_tokenizer(), [])
    assert {states.shape for states in got.states.values()} == {(4, 0, 16)}


def test_a_model_without_final_norm_says_so():
    with pytest.raises(UserError, match=r"'final_norm' was asked for, but a 'bert' model has no final norm"):
        embed(small_model("bert"), word_tokenizer(), norm_states=BOTH)


def test_more_tokens_than_positions_is_refused():
    with pytest.raises(UserError, match=r"Row 1 has 40 tokens, but the model has positions for 32"):
        embed(small_model("bert"), word_tokenizer(), ["cat", "cat " * 40], max_length=64)


def test_a_value_that_is_not_finite_is_placed():
    model, tokenizer = small_model(), word_tokenizer()
    log = tokenizer.convert_tokens_to_ids("log")

    def break_log(module, args, output):
        return torch.where((ids == log)[..., None], torch.inf, output)

    def remember(module, args):
        nonlocal ids
        ids = args[0]

    ids = None
    model.embed_tokens.register_forward_pre_hook(remember)
    model.layers[1].register_forward_hook(break_log)
    with pytest.raises(UserError, match=r"Layer 2 .* row 5 \(pooling 'last', norm state 'as_returned'\)"):
        embed(model, tokenizer, poolings=[Pooling.LAST])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 80), st.booleans())
def test_batches_hold_every_text_once_within_the_budget(counts, budget, mixed):
    batches = plan_batches(np.array(counts, dtype=np.int32), budget, mixed)
    assert sorted(index for batch in batches for index in batch) == list(range(len(counts)))
    in_order = [counts[index] for batch in batches for index in batch]
    assert in_order == sorted(counts, reverse=True)
    # A text longer than the budget is a batch of its own.
    assert all(sum(counts[index] for index in batch) <= budget for batch in batches if len(batch) > 1)
    if not mixed:
        assert all(len({counts[index] for index in batch}) == 1 for batch in batches)


@pytest.mark.parametrize("texts", [101, 250, 999])
def test_batches_are_about_equal_and_threads_can_share_them(texts):
    sizes = [len(batch) for batch in plan_batches(np.full(texts, 10, dtype=np.int32), 1000, True)]
    assert len(sizes) % 4 == 0
    assert max(sizes) <= -(-texts // len(sizes))
    assert sizes[-1] >= max(sizes) / 2


def test_bfloat16_states_are_close_and_pooled_in_float32():
    model, tokenizer = small_model(), word_tokenizer()
    exact = embed(copy.deepcopy(model), tokenizer)
    short = embed(model.to(torch.bfloat16), tokenizer)
    for key, states in short.states.items():
        assert states.dtype == np.float32
        error = np.linalg.norm(states - exact.states[key]) / np.linalg.norm(exact.states[key])
        assert error < 0.02
    mean = short.states[NormState.AS_RETURNED, Pooling.MEAN]
    assert not np.array_equal(mean, torch.from_numpy(mean).bfloat16().float().numpy())


def test_auto_dtype_is_bfloat16_only_where_it_is_native(monkeypatch):
    monkeypatch.setattr("tasks.embedding.embed.packs_bfloat16", lambda: True)
    monkeypatch.setattr("tasks.embedding.embed.bfloat16_speed_up", lambda: 2.0)
    device = torch.device("cpu")
    for bf16, amx in [
        (True, False),
        (False, True),
        (False, False),
    ]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=bf16: answer)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda answer=amx: answer)
        assert choose_dtype(device) is (torch.bfloat16 if bf16 or amx else torch.float32)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert choose_dtype(torch.device("cuda")) is torch.float32


def test_the_gpu_benchmark_runs_on_a_small_shape(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.embedding.calibration._CPU_BUDGETS", (512,))
    monkeypatch.setattr(gpu, "PEAK_ROWS", (64,))
    asked = ["--shape", "tiny", "--texts", "60", "--rows", "300", "--out", str(tmp_path / "gpu.json")]
    figures, scored, all_scores = gpu.main(asked)
    assert [figures, scored, all_scores] == json.loads((tmp_path / "gpu.json").read_text())
    assert scored["rows"] == all_scores["rows"] == 300
    assert all(each > 0 for parts in all_scores["raw"].values() for each in parts)
    assert figures["tokens"] == sum(len(text.split()) for text in gpu.made_up_texts(60, 512))
    assert figures["share_of_peak"] > 0
    assert len(figures["deviation_from_float32"]) == 4
    assert max(figures["deviation_from_float32"]) < 0.02
    if figures["device"] == "cpu":
        assert figures["share_of_peak_holds"] is figures["gpu_idle_share"] is None


def test_the_gpu_benchmarks_peer_makes_the_same_last_layer():
    model, texts = gpu.build("tiny", torch.float32, torch.device("cpu")), gpu.made_up_texts(12, 512)
    attention, rate = gpu.peer_tokens_per_s(model, texts)
    assert attention == "sdpa"
    assert rate > 0
    with torch.inference_mode():
        theirs = gpu._mean_of_last(model, gpu.read_ids(texts)["input_ids"], False)
    ours = gpu.embed(find_backbone(model), texts, 256).states[gpu.KEY][-1]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)


def test_without_a_way_to_tell_a_texts_own_tokens_their_mean_is_refused():
    words = word_tokenizer()

    def in_plain_python(texts, **options):
        return words(texts, **options)

    options = {"norm_states": [NormState.AS_RETURNED], "max_length": 16, "token_budget": 40}
    backbone = find_backbone(small_model("llama"))
    with pytest.raises(UserError, match="text_mean needs a tokenizer of the tokenizers library"):
        embed_texts(backbone, in_plain_python, TEXTS, poolings=[Pooling.TEXT_MEAN], **options)
    plain = embed_texts(backbone, in_plain_python, TEXTS, poolings=[Pooling.MEAN], **options)
    ours = embed_texts(backbone, words, TEXTS, poolings=[Pooling.MEAN], **options)
    key = (NormState.AS_RETURNED, Pooling.MEAN)
    assert np.array_equal(plain.states[key], ours.states[key])
