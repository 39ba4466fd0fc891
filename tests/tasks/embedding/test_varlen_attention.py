"""One call for texts of all lengths: what it is asked for, and that it is not trusted unseen.

The kernel itself is for GPUs. In its place stands what torch's page of it says, computed score by score.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen

from tasks.embedding import packed_attention
from tasks.embedding.backbone import find_backbone
from tasks.embedding.embed import embed_texts
from tasks.embedding.families import FAMILIES
from tasks.embedding.packed_attention import (
    Sight,
    _attend_by_length,
    _is_right,
    _serves_all_lengths,
    length_groups,
)
from tasks.embedding.prompts import with_prompt
from tasks.embedding.varlen_attention import Ends, attend_in_one_call
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, small_model
from tests.tasks.embedding.test_embed import TEXTS, word_tokenizer

CPU = torch.device("cpu")


def as_documented(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
) -> torch.Tensor:
    """Of queries [T, H, d] and keys [M, K, d]: query i of a text sees key j where the window around i's place among its
    keys, which the queries end with, holds j; −1 is no end."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = window_size
    out = torch.empty_like(query)
    heads_a_key = query.shape[1] // key.shape[1]
    for text in range(len(cu_seq_q) - 1):
        queries, keys = (range(*map(int, ends[text : text + 2])) for ends in (cu_seq_q, cu_seq_k))
        assert len(queries) <= max_q
        assert len(keys) <= max_k
        for number, place in enumerate(queries):
            middle = number + len(keys) - len(queries)
            seen = [
                other
                for j, other in enumerate(keys)
                if (left < 0 or j >= middle - left) and (right < 0 or j <= middle + right)
            ]
            for head in range(query.shape[1]):
                own = head // heads_a_key
                weights = (key[seen, own] @ query[place, head] * scale).softmax(0)
                out[place, head] = weights @ value[seen, own]
    return out


@pytest.fixture
def kernel(monkeypatch):
    """As documented, and wherever it is asked for; a call each in the list."""
    calls = []

    def counted(*tensors, **options):
        calls.append(options)
        return as_documented(*tensors, **options)

    monkeypatch.setattr(varlen, "varlen_attn", counted)
    monkeypatch.setattr(packed_attention, "_serves_all_lengths", lambda q, k, sight: sight.softcap is None)
    return calls


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 2),
    prefix=st.integers(0, 3),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_is_asked_for_what_a_call_for_each_length_gives(
    lengths, kv_heads, group, prefix, causal, window, seed
):
    lengths, draw = sorted(lengths, reverse=True), torch.Generator().manual_seed(seed)
    prefix = prefix if causal else 0

    def numbers(*shape):
        return torch.randn(shape, generator=draw)

    query, key, value = (
        numbers(1, heads, sum(lengths), 4) for heads in (kv_heads * group, kv_heads, kv_heads)
    )
    before = (numbers(kv_heads, prefix, 4), numbers(kv_heads, prefix, 4)) if prefix else None
    sight = Sight(0.3, causal, window, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "varlen_attn", as_documented)
        found = attend_in_one_call(
            query, key, value, before, Ends.of(lengths, prefix, CPU), sight.scale, causal, window
        )
    wanted = _attend_by_length(query, key, value, before, length_groups(lengths), sight)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt", [None, "the cat sat on {text}"])
@pytest.mark.parametrize(
    "name", [name for name in MODELS if FAMILIES[small_model(name).config.model_type].packed]
)
def test_layers_of_a_family_are_the_same_either_way(name, prompt, request):
    tokenizer = word_tokenizer() if prompt is None else with_prompt(word_tokenizer(), prompt)
    asked = {
        "poolings": [Pooling.MEAN, Pooling.LAST],
        "norm_states": [NormState.AS_RETURNED],
        "token_budget": 64,
    }
    backbone = find_backbone(small_model(name))
    by_length = embed_texts(backbone, tokenizer, TEXTS[:4], max_length=8, **asked)
    calls = request.getfixturevalue("kernel")
    at_once = embed_texts(backbone, tokenizer, TEXTS[:4], max_length=8, **asked)
    # One for each block, and one more where what all texts begin with is computed before them; none where logits are
    # capped.
    shared = prompt is not None and backbone.shares_prefix
    capped = getattr(backbone.model.config, "attn_logit_softcapping", None) is not None
    assert len(calls) == (0 if capped else backbone.layers * (1 + shared))
    for key, values in by_length.states.items():
        torch.testing.assert_close(
            torch.from_numpy(at_once.states[key]), torch.from_numpy(values), atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize(("causal", "windowed"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_kernel_that_does_as_documented_is_taken(kernel, causal, windowed):
    assert _is_right.__wrapped__(CPU, torch.float32, 2, 1, 8, causal, windowed)


def from_the_top(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size, **options):
    """Causal as if the first query stood at the first key: right without a prefix."""
    texts = zip(cu_seq_q[:-1], cu_seq_q[1:], cu_seq_k[:-1], strict=True)
    kept = torch.cat([torch.arange(start, start + stop - at) for at, stop, start in texts])
    ends = cu_seq_q, cu_seq_q, max_q, max_q
    return as_documented(query, key[kept], value[kept], *ends, window_size=window_size, **options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_size": (-1, -1)},
        {"window_size": (-1, 0)},
        {"scale": 1.0},
        {"cu_seq_k": torch.tensor([0, 319, 319, 319, 319])},
    ],
)
def test_a_kernel_that_does_something_else_is_not(monkeypatch, caplog, wrong):
    def other(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options):
        given = {"cu_seq_k": cu_seq_k} | options | wrong
        return as_documented(query, key, value, cu_seq_q, max_q=max_q, max_k=999, **given)

    monkeypatch.setattr(varlen, "varlen_attn", other)
    assert not _is_right.__wrapped__(CPU, torch.float32, 2, 1, 8, True, True)
    assert "differs here" in caplog.text


def test_a_kernel_that_is_wrong_with_a_prefix_alone_is_not(monkeypatch, caplog):
    monkeypatch.setattr(varlen, "varlen_attn", from_the_top)
    assert not _is_right.__wrapped__(CPU, torch.float32, 2, 1, 8, True, False)
    assert "differs here" in caplog.text
    # Where texts see all of themselves there is no prefix, and it is as good as any.
    assert _is_right.__wrapped__(CPU, torch.float32, 2, 1, 8, False, False)


def test_memory_that_runs_out_says_nothing_of_the_kernel(monkeypatch):
    def runs_out(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(varlen, "varlen_attn", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        _is_right.__wrapped__(CPU, torch.float32, 2, 1, 8, True, False)


def test_a_long_prompt_before_short_texts_is_not_repeated_for_each(kernel):
    tokenizer = with_prompt(word_tokenizer(), f"{'the cat sat on ' * 4}{{text}}")
    backbone = find_backbone(small_model("llama"))
    asked = {"poolings": [Pooling.MEAN], "norm_states": [NormState.AS_RETURNED], "token_budget": 64}
    embed_texts(backbone, tokenizer, ["dog", "cat"], max_length=20, **asked)
    assert len(kernel) == backbone.layers  # the prompt's own pass alone


def test_without_a_kernel_texts_of_one_length_are_attended_to_at_a_time(caplog):
    # A CPU has none.
    assert not _is_right.__wrapped__(CPU, torch.bfloat16, 4, 2, 8, True, False)
    assert "Attention is computed length by length" in caplog.text
    query = torch.zeros(1, 4, 3, 8, dtype=torch.bfloat16)
    assert not _serves_all_lengths(query, query, Sight(1.0, True, None, None))
