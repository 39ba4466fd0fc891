"""`python -m tests.bad_input`: write docs/bad-input.md anew from what every case does today."""

from tests.bad_input.page import PAGE, written

PAGE.write_text(written(), encoding="utf-8")
