"""The reference says what the docstrings say."""

from tests.reference import PAGE, reference


def test_the_page_is_that_of_todays_docstrings() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "python -m tests.reference makes it anew"
