"""Words of texts whose words have tags: which tokens are whose, and which words the model reads no token of."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import Dataset
from tasks.data.stored_table import fingerprint_table, read_table, store_table
from tasks.embedding.description import load_tokenizer
from tasks.embedding.model import ModelFolder, folder_here
from tasks.embedding.tokens import Tokens, around_texts, check_room, tokenise

log = logging.getLogger(__name__)

Spans = NDArray[np.int32]
"""[W, 2]: the first token of each word and the one after its last, counted within its text; −1 of a word that is cut,
or has no token."""
# Of it a tokenizer shows how it wants words handed over: in it are a first word, a later one and a sign.
_TRIED = ["The", "cat", "sat", "here", ",", "Tom"]


def tokenise_words(
    tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int
) -> tuple[Tokens, list[Spans]]:
    """As `tokenise`, of texts as lists of words, each word cut into tokens for itself; and the spans of every word.

    A word of which truncation takes a token is cut as a whole: `mean` and `first` are of the same words then.

    Raises:
        UserError: the tokenizer does not say which token is of which word.
    """
    check_has_words(tokenizer)
    handed = handed_over(texts, spaced=wants_spaces(tokenizer))
    whole = _encoded(tokenizer, handed)
    ids = [np.array(each, dtype=np.int32) for each in whole["input_ids"]]
    spans = [_spans_of(whole.word_ids(row), len(words)) for row, words in enumerate(texts)]
    truncated = np.array([len(each) > max_length for each in ids], dtype=np.bool_)
    long = [int(row) for row in np.flatnonzero(truncated)]
    if long:
        cut = _encoded(tokenizer, [handed[row] for row in long], truncation=True, max_length=max_length)
        for place, row in enumerate(long):
            ids[row] = np.array(cut["input_ids"][place], dtype=np.int32)
            left = _spans_of(cut.word_ids(place), len(texts[row]))
            is_whole = np.diff(left, axis=1) == np.diff(spans[row], axis=1)
            spans[row] = np.where(is_whole & (left >= 0), left, -1).astype(np.int32)
    counts = np.array([len(each) for each in ids], dtype=np.int32)
    if len(counts) and counts.min() == 0:
        row = int(np.argmin(counts))
        raise UserError(
            f"Text {row} ({' '.join(texts[row])!r:.60}) has no token left after tokenising, so its words have no "
            "embedding. Remove it from the data set."
        )
    return Tokens(ids, counts, truncated, around_texts(tokenizer)), spans


def check_has_words(tokenizer: Any) -> None:
    """`UserError` of a tokenizer in plain Python, which does not say which token is of which word."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(
            f"Tags are of words, and this model's tokenizer ({type(tokenizer).__name__}) is in plain Python: it does "
            "not say which token is of which word. Take a model with a tokenizer of the tokenizers library "
            "(tokenizer.json)."
        )


def read_texts(dataset: Dataset, first: int = 0, stop: int | None = None) -> list[list[str]]:
    """The words of some of the texts, by their numbers."""
    assert dataset.words is not None
    rows = range(first, dataset.texts if stop is None else stop)
    words: list[list[str]] = read_table(dataset.words, rows)["words"].to_list()
    return words


def read_words(tokens: Tokens, spans: Sequence[Spans]) -> tuple[Tokens, NDArray[np.bool_]]:
    """The tokens with the words that are read whole, and which of all words these are, bool [W].

    tokens and spans: as of `tokenise_words`, of texts of which none is without such a word.
    """
    whole = [(each >= 0).all(axis=1) for each in spans]
    own = [each[kept] for each, kept in zip(spans, whole, strict=True)]
    return replace(tokens, words=own), np.concatenate(whole)


def tokens_of_words(tokenizer: Any, dataset: Dataset, rows: pl.DataFrame, max_length: int) -> Tokens:
    """The texts of some rows of the data set's table, with the spans of these words; whole texts, in their order."""
    numbers = rows["text_id"].to_numpy()
    first, stop = int(numbers[0]), int(numbers[-1]) + 1
    tokens, spans = tokenise_words(tokenizer, read_texts(dataset, first, stop), max_length)
    starts = np.searchsorted(numbers, np.arange(first, stop + 1))
    at = rows["at"].to_numpy()
    own = [spans[text][at[starts[text] : starts[text + 1]]] for text in range(stop - first)]
    if any((each < 0).any() for each in own):
        raise RuntimeError(f"{dataset.uri} has words that are cut at {max_length} tokens")
    # A text whose every word is cut has no row.
    kept = [text for text, each in enumerate(own) if len(each)]
    return replace(tokens, words=own).of(np.array(kept, dtype=np.int64))


def without_cut_words(
    layout: Layout, dataset: Dataset, model: ModelFolder, max_length: int, *, trust_remote_code: bool = False
) -> Dataset:
    """The data set without the words that the model reads no token of, or not all, which is told; else as it is.

    Raises:
        UserError: no word is left in train or in test, or one tag alone.
    """
    folder = Path(folder_here(model, trust_remote_code=trust_remote_code))
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    check_has_words(tokenizer)
    check_room(tokenizer, max_length)
    _, spans = tokenise_words(tokenizer, read_texts(dataset), max_length)
    starts = np.cumsum([0, *(len(each) for each in spans)])
    table = read_table(dataset.uri)
    every = np.concatenate(spans)[:, 0]
    place = starts[table["text_id"].to_numpy()] + table["at"].to_numpy()
    kept = table.filter(pl.Series(every[place] >= 0))
    cut = table.height - kept.height
    if not cut:
        return dataset
    rows = {split: kept.filter(split=split) for split in ("train", "test")}
    if rows["test"].is_empty() or rows["train"]["label"].n_unique() < 2:
        raise UserError(
            f"Of {table.height:,} words of {dataset.id} {cut:,} lie beyond the {max_length} tokens of a text that are "
            "read, and those that are left have no two tags in train, or none in test. Raise --max-length."
        )
    log.warning(
        "%s of %s words of %s have no embedding, since they lie beyond the %s tokens of a text that are read "
        "(--max-length) or have no token: they are not scored",
        f"{cut:,}",
        f"{table.height:,}",
        dataset.id,
        f"{max_length:,}",
    )
    kept = kept.with_columns(row_id=pl.int_range(pl.len(), dtype=pl.Int64))
    fingerprint = fingerprint_table(kept, dataset.classes)
    store_table(layout.dataset(fingerprint), kept)
    return replace(
        dataset,
        fingerprint=fingerprint,
        uri=layout.dataset(fingerprint),
        train_rows=rows["train"].height,
        test_rows=rows["test"].height,
        cut_words=cut,
    )


def wants_spaces(tokenizer: Any) -> bool:
    """Whether all words but the first are handed over with a space before them, to have the tokens of the whole text.

    Most tokenizers look at each word as it is. To GPT-2's and its like a space belongs to the word behind it.
    """
    of_text = tokenise(tokenizer, [" ".join(_TRIED)], 1 << 30).ids[0].tolist()
    plain, spaced = (
        tokenizer(words, is_split_into_words=True)["input_ids"]
        for words in (_TRIED, [_TRIED[0], *(f" {word}" for word in _TRIED[1:])])
    )
    return bool(plain != of_text and spaced == of_text)


def handed_over(texts: Sequence[Sequence[str]], *, spaced: bool) -> list[list[str]]:
    """The words of each text as the tokenizer wants them (`wants_spaces`)."""
    return [[words[0], *(f" {word}" for word in words[1:])] if spaced else list(words) for words in texts]


def _encoded(tokenizer: Any, texts: Sequence[Sequence[str]], **options: Any) -> Any:
    return tokenizer(
        [list(words) for words in texts],
        is_split_into_words=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
        **options,
    )


def _spans_of(word_ids: Sequence[int | None], words: int) -> Spans:
    spans = np.full((words, 2), -1, dtype=np.int32)
    for place, word in enumerate(word_ids):
        if word is not None:
            spans[word, 0] = place if spans[word, 0] < 0 else spans[word, 0]
            spans[word, 1] = place + 1
    return spans
