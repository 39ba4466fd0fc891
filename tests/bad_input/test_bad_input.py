"""Every case of docs/bad-input.md is seen as the page says, loses nothing that was there, and is foreseen."""

from pathlib import Path

import pytest

from tests.bad_input.case import UNFORESEEN, Case, see
from tests.bad_input.page import CASES, INTRODUCTION, PAGE, as_row


def test_the_page_has_a_row_for_each_case() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.startswith(INTRODUCTION)
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| given")]
    assert len(rows) == len(CASES) == len({(case.kind, case.given) for case in CASES})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.given}")
def test_what_the_page_says_is_what_is_seen(case: Case, tmp_path: Path) -> None:
    seen = see(case, tmp_path)
    assert as_row(case, seen) in PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
    assert UNFORESEEN not in seen.said
    assert "Traceback" not in seen.said
    # `rebuild` is there to write the database anew.
    assert seen.changed == () or case.command == "layerscout rebuild"
