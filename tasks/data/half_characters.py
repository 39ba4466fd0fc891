"""Halves of characters, as a cut emoji leaves them: no tokenizer and no file can hold them."""

from storage.errors import UserError


def check_whole(text: str, what: str) -> None:
    """`UserError` where a text has one. what: which text it is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise half_character(f"{what} holds", error) from error


def half_character(what: str, error: UnicodeEncodeError) -> UserError:
    """That there is one, in words; what: where, with its verb."""
    return UserError(
        f"{what} {error.object[error.start]!r}, half of a character that no file can hold: {error.object[:40]!r}. Read "
        "the text in the encoding that it was written in, or take that out."
    )
