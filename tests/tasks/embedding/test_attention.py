"""What attention looks like, against the definitions over Hugging Face's own eager attention."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from storage.layout import Layout
from storage.staged import read_part
from tasks.embedding import attention, attention_measures
from tasks.embedding.attention import (
    LEAST_TEXTS,
    attention_texts,
    is_measured,
    look_at,
    marked_tokens,
    measure_attention,
)
from tasks.embedding.attention_measures import MEASURES
from tasks.embedding.backbone import find_backbone
from tasks.embedding.tokens import Tokens
from tests.tasks.embedding.test_backbone import MODELS, small_model, some_ids

PACKED = [name for name in MODELS if not name.startswith("t5")]
LENGTHS = [9, 9, 7, 3, 1]


def tokens_of(ids: list[torch.Tensor]) -> Tokens:
    return Tokens(
        [each.numpy().astype(np.int32) for each in ids],
        np.array([len(each) for each in ids], dtype=np.int32),
        np.zeros(len(ids), dtype=np.bool_),
    )


def some_marks(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.random(length) < 0.4 for length in lengths]


def entropy(weights: list[float]) -> float:
    return -sum(each * math.log(each) for each in weights if each > 0)


def by_hand(heads: np.ndarray, marks: np.ndarray) -> dict[str, float]:
    """heads: [H, L, L], the attention of one text in one block, token by token and head by head."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    length = heads.shape[1]
    for token in range(length):
        seen = [other for other in range(length) if heads[:, token, other].max() > 0]
        if len(seen) < 2:
            continue
        own = [[float(head[token, other]) for other in range(length)] for head in heads]
        mean = [sum(column) / len(own) for column in zip(*own, strict=True)]
        entropies = [entropy(weights) for weights in own]
        far = sum(weight * abs(token - other) for other, weight in enumerate(mean))
        found["entropy"].append(sum(entropies) / len(own) / math.log(len(seen)))
        found["sink_mass"].append(mean[0])
        found["distance"].append(far)
        found["distance_share"].append(far / (length - 1))
        found["function_words"].append(sum(weight for weight, mark in zip(mean, marks, strict=True) if mark))
        spread = entropy(mean) - sum(entropies) / len(own)
        found["head_divergence"].append(spread / math.log(min(len(own), len(seen))))
    return {name: sum(values) / len(values) if values else math.nan for name, values in found.items()}


@pytest.mark.parametrize("name", PACKED)
def test_measures_are_those_of_hugging_faces_own_attention(name: str) -> None:
    model, ids, marks = small_model(name), some_ids(LENGTHS), some_marks(LENGTHS)
    body = copy.deepcopy(model).base_model
    body.set_attn_implementation("eager")
    want = np.empty((3, len(MEASURES), len(ids)))
    for text, (own, mark) in enumerate(zip(ids, marks, strict=True)):
        with torch.inference_mode():
            of_blocks = body(input_ids=own[None], output_attentions=True).attentions
        for block, heads in enumerate(of_blocks):
            want[block, :, text] = list(by_hand(heads[0].numpy(), mark).values())
    # Texts of a batch, and one that has a batch of its own.
    ours = look_at(find_backbone(model), tokens_of(ids), marks, 20)
    np.testing.assert_allclose(ours, want, rtol=0, atol=2e-5)
    assert np.isnan(ours[:, :, 4]).all()
    assert not np.isnan(ours[:, :, :4]).any()


def test_a_part_at_a_time_and_the_first_blocks_alone_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, ids, marks = find_backbone(small_model("gemma2")), some_ids(LENGTHS), some_marks(LENGTHS)
    whole = look_at(backbone, tokens_of(ids), marks, 100)
    # Two tokens of one text of nine, with four heads.
    monkeypatch.setattr(attention_measures, "MOST_HELD", 72)
    np.testing.assert_allclose(look_at(backbone, tokens_of(ids), marks, 100), whole, rtol=1e-5)
    np.testing.assert_allclose(look_at(backbone, tokens_of(ids), marks, 100, 2), whole[:2], rtol=1e-5)


def test_heads_that_agree_do_not_diverge_and_attention_on_one_token_has_no_entropy() -> None:
    sight = attention_measures.Sight(1.0, causal=False, window=None, softcap=None)
    q, k = torch.ones(1, 4, 3, 2), torch.zeros(1, 4, 3, 2)
    marks = torch.tensor([[True, False, True]])

    def told() -> dict[str, float]:
        found = attention_measures.measure_texts(q, k, sight, marks)
        return dict(zip(MEASURES, found[:, 0].tolist(), strict=True))

    alike = {"entropy": 1, "sink_mass": 1 / 3, "function_words": 2 / 3, "head_divergence": 0}
    alike |= {"distance": (0 + 1 + 2 + 1 + 0 + 1 + 2 + 1 + 0) / 9}
    assert {name: told()[name] for name in alike} == pytest.approx(alike, abs=1e-6)
    k[:, :, 0] = 100.0
    assert told()["entropy"] == pytest.approx(0, abs=1e-6)
    assert told()["sink_mass"] == pytest.approx(1)
    # Three tokens, and every head looks at one of its own but the fourth.
    k.zero_()
    for head in range(3):
        k[:, head, head] = 100.0
    k[:, 3, 0] = 100.0
    mean = entropy([1 / 2, 1 / 4, 1 / 4])
    assert told()["head_divergence"] == pytest.approx(mean / math.log(3), abs=1e-6)
    q, k = q[:, :1], k[:, :1]
    assert told()["head_divergence"] == 0


def test_punctuation_and_function_words_are_marked_and_special_tokens_are_not() -> None:
    said = ["[CLS]", " The", " whale", "##the", ",", "…", "€", "\ufffd", "\n", "'s", "n't", "7", "of"]
    tokenizer = SimpleNamespace(all_special_ids=[0], decode=lambda ids: said[ids[0]])
    (marks,) = marked_tokens(tokenizer, tokens_of([torch.arange(len(said))]))
    assert [word for word, mark in zip(said, marks, strict=True) if mark] == [
        " The",
        ",",
        "…",
        "€",
        "'s",
        "n't",
        "of",
    ]


@pytest.mark.parametrize(
    ("asked", "rows", "texts"),
    [
        (None, (20_000, 2_000), 200),
        (None, (240, 120), 6),
        (None, (60, 59), 0),
        (0, (20_000, 2_000), 0),
        (300, (20_000, 2_000), 300),
        (300, (100, 20_000), 100),
        (LEAST_TEXTS - 1, (100, 100), 0),
    ],
)
def test_how_many_texts_are_looked_at(asked: int | None, rows: tuple[int, int], texts: int) -> None:
    for saved, words, expected in ((False, None, texts), (True, None, 0), (False, "words.parquet", 0)):
        dataset: Any = SimpleNamespace(train_rows=rows[0], test_rows=rows[1], words=words)
        model: Any = SimpleNamespace(is_saved_states=saved)
        assert attention_texts(asked, dataset, model) == expected


def test_of_attention_that_is_not_ours_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(str(tmp_path))
    loaded = SimpleNamespace(backbone=find_backbone(small_model("t5")), tokenizer=None)
    monkeypatch.setattr(attention, "load_for", lambda model, settings, device: loaded)
    model: Any = SimpleNamespace(is_saved_states=False)
    settings: Any = SimpleNamespace(device="cpu")
    dataset: Any = SimpleNamespace(words=None)  # no row is read
    why_not = measure_attention(layout, "run", dataset, model, settings, 1024, 8, 0)
    assert why_not == "the attention of this 't5' model is not computed by layerscout"
    assert is_measured(layout, "run")
    staged = read_part(layout, "run", attention.TABLE, attention.TABLE)
    assert staged is not None
    assert staged.is_empty()
    model = SimpleNamespace(is_saved_states=True)
    told = measure_attention(layout, "states", dataset, model, settings, 1024, 0, 0)
    assert told == "saved states were made without us"
    assert is_measured(layout, "states")
