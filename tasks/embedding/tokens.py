"""Texts → token ids without padding, with the tokenizer's own special tokens. No model is needed for it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import UserError
from tasks.vocabulary import LongTexts

log = logging.getLogger(__name__)

_AT_ONCE = 4096
# Tokenizers of today split what they do not know into pieces that they do; in old ones a rare word is unknown.
MANY_UNKNOWN = 0.05
MOST_UNKNOWN = 0.5
OVERLAP = 4
"""Windows of a long text overlap by one in so many of their tokens at the least, those around the text left out."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts without padding: int32 [length] each. counts: int32 [N]. truncated: bool [N].

    around: how many tokens before and after each text are none of its own, but a prompt's or special ones; None where
    nobody can tell. long: where longer texts are split and not cut, all tokens of each of these by its row; `ids` has
    those of its first window.

    words: where words are embedded and not texts, of each text int32 [W, 2], the first token of each of some words and
    the one after its last.
    """

    ids: list[NDArray[np.int32]]
    counts: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    around: tuple[int, int] | None = None
    texts_a_row: int = 1
    """2 of pairs, whose texts stand side by side."""
    long: dict[int, NDArray[np.int32]] | None = None
    words: list[NDArray[np.int32]] | None = None

    def of(self, rows: NDArray[np.int64]) -> "Tokens":
        """Those of some texts."""
        long = self.long and {place: self.long[row] for place, row in enumerate(rows) if row in self.long}
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            counts=self.counts[rows],
            truncated=self.truncated[rows],
            long=long,
            words=self.words and [self.words[row] for row in rows],
        )

    @property
    def computed(self) -> NDArray[np.int32]:
        """How many tokens are computed for each text: int32 [N], those of all windows of a text that is split."""
        found = self.counts.copy()
        for row, whole in (self.long or {}).items():
            found[row] = tokens_in_windows(len(whole), len(self.ids[row]), sum(self.around or ()))
        return found

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first embedding of each text, and how many embeddings there are: int64 [N + 1], one a text or word."""
        each = [1] * len(self.ids) if self.words is None else [len(words) for words in self.words]
        return np.cumsum([0, *each])

    @property
    def row_counts(self) -> NDArray[np.int64]:
        """How many are computed for each row: [N], of pairs [N / 2]; of words, for each text."""
        return self.computed.reshape(-1, self.texts_a_row).sum(axis=1, dtype=np.int64)


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    long_texts: LongTexts = LongTexts.CUT,
    texts_a_row: int = 1,
) -> Tokens:
    """Tokenise without padding, with the tokenizer's own special tokens; texts beyond `max_length` are cut or split.

    texts_a_row: 2 of pairs, whose texts stand side by side.

    `UserError` names the first text of which no token is left, or says why texts cannot be split.
    """
    ids: list[NDArray[np.int32]] = []
    for start in range(0, len(texts), _AT_ONCE):
        ids += _token_ids(tokenizer, texts[start : start + _AT_ONCE])
    truncated = np.array([len(each) > max_length for each in ids], dtype=np.bool_)
    long = [int(row) for row in np.flatnonzero(truncated)]
    whole = None
    if long_texts is LongTexts.SPLIT:
        whole = {row: ids[row] for row in long}
        first = _first_windows(tokenizer, whole, max_length)
    else:
        # Again with truncation, not a plain cut, so that the closing special token stays.
        first = _token_ids(tokenizer, [texts[row] for row in long], truncation=True, max_length=max_length)
    for row, each in zip(long, first, strict=True):
        ids[row] = each
    counts = np.array([len(each) for each in ids], dtype=np.int32)
    if len(counts) and counts.min() == 0:
        emptied = int(np.argmin(counts))
        raise UserError(
            f"Row {emptied // texts_a_row} ({texts[emptied]!r}) has no token left after tokenising, so it has no "
            "embedding. Remove empty texts from the data set."
        )
    return Tokens(ids, counts, truncated, around_texts(tokenizer), texts_a_row, whole)


def window_starts(own: int, room: int) -> list[int]:
    """Where windows of `room` tokens begin in a text of `own` tokens, more than that, without those around it.

    As few as overlap by a quarter at the least, evenly spread: every window is full, the last one too, and ends with
    the text.
    """
    last = own - room
    windows = -(-last // (room - room // OVERLAP)) + 1
    return [window * last // (windows - 1) for window in range(windows)]


def tokens_in_windows(length: int, max_length: int, around: int) -> int:
    """Tokens of all windows of a text of `length` tokens, `around` of which are none of its own."""
    if length <= max_length:
        return length
    return max_length * len(window_starts(length - around, max_length - around))


def around_to_split(tokenizer: Any, max_length: int) -> tuple[int, int]:
    """`around_texts`; `UserError` where that cannot be told, or leaves no room in a window for a text's own tokens."""
    around = around_texts(tokenizer)
    if around is None:
        raise UserError(
            "Texts are split (--long-texts split) with a tokenizer of the tokenizers library, which tells a text's own "
            f"tokens from those around it; {type(tokenizer).__name__} is in plain Python. Take --long-texts cut."
        )
    before, after = around
    if max_length <= before + after:
        raise UserError(
            f"Of {max_length} tokens (--max-length) none is left for the text in a window: {before + after} stand "
            f"around it. Give at least {before + after + 1}."
        )
    return around


def _first_windows(
    tokenizer: Any, whole: Mapping[int, NDArray[np.int32]], max_length: int
) -> list[NDArray[np.int32]]:
    """Of longer texts."""
    before, after = around_to_split(tokenizer, max_length)
    of_word = tokenizer("a")["input_ids"]
    ends = of_word[:before] + of_word[len(of_word) - after :]
    found = []
    for row, ids in whole.items():
        ending = ids[len(ids) - after :]
        if ids[:before].tolist() + ending.tolist() != ends:
            raise UserError(
                f"{type(tokenizer).__name__} does not put the same tokens around every text (row {row}), so that texts "
                "cannot be split. Take --long-texts cut."
            )
        found.append(np.concatenate((ids[: max_length - after], ending)))
    return found


def around_texts(tokenizer: Any) -> tuple[int, int] | None:
    """How many tokens the tokenizer puts before and after every text: a prompt's and special ones.

    None of a tokenizer in plain Python, which may have no way to tell.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return None
    of_word = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    own = [place for place, is_special in enumerate(of_word) if not is_special]
    return (own[0], len(of_word) - 1 - own[-1]) if own else (0, 0)


def check_room(tokenizer: Any, max_length: int) -> None:
    """`UserError` where special tokens alone fill the maximum: tokenizers cut nothing then, or all of every text."""
    special = tokenizer.num_special_tokens_to_add()
    if special and max_length <= special:
        raise UserError(
            f"Of {max_length} tokens (--max-length) none is left for the text: the tokenizer adds {special} to each, "
            f"those of a prompt among them. Give at least {special + 1}."
        )


def check_known(tokens: Tokens, tokenizer: Any, model_id: str) -> None:
    """Warn where a share of the tokens is unknown to the tokenizer that no text of its languages has.

    Raises:
        UserError: most are: it is another model's tokenizer, or made for another script.
    """
    unknown = tokenizer.unk_token_id
    roles = [getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "cls", "sep", "pad", "mask")]
    # Where it has another role too, a tokenizer knows every byte and never means it (GPT-2, OPT).
    if unknown is None or unknown in roles or not tokens.ids:
        return
    ids = np.concatenate(tokens.ids)
    words = ids[~np.isin(ids, [each for each in roles if each is not None])]
    share = float((words == unknown).mean()) if len(words) else 0.0
    told = f"{share:.0%} of the tokens of these texts are unknown to the tokenizer of {model_id}"
    if share > MOST_UNKNOWN:
        raise UserError(
            f"{told}, so their embeddings say next to nothing of them. Is it the model's own tokenizer, and does the "
            "model know this language and script?"
        )
    if share > MANY_UNKNOWN:
        log.warning("%s", told)


def _token_ids(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[NDArray[np.int32]]:
    if not texts:
        return []
    encoded = tokenizer(
        list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False, **options
    )
    return [np.array(each, dtype=np.int32) for each in encoded["input_ids"]]
