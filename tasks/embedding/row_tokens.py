"""The tokens of some rows of a data set: of their texts, of both texts of pairs, or of texts whose words are rows."""

from collections.abc import Sequence
from typing import Any, cast

import polars as pl

from tasks.data.dataset import Dataset
from tasks.data.tagged_words import WORD_KEYS, word_lists
from tasks.embedding.settings import Settings
from tasks.embedding.text_pairs import texts_a_row, texts_of
from tasks.embedding.tokens import Tokens, tokenise
from tasks.embedding.words import read_texts, tokenise_words, tokens_of_words

UNCUT = 1 << 30
"""More tokens than any text has."""


def tokens_of_rows(tokenizer: Any, dataset: Dataset, table: pl.DataFrame, settings: Settings) -> Tokens:
    """table: some rows of the data set's, in their order; of words those of whole texts."""
    if dataset.words is not None:
        return tokens_of_words(tokenizer, dataset, table, settings.max_length)
    texts = texts_of(table)
    return tokenise(tokenizer, texts, settings.max_length, settings.long_texts, texts_a_row(table))


def uncut_texts(table: pl.DataFrame) -> list[str] | list[list[str]]:
    """The texts of all rows of a data set's table (`texts_of`), or the words of each."""
    if WORD_KEYS[0] in table.columns:
        words: list[list[str]] = word_lists(table)["words"].to_list()
        return words
    return texts_of(table)


def tokenise_uncut(tokenizer: Any, texts: Sequence[str] | Sequence[Sequence[str]]) -> Tokens:
    """`tokenise`, of texts or of the words of each."""
    if len(texts) and not isinstance(texts[0], str):
        return tokenise_words(tokenizer, texts, UNCUT)[0]
    return tokenise(tokenizer, cast(Sequence[str], texts), UNCUT)


def whole_texts(dataset: Dataset, table: pl.DataFrame) -> list[str]:
    """The texts that a model is given for all rows, those of words with spaces between these."""
    if dataset.words is not None:
        return [" ".join(words) for words in read_texts(dataset)]
    return texts_of(table)
