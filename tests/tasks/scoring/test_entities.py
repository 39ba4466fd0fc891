"""Entity F1 by its definition, and against seqeval."""

import random

import polars as pl
import pytest
from seqeval.metrics import f1_score

from tasks.scoring.entities import are_entity_tags, entity_f1, entity_f1_of, spans_of

TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC", "a-b"))]


def random_texts(seed: int) -> list[list[str]]:
    """Of few tags, so that some entities are the same in two draws."""
    draw = random.Random(seed)
    lengths = random.Random(seed % 100)
    tags = TAGS if seed % 2 else ["O", "B-PER", "I-PER"]
    return [[draw.choice(tags) for _ in range(lengths.randint(1, 8))] for _ in range(60)]


def slow_spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Every run of words is asked whether it is an entity."""

    def goes_on(place: int) -> bool:
        a, b = tags[place - 1], tags[place]
        return a != "O" and b != "O" and a[0] in "BI" and b[0] in "IE" and a[2:] == b[2:]

    found = set()
    for first in range(len(tags)):
        for last in range(first, len(tags)):
            inside = all(goes_on(place) for place in range(first + 1, last + 1))
            begins = tags[first] != "O" and not (first > 0 and goes_on(first))
            ends = last + 1 == len(tags) or not goes_on(last + 1)
            if inside and begins and ends:
                found.add((tags[first][2:], first, last))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_entities_are_the_runs_that_go_on(seed: int) -> None:
    for text in random_texts(seed):
        assert spans_of(text) == slow_spans(text)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.filterwarnings("ignore")
def test_f1_is_that_of_seqeval(seed: int) -> None:
    true, told = random_texts(seed), random_texts(seed + 100)
    assert entity_f1(true, told) == pytest.approx(f1_score(true, told), abs=1e-12)
    assert entity_f1(true, true) == f1_score(true, true)


def test_f1_without_any_entity_is_zero() -> None:
    assert entity_f1([["O", "O"]], [["O", "O"]]) == 0.0


def test_tags_of_entities_are_told_from_others() -> None:
    assert are_entity_tags(["O", "B-PER", "I-PER"])
    assert are_entity_tags(["B", "I", "O"])
    assert not are_entity_tags(["NOUN", "VERB"])
    assert not are_entity_tags(["O"])
    assert not are_entity_tags(["O", "B-PER", "X"])


def test_entities_end_with_their_text() -> None:
    classes = ("O", "B-X", "I-X")
    words = pl.DataFrame({"text_id": [4, 4, 7, 7], "at": [0, 1, 0, 1]})
    label = pl.Series([0, 1, 2, 0]).to_numpy()
    assert entity_f1_of(classes, words, label, label) == 1.0
    # One of two entities, with no other told.
    assert entity_f1_of(classes, words, label, pl.Series([0, 1, 0, 0]).to_numpy()) == pytest.approx(2 / 3)
    assert entity_f1_of(("NOUN", "VERB"), words, label % 2, label % 2) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_word_that_is_missing_ends_an_entity(seed: int) -> None:
    """As if it were outside of all, by hand."""
    draw = random.Random(seed)
    classes = ["O", "B-X", "I-X", "I-Y"]
    rows, spans = [], ([], [])
    for text in range(40):
        tags = [[draw.randrange(4) for _ in range(draw.randint(1, 8))]]
        tags.append([each if draw.random() < 0.8 else draw.randrange(4) for each in tags[0]])
        kept = [draw.random() < 0.8 for _ in tags[0]]
        rows += [(text, at, tags[0][at], tags[1][at]) for at, there in enumerate(kept) if there]
        for found, own in zip(spans, tags, strict=True):
            outside = [classes[tag] if there else "O" for tag, there in zip(own, kept, strict=True)]
            found.extend((text, *span) for span in slow_spans(outside))
    words = pl.DataFrame(rows, schema=["text_id", "at", "label", "predicted"], orient="row")
    got = entity_f1_of(classes, words, words["label"].to_numpy(), words["predicted"].to_numpy())
    hits = len(set(spans[0]) & set(spans[1]))
    assert got == pytest.approx(2 * hits / (len(spans[0]) + len(spans[1])), abs=1e-12)
