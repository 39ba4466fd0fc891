"""Texts whose words have tags, as the shared tasks of CoNLL write them: a word a line, a blank line between texts."""

import re
from collections.abc import Iterator

import polars as pl

from storage.errors import UserError

ENDINGS = (".conll", ".conllu", ".iob", ".iob2", ".bio")
# Of CoNLL-U; what is missing here is of no use as a tag: word numbers, heads, lists of features.
_CONLLU = {1: "tokens", 2: "lemma", 3: "upos", 4: "xpos", 7: "deprel"}
_CONLLU_COLUMNS = 10
_NEW_DOCUMENT = "-DOCSTART-"
_UNSAID = "_"
# The numbers of CoNLL-U for several words, and for no token of the text.
_NO_WORD = re.compile(r"\d+[-.]\d+")
# Spaces of other kinds, as some languages have them inside a word, part nothing.
_SPACES = re.compile(r"[ \t]+")


def read_conll(text: str, ending: str, where: str) -> pl.DataFrame:
    """A row a text, a column of lists for each column of the file: List(String).

    The words are in `tokens`, which is the first column, and the last one is in `tags`; those between are `column_2` …
    Of CoNLL-U (`.conllu`) they are `tokens`, `lemma`, `upos`, `xpos` and `deprel`; words of several and of no token of
    the text (`1-2`, `1.1`) are left out, and so are comments; what is `_` there is null, but for a word. Columns are
    parted by tabs, or where a line has none by spaces. Documents' beginnings (`-DOCSTART-`) are no texts.

    Raises:
        UserError: a line has another number of columns than the first, or one alone, or there is no text; or the first
            column counts the words, so that they are in another.
    """
    is_conllu = ending == ".conllu"
    texts = [list(zip(*lines, strict=True)) for lines in _texts(text, where, is_conllu=is_conllu)]
    texts = [each for each in texts if each[0] != (_NEW_DOCUMENT,)]
    if not texts:
        raise UserError(f"{where} is empty: it holds no word.")
    if not is_conllu:
        _check_words([each[0] for each in texts], len(texts[0]), where)
    if is_conllu:
        names = _CONLLU
    else:
        last = len(texts[0]) - 1
        names = {0: "tokens"} | {at: f"column_{at + 1}" for at in range(1, last)} | {last: "tags"}

    def values(at: int, name: str) -> pl.Series:
        unsaid = _UNSAID if is_conllu and name != "tokens" else None
        lists = [[None if value == unsaid else value for value in each[at]] for each in texts]
        return pl.Series(name, lists, dtype=pl.List(pl.String))

    return pl.DataFrame([values(at, name) for at, name in names.items()])


def _check_words(texts: list[tuple[str, ...]], columns: int, where: str) -> None:
    """`UserError` where the first column counts 1, 2, 3 … in every text, as those of CoNLL-X and CoNLL-2009 do."""
    numbers = [[word for word in each if not _NO_WORD.fullmatch(word)] for each in texts]
    counts = all(each == [str(number + 1) for number in range(len(each))] for each in numbers)
    if counts and max(map(len, numbers)) > 1:
        named = "Name it .conllu" if columns == _CONLLU_COLUMNS else "Write it without that column"
        raise UserError(
            f"The first column of {where} counts the words of each text (1, 2, 3 …), and words are wanted there. "
            f"{named}, so that the words are read of the next one."
        )


def _texts(text: str, where: str, *, is_conllu: bool) -> Iterator[list[list[str]]]:
    """The lines of each text, as their columns."""
    wanted = _CONLLU_COLUMNS if is_conllu else 0
    found: list[list[str]] = []
    for number, whole in enumerate(text.split("\n"), start=1):
        line = whole.strip(" \r")
        if not line.strip():
            if found:
                yield found
            found = []
            continue
        if is_conllu and line.startswith("#"):
            continue
        columns = line.split("\t") if "\t" in line else _SPACES.split(line)
        wanted = wanted or max(len(columns), 2)
        if len(columns) != wanted:
            raise UserError(
                f"{where}, line {number:,} has {len(columns)} columns, and {wanted} are wanted"
                f"{' of CoNLL-U' if is_conllu else ', a word and its tags'}: {line!r:.60}. Texts are parted by a blank "
                "line."
            )
        if not (is_conllu and ("-" in columns[0] or "." in columns[0])):
            found.append([each.strip() for each in columns])
    if found:
        yield found
