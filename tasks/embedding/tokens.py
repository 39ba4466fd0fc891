"""Texts → token ids without padding, with the tokenizer's own special tokens. No model is needed for it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.errors import UserError

log = logging.getLogger(__name__)

_AT_ONCE = 4096
# Tokenizers of today split what they do not know into pieces that they do; in old ones a rare word is unknown.
MANY_UNKNOWN = 0.05
MOST_UNKNOWN = 0.5


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts without padding: int32 [length] each. counts: int32 [N]. truncated: bool [N].

    around: how many tokens before and after each text are none of its own, but a prompt's or special ones; None where
    nobody can tell.
    """

    ids: list[NDArray[np.int32]]
    counts: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    around: tuple[int, int] | None = None
    texts_a_row: int = 1
    """2 of pairs, whose texts stand side by side."""

    @property
    def row_counts(self) -> NDArray[np.int64]:
        """Tokens of each row: [N], of pairs [N / 2]."""
        return self.counts.reshape(-1, self.texts_a_row).sum(axis=1, dtype=np.int64)


def tokenise(tokenizer: Any, texts: Sequence[str], max_length: int, texts_a_row: int = 1) -> Tokens:
    """Tokenise without padding, with the tokenizer's own special tokens; longer texts are cut to `max_length`.

    texts_a_row: 2 of pairs, whose texts stand side by side.

    `UserError` names the first text of which no token is left.
    """
    ids: list[NDArray[np.int32]] = []
    for start in range(0, len(texts), _AT_ONCE):
        ids += _token_ids(tokenizer, texts[start : start + _AT_ONCE])
    truncated = np.array([len(each) > max_length for each in ids], dtype=np.bool_)
    long = [int(row) for row in np.flatnonzero(truncated)]
    # Again with truncation, not a plain cut, so that the closing special token stays.
    cut = _token_ids(tokenizer, [texts[row] for row in long], truncation=True, max_length=max_length)
    for row, each in zip(long, cut, strict=True):
        ids[row] = each
    counts = np.array([len(each) for each in ids], dtype=np.int32)
    if len(counts) and counts.min() == 0:
        first = int(np.argmin(counts))
        raise UserError(
            f"Row {first // texts_a_row} ({texts[first]!r}) has no token left after tokenising, so it has no "
            "embedding. Remove empty texts from the data set."
        )
    return Tokens(ids, counts, truncated, around_texts(tokenizer), texts_a_row)


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
